"""Every file of the shared data is read with the right numbers or refused by name, as docs/formats.md says."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest

from wardround.clock import SystemClock
from wardround.collect.files.folder import opened
from wardround.collect.files.formats import read
from wardround.collect.files.opened import Known
from wardround.collect.signals import load_signals
from wardround.errors import DecodeError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT.parent / "shared" / "data" / "formats"
NOT_MEASURED = ("null", "0")  # so the tools print what the file marks as not measured
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} is not here")


def series(name):
    """Times from the first sample in seconds, and samples, by signal."""
    found: dict[str, list[tuple[float, float]]] = {}
    with opened(FOLDER / name) as file:
        for item in read(file, Known(SystemClock().now_us(), start_us=0)):
            with contextlib.suppress(DecodeError):  # what the code table does not know
                if isinstance(item, DecodeError):
                    continue
                signal, reading = load_signals().canonical(item)
                if reading.text is not None:
                    continue
                times = (reading.t_us + reading.offsets()) / 1e6
                found.setdefault(signal.key, []).extend(zip(times.tolist(), reading.samples().tolist(), strict=True))
    return found


def test_the_page_says_what_is_read():
    spec = importlib.util.spec_from_file_location("formats_table", ROOT / "scripts" / "formats_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.written() == module.table(FOLDER), "python scripts/formats_table.py FOLDER --write"


def measured(row, columns):
    return row[next(c for c, signal in columns.items() if signal == "distance")] != "null"


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        (
            "garmin-edge-500-activity",
            {"heart_rate": "heart-rate", "cadence": "cadence", "speed": "speed", "distance": "distance"},
        ),
        ("garmin-fenix-5-run", {"heart_rate": "heart-rate", "cadence": "cadence", "speed": "speed", "distance": "distance"}),
        (
            "compressed-speed-distance",
            {"Heart Rate [bpm]": "heart-rate", "Cadence [rpm]": "cadence", "Speed [m/s]": "speed", "Distance [m]": "distance"},
        ),
    ],
)
def test_a_watchs_numbers_are_those_of_its_makers_tool(name, columns):
    with (FOLDER / "fit" / f"{name}-records.csv").open() as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    found = series(f"fit/{name}.fit")
    row_at = {t: row for (t, _), row in zip(found["distance"], [r for r in rows if measured(r, columns)], strict=True)}
    for column, signal in columns.items():
        values = dict(found[signal])
        assert len(values) > 0.95 * len(row_at)
        for t, row in row_at.items():
            if t in values:
                assert values[t] == pytest.approx(float(row[column]), abs=1e-9), f"{column} {t}"
            else:
                assert row[column] in NOT_MEASURED


@pytest.mark.filterwarnings("ignore:::wfdb")
@pytest.mark.parametrize(
    ("name", "signals"),
    [
        ("100", {"ecg-ii": 0, "ecg-v5": 1}),
        ("a103l", {"ecg-ii": 0, "ecg-v": 1, "ppg": 2}),
        ("multi-segment/041s/041s01", {"ecg-iii": 0, "ecg-i": 1, "ecg-v": 2, "arterial-pressure": 3, "pulmonary-pressure": 4}),
        ("multi-segment/041s/041s02", {"ecg-iii": 0, "ecg-i": 1, "ecg-v": 2, "arterial-pressure": 3, "pulmonary-pressure": 4}),
    ],
)
def test_a_records_numbers_are_those_of_the_reference(name, signals):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wfdb
    record = wfdb.rdrecord(str(FOLDER / "wfdb" / name), smooth_frames=False)
    found = series(f"wfdb/{name}.hea")
    for signal, place in signals.items():
        expected = np.asarray(record.e_p_signal[place])
        times = np.arange(len(expected)) / (record.fs * record.samps_per_frame[place])
        there = ~np.isnan(expected)
        np.testing.assert_allclose([v for _, v in found[signal]], expected[there], rtol=1e-12, atol=1e-12)
        begin = found[signal][0][0]
        np.testing.assert_allclose(np.array([t for t, _ in found[signal]]) - begin, times[there] - times[there][0], atol=2e-6)


def test_a_scale_a_rhythm_and_the_beats():
    weight = series("fit/WeightScaleSingleUser.fit")
    np.testing.assert_allclose([v for _, v in weight["body-weight"]], [75.8, 76.09], atol=1e-9)
    beats = series("wfdb/100.atr")["beat-label"]
    assert (len(beats), sum(v for _, v in beats)) == (2273, 1)  # one premature ventricular beat, as PhysioNet's tables say


def test_storage_formats_hold_their_own_checksums():
    with opened(FOLDER / "wfdb" / "binformats.hea") as file:
        readings = list(read(file, Known(0, start_us=0)))
    assert not [r for r in readings if isinstance(r, DecodeError)]
    assert len(readings) == 10
