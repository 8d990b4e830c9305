"""The count at the end of the demo, against what devices were receipted."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.demo.harness import _clear
from wardround.demo.ledger import Ledger, Run, checksum
from wardround.demo.patients import simulate_patient
from wardround.demo.plan import make_plan
from wardround.demo.report import StoredRun, count
from wardround.errors import WardroundError
from wardround.records import Consent


def run(seq=1, code="c", travels=1, sum_=7, n=10):
    return Run("d", "b", seq, code, n, sum_, travels)


def row(seq=1, code="c", index=0, sum_=7, n=10):
    return StoredRun(("d", "b", seq, code), index, n, sum_)


@pytest.mark.parametrize(
    ("ledger", "stored", "expected"),
    [
        ([run(1), run(2)], [row(1), row(2)], {}),
        ([run(1), run(2)], [row(1)], {"lost": 1}),
        ([run(1)], [row(1), row(1)], {"duplicated": 1}),
        ([run(1)], [row(1, sum_=8)], {"altered": 1}),
        ([run(1)], [row(1, n=9)], {"altered": 1}),
        ([run(1, travels=0)], [row(1)], {"leaked": 1}),
        ([run(1, travels=0)], [], {}),
        ([], [row(1)], {}),  # on its way when the devices stopped: not receipted yet, and stored
    ],
)
def test_what_is_lost_doubled_altered_or_leaked_is_counted(ledger, stored, expected):
    counted = count(ledger, stored, 0)
    found = {k: getattr(counted, k) for k in ("lost", "duplicated", "altered", "leaked") if getattr(counted, k)}
    assert found == expected


def test_a_checksum_sees_any_change():
    values = np.array([1.0, 2.0, 3.0])
    base = checksum(5, values)
    assert base == checksum(5, values + 1e-9)
    assert len({base, checksum(6, values), checksum(5, values[::-1]), checksum(5, values[:2]), checksum(5, values + 1e-3)}) == 5


def test_the_ledger_is_there_after_a_restart(tmp_path):
    ledger = Ledger(tmp_path / "l.sqlite")
    ledger.put([run(1), run(2)])
    ledger.put([run(2)])
    ledger.close()
    again = Ledger(tmp_path / "l.sqlite")
    assert list(again.runs()) == [run(1), run(2)]
    again.close()


def test_the_same_seed_gives_the_same_patient_and_all_are_labelled_simulated():
    first, second = (simulate_patient("p", "d", seed=3, duration_s=60.0) for _ in range(2))
    assert first.simulated
    np.testing.assert_array_equal(first.tracks[0].counts, second.tracks[0].counts)
    other = simulate_patient("p", "d", seed=4, duration_s=60.0)
    assert not np.array_equal(first.tracks[0].counts, other.tracks[0].counts)


def test_messages_hold_every_sample_once():
    recording = simulate_patient("p", "d", seed=3, duration_s=61.0)
    sent: dict[str, list[int]] = {}
    for _, readings in recording.messages(7.0):
        for reading in readings:
            if reading.values is not None:
                sent.setdefault(reading.name, []).extend(np.frombuffer(reading.values, "<" + reading.values_type))
    for track in recording.tracks:
        np.testing.assert_array_equal(sent[track.key], track.counts)


def test_a_plan_holds_patients_back_and_has_every_consent():
    plan = make_plan(None, edges=4, seed=1)
    devices = [d for e in plan.edges for d in e.devices]
    assert {d.consent for d in devices} == {Consent.RAW, Consent.LOCAL, Consent.NONE}
    assert all(any(d.held_back for d in e.devices) for e in plan.edges)
    assert len({d.device for d in devices}) == len(devices)


def test_a_folder_without_recordings_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(WardroundError, match="holds no recordings") as refused:
        make_plan(tmp_path, edges=4, seed=1)
    assert "parquet" in refused.value.remedy


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(WardroundError, match="no demo made it"):
        _clear(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
    _clear(tmp_path / "new")
    (tmp_path / "new" / "old-run").write_text("x")
    _clear(tmp_path / "new")
    assert not (tmp_path / "new" / "old-run").exists()


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # the library's use of pandas
def test_wfdb_records_are_found_and_replayed_as_they_are(tmp_path):
    wfdb, folder = pytest.importorskip("wfdb"), str(tmp_path)
    for number in range(5):
        recording = simulate_patient("p", "d", seed=number, duration_s=30.0)
        ecg, beats = recording.tracks[0], recording.events[0]
        counts = ecg.counts.astype(np.int64).reshape(-1, 1)
        wfdb.wrsamp(
            f"r{number}",
            250,
            ["mV"],
            ["MLII"],
            d_signal=counts,
            fmt=["16"],
            adc_gain=[200.0],
            baseline=[0],
            write_dir=folder,
        )
        symbols = ["V" if label else "N" for label in beats.counts]
        wfdb.wrann(f"r{number}", "atr", np.round(beats.times_s * 250).astype(int), symbols, write_dir=folder, fs=250)
    (tmp_path / "notes.hea").write_text("not a record\n")
    plan = make_plan(tmp_path, edges=4, seed=1)
    assert (plan.task, plan.simulated) == ("ventricular-beats", False)
    devices = [d for e in plan.edges for d in e.devices]
    assert len(devices) == 5
    assert any(d.held_back for d in devices)
    opened = next(d for d in devices if d.device == "device-r0").open()
    original = simulate_patient("p", "d", seed=0, duration_s=30.0)
    np.testing.assert_array_equal(opened.tracks[0].counts, original.tracks[0].counts)
    assert opened.tracks[0].scale == 1 / 200
    np.testing.assert_array_equal(opened.events[0].counts, original.events[0].counts)
    assert not opened.simulated
