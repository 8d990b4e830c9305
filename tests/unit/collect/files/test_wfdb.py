"""WFDB records against the reference library, which writes them and reads them; and damaged in every way."""

from __future__ import annotations

import contextlib
import warnings
from datetime import UTC, date, datetime, time
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.collect.files import wfdb as ours
from wardround.collect.files import wfdb_annotations, wfdb_header, wfdb_samples
from wardround.collect.files.folder import opened
from wardround.collect.files.opened import Known, in_memory
from wardround.errors import DecodeError
from wardround.records import Quality

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the reference's own, about its dependencies
    import wfdb

pytestmark = pytest.mark.filterwarnings("ignore:::wfdb")
NOW_US = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000
KNOWN = Known(NOW_US, start_us=0)
BITS = {"8": 8, "80": 8, "16": 16, "61": 16, "160": 16, "212": 12, "310": 10, "311": 10, "24": 24, "32": 32}
BITS |= {"508": 8, "516": 16, "524": 24}


def samples(items, name):
    found = [r for r in items if getattr(r, "name", "") == name]
    return np.concatenate([r.samples() for r in found]) if found else np.empty(0)


def counts(format_, n, seed):
    """A wandering signal that fills the format's range, without its value for "no sample"."""
    rng = np.random.default_rng(seed)
    if format_ == "8":
        return np.cumsum(rng.integers(-120, 120, n))
    half = 2 ** (BITS[format_] - 1)
    return rng.integers(-half + 1, half, n)


def write(folder, format_, *, n=1000, signals=2, **more):
    written = np.column_stack([counts(format_, n, seed) for seed in range(signals)])
    wfdb.wrsamp(
        "rec",
        fs=more.pop("fs", 250),
        units=["mV"] * signals,
        sig_name=["I", "II", "V1"][:signals],
        d_signal=written.astype(np.int64),
        fmt=[format_] * signals,
        adc_gain=[200.0] * signals,
        baseline=[17] * signals,
        write_dir=str(folder),
        **more,
    )
    return written


@pytest.mark.parametrize("format_", ["16", "24", "32", "80", "212", "508", "516", "524"])
def test_what_the_reference_writes_is_read(tmp_path, format_):
    written = write(tmp_path, format_, n=1001)
    with opened(tmp_path / "rec.hea") as file:
        items = list(ours.read(file, KNOWN))
    assert not [i for i in items if isinstance(i, DecodeError)]
    for i, name in enumerate(["I", "II"]):
        np.testing.assert_allclose(samples(items, name), (written[:, i] - 17) / 200, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [99, 100, 101])
@pytest.mark.parametrize("format_", sorted(wfdb_samples.PACKED))
def test_any_bytes_read_as_the_reference_reads_them(tmp_path, format_, n):
    size = wfdb_samples.bytes_for(format_, 2 * n)
    data = np.random.default_rng(n).integers(0, 256, size, dtype=np.uint8)
    if format_ == 311:
        data[3::4] &= 0x3F  # two bits have no meaning, and the reference reads one of them
    (tmp_path / "r.dat").write_bytes(data.tobytes())
    line = f"r.dat {format_} 200(17)/mV 16 0 5"
    (tmp_path / "r.hea").write_text(f"r 2 250 {n}\n{line}\n{line}\n")
    reference = wfdb.rdrecord(str(tmp_path / "r")).p_signal
    header = f"r 2 250 {n}\n{line} 0 0 I\n{line} 0 0 II\n"
    with opened(tmp_path / "r.hea") as file:
        group = next(ours._groups(file, wfdb_header.parse(header.encode())))
        read = np.concatenate([np.column_stack(parts) for _, parts in group.blocks()])
    valid = ~np.isnan(reference)
    np.testing.assert_allclose(((read - 17) / 200)[valid], reference[valid], rtol=1e-12, atol=1e-12)
    assert set(read[~valid].tolist()) <= {wfdb_samples.INVALID.get(format_)}


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    written = write(tmp_path, "212", n=5000, signals=3)
    monkeypatch.setattr(ours, "BLOCK_SAMPLES", 1)
    with opened(tmp_path / "rec.hea") as file:
        items = list(ours.read(file, KNOWN))
    np.testing.assert_allclose(samples(items, "V1"), (written[:, 2] - 17) / 200, atol=1e-12)
    starts = [r.t_us for r in items if r.name == "V1"]
    assert starts == sorted(starts)
    assert not any(r.flags & Quality.GAP_BEFORE for r in items)


def test_several_samples_a_frame_have_their_own_frequency(tmp_path):
    (tmp_path / "multi.hea").write_text(
        "multi 2 125 3\nmulti.dat 16x4 100/mV 16 0 1 78 0 II\nmulti.dat 16 1/% 16 0 97 291 0 SpO2\n"
    )
    rows = [[1, 2, 3, 4, 97], [5, 6, 7, 8, 97], [9, 10, 11, 12, 97]]
    (tmp_path / "multi.dat").write_bytes(np.array(rows, "<i2").tobytes())
    with opened(tmp_path / "multi.hea") as file:
        lead, oxygen = list(ours.read(file, KNOWN))
    assert lead.period_us == 2000.0
    np.testing.assert_allclose(lead.samples(), np.arange(1, 13) / 100)
    assert (oxygen.unit, oxygen.period_us, oxygen.samples().tolist()) == ("%", 8000.0, [97.0, 97.0, 97.0])


def test_segments_follow_each_other_and_a_hole_is_a_gap(tmp_path):
    data = np.arange(100, dtype="<i2")
    for name in ("s1", "s2"):
        (tmp_path / f"{name}.hea").write_text(f"{name} 1 100 100\n{name}.dat 16 1/mV 16 0 0 {int(data.sum())} 0 II\n")
        (tmp_path / f"{name}.dat").write_bytes(data.tobytes())
    (tmp_path / "all.hea").write_text("all/3 1 100 250 10:00:00 01/03/2026\ns1 100\n~ 50\ns2 100\n")
    with opened(tmp_path / "all.hea") as file:
        first, second = list(ours.read(file, Known(NOW_US, ZoneInfo("Europe/Vienna"))))
    assert first.t_us == int(datetime(2026, 3, 1, 9, tzinfo=UTC).timestamp()) * 1_000_000
    assert second.t_us - first.t_us == 1_500_000
    assert not first.flags & Quality.GAP_BEFORE
    assert second.flags & Quality.GAP_BEFORE


def test_samples_that_are_none_cut_the_run(tmp_path):
    data = np.array([1, 2, -32768, 4, 5], "<i2")
    (tmp_path / "r.hea").write_text("r 1 1 5\nr.dat 16 1/mV 16 0 1 -32756 0 II\n")
    (tmp_path / "r.dat").write_bytes(data.tobytes())
    with opened(tmp_path / "r.hea") as file:
        first, second = list(ours.read(file, KNOWN))
    assert first.samples().tolist() == [1.0, 2.0]
    assert (second.samples().tolist(), second.t_us) == ([4.0, 5.0], 3_000_000)
    assert second.flags & Quality.GAP_BEFORE


def test_skew_moves_a_signal_back(tmp_path):
    (tmp_path / "r.hea").write_text("r 1 1 4\nr.dat 16:2 1/mV 16 0 1 10 0 II\n")
    (tmp_path / "r.dat").write_bytes(np.array([1, 2, 3, 4], "<i2").tobytes())
    with opened(tmp_path / "r.hea") as file:
        [reading] = list(ours.read(file, KNOWN))
    assert (reading.samples().tolist(), reading.t_us) == ([3.0, 4.0], 0)


def test_a_clock_without_a_zone_leaves_hours_open(tmp_path):
    write(tmp_path, "16", base_time=time(8, 26, 4), base_date=date(1994, 10, 26))
    with opened(tmp_path / "rec.hea") as file:
        reading = next(ours.read(file, Known(NOW_US)))
    assert reading.t_error_us == 14 * 3_600_000_000
    assert reading.flags & Quality.CLOCK_UNSYNCED


def why(header, data, **parts):
    files = {"r.dat": np.asarray(data, "<i2").tobytes()} | parts
    try:
        items = list(ours.read(in_memory(header.encode(), "r.hea", files), KNOWN))
    except DecodeError as error:
        return error.reason
    return ",".join(i.reason for i in items if isinstance(i, DecodeError))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("r 1 100 4\nr.dat 16 1/mV 16 0 1 10 0 II", ""),
        ("r 1 100 4\nr.dat 16 1/mV 16 0 1 11 0 II", "checksum"),
        ("r 1 100 5\nr.dat 16 1/mV 16 0 1 10 0 II", "truncated"),
        ("r 1 100 4\nr.dat 16 0/mV 16 0 1 10 0 II", "uncalibrated"),
        ("r 1 100 4\nr.dat 16", "uncalibrated"),
        ("r 1 100 4\nr.dat 99 1/mV", "format-not-read"),
        ("r 1 100 4\n../r.dat 16 1/mV", "part-missing"),
        ("r 2 100 4\nr.dat 16 1/mV", "truncated"),
        ("r 2 100 2\nr.dat 16 1/mV 16 0 1 4 0 II\nr.dat 16 1/mV 16 0 2 6 0 MLII", "same-signal"),
        ("r 2 100 2\nr.dat 16 1/mV 16 0 1 4 0 I\nr.dat 212 1/mV 16 0 2 6 0 II", "malformed-wfdb"),
        ("r 0 100", "no-measurements"),
        ("r/1 1 100 4\ngone 4", "part-missing"),
        ("r 1 0 4\nr.dat 16 1/mV", "malformed-wfdb"),
        ("r 1 1e99 4\nr.dat 16 1/mV", "malformed-wfdb"),
        ("r 1 100 999999999999999\nr.dat 16 1/mV", "too-large"),
        ("", "malformed-wfdb"),
    ],
)
def test_what_does_not_hold_is_refused_by_name(header, reason):
    assert why(header, [1, 2, 3, 4]) == reason


def test_a_header_may_not_reach_out_of_its_folder(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 8)
    (tmp_path / "inner" / "r.hea").write_text("r 1 100 4\n../secret 16 1/mV")
    with opened(tmp_path / "inner" / "r.hea") as file, pytest.raises(DecodeError) as caught:
        list(ours.read(file, KNOWN))
    assert caught.value.reason == "part-name"


def test_a_date_that_is_none_is_refused():
    with pytest.raises(DecodeError) as caught:
        wfdb_header.parse(b"r 1 100 4 25:00:00 31/02/2020\nr.dat 16 1/mV")
    assert caught.value.reason == "time"


def test_annotations_as_the_reference_wrote_them(tmp_path):
    at = np.array([100, 2000, 500_000, 500_300, 500_500])
    wfdb.wrann("rec", "atr", at, ["N", "+", "V", "|", "N"], aux_note=["", "(AFIB", "", "", ""], fs=250, write_dir=str(tmp_path))
    (tmp_path / "rec.hea").write_text("rec 0 250 600000\n")
    with opened(tmp_path / "rec.atr") as file:
        items = list(wfdb_annotations.read(file, KNOWN))
    runs = [r for r in items if getattr(r, "name", "") == "beat-label"]
    beats = [(r.t_us + int(o), v) for r in runs for o, v in zip(r.offsets(), r.samples(), strict=True)]
    assert beats == [(400_000, 0.0), (2_000_000_000, 1.0), (2_002_000_000, 0.0)]
    [rhythm] = [r for r in items if getattr(r, "name", "") == "rhythm"]
    assert (rhythm.text, rhythm.t_us) == ("AFIB", 8_000_000)
    [rest] = [r for r in items if isinstance(r, DecodeError)]
    assert rest.reason == "remarks-not-taken"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
def test_rubbish_annotations_are_read_or_refused(data):
    with contextlib.suppress(DecodeError):
        list(wfdb_annotations.parse_annotations(data))


LINE = st.sampled_from(
    ["r 2 100 4", "r/2 1 100 8", "r 1", "r.dat 16 1/mV 16 0 1 10 0 II", "r.dat 212x3:2+1 2(3)/NU", "~ 4", "r 4"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINE | st.text(alphabet="r1 ./x:+()~-#\n", max_size=30), max_size=5), st.binary(max_size=64))
def test_rubbish_headers_are_read_or_refused(lines, data):
    header = "\n".join(lines).encode()
    with contextlib.suppress(DecodeError):
        list(ours.read(in_memory(header, "r.hea", {"r.dat": data, "r.hea": header}), KNOWN))
