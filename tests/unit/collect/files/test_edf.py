"""EDF, EDF+ and BDF: built here by the specification's rules, and damaged in every way."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.collect.files import edf
from wardround.collect.files.opened import Known, in_memory
from wardround.errors import DecodeError
from wardround.records import Quality, Validity

NOW_US = int(datetime(2026, 11, 1, tzinfo=UTC).timestamp()) * 1_000_000
ECG = {"label": "ECG II", "unit": "mV", "low": -5, "high": 5, "dlow": -2048, "dhigh": 2047}


def edf_file(signals, records, *, kind="EDF+C", recording="Startdate 01-MAR-2026 X X X", record_s=1, date="01.03.26", **more):
    """`records`: a list of lists of samples (or bytes of annotations), one a signal."""
    width = more.get("width", 2)

    def cell(value, size):
        return str(value).encode().ljust(size)[:size]

    counts = [len(records[0][i]) // (2 if isinstance(records[0][i], bytes) else 1) for i in range(len(signals))]
    first = b"\xffBIOSEMI" if width == 3 else b"0       "
    head = first + cell("X X X X", 80) + cell(recording, 80) + cell(date, 8) + cell(more.get("time", "10.00.00"), 8)
    head += cell(256 * (len(signals) + 1), 8) + cell(kind, 44) + cell(more.get("count", len(records)), 8)
    head += cell(record_s, 8) + cell(len(signals), 4)
    columns = [("label", 16), ("", 80), ("unit", 8), ("low", 8), ("high", 8), ("dlow", 8), ("dhigh", 8), ("", 80)]
    for key, size in columns:
        head += b"".join(cell(s.get(key, ""), size) for s in signals)
    head += b"".join(cell(n, 8) for n in counts) + b" " * 32 * len(signals)
    body = b""
    for record in records:
        for part in record:
            if isinstance(part, bytes):
                body += part
            elif width == 3:
                body += b"".join((int(v) & 0xFFFFFF).to_bytes(3, "little") for v in part)
            else:
                body += np.asarray(part, "<i2").tobytes()
    return head + body


def notes(onset, *texts, size=60):
    """The annotation channel of one record: when it begins, and texts with their onsets."""
    data = b"+%s\x14\x14\0" % str(onset).encode()
    data += b"".join(b"+%s\x14%s\x14\0" % (str(on).encode(), text.encode()) for on, text in texts)
    return data.ljust(size, b"\0")


NOTES = {"label": "EDF Annotations", "low": -1, "high": 1, "dlow": -32768, "dhigh": 32767}


def read(data, **known):
    return list(edf.read(in_memory(data), Known(NOW_US, **({"zone": UTC} | known))))


def reason(data):
    try:
        items = read(data)
    except DecodeError as error:
        return error.reason
    return ",".join(i.reason for i in items if isinstance(i, DecodeError))


def samples(items, name="ECG II"):
    return np.concatenate([r.samples() for r in items if getattr(r, "name", "") == name])


START_US = int(datetime(2026, 3, 1, 10, tzinfo=UTC).timestamp()) * 1_000_000


def test_counts_become_physical_values_at_their_time():
    items = read(edf_file([ECG], [[[-2048, 0, 2047, 1]], [[5, 6, 7, 8]]]))
    [reading] = items
    scale = 10 / 4095
    expected = [-5 + (c + 2048) * scale for c in (-2048, 0, 2047, 1, 5, 6, 7, 8)]
    np.testing.assert_allclose(reading.samples(), expected, atol=1e-12)
    assert (reading.t_us, reading.period_us, reading.unit, reading.also) == (START_US, 250_000.0, "mV", ("ecg-ii",))


def test_the_zone_is_the_recorders():
    [reading] = read(edf_file([ECG], [[[1, 2]]]), zone=ZoneInfo("Europe/Vienna"))
    assert reading.t_us == START_US - 3_600_000_000
    [reading] = read(edf_file([ECG], [[[1, 2]]]), zone=None)
    assert reading.t_error_us == 14 * 3_600_000_000
    assert reading.flags & Quality.CLOCK_UNSYNCED


def test_the_first_record_may_begin_within_a_second():
    [reading] = read(edf_file([ECG, NOTES], [[[1, 2], notes(0.25)]]))
    assert reading.t_us == START_US + 250_000


def test_a_hole_in_a_discontinuous_recording_is_a_gap():
    records = [[[1, 2], notes(0)], [[3, 4], notes(1)], [[5, 6], notes(10.5)]]
    first, second = read(edf_file([ECG, NOTES], records, kind="EDF+D"))
    assert (first.n, second.n) == (4, 2)
    assert second.t_us == START_US + 10_500_000
    assert second.flags & Quality.GAP_BEFORE
    assert not first.flags & Quality.GAP_BEFORE


def test_bdf_has_three_bytes_a_sample():
    channel = ECG | {"unit": "uV", "low": -262144, "high": 262143, "dlow": -8388608, "dhigh": 8388607}
    [reading] = read(edf_file([channel], [[[-8388608, -1, 0, 8388607]]], width=3, kind="24BIT"))
    scale = (262143 + 262144) / (2**24 - 1)
    np.testing.assert_allclose(reading.samples(), [-262144 + (c + 8388608) * scale for c in (-8388608, -1, 0, 8388607)])


def test_a_count_outside_the_digital_range_is_doubted():
    [reading] = read(edf_file([ECG], [[[0, 3000]]]))
    assert reading.validity == Validity.QUESTIONABLE


def test_channels_of_different_rates():
    other = {"label": "SpO2", "unit": "%", "low": 0, "high": 100, "dlow": 0, "dhigh": 1000}
    items = read(edf_file([ECG, other], [[[1, 2, 3, 4], [970]], [[5, 6, 7, 8], [975]]]))
    np.testing.assert_allclose(samples(items, "SpO2"), [97.0, 97.5])


def test_sleep_stages_are_words_and_free_text_is_not_taken():
    record = [[1, 2], notes(0, (0, "Sleep stage W"), (0.5, "Sleep stage 2"), (0.7, "Mrs Miller asks for water"), size=120)]
    items = read(edf_file([ECG, NOTES], [record]))
    stages = [(r.text, r.t_us - START_US) for r in items if getattr(r, "name", "") == "sleep-stage"]
    assert stages == [("W", 0), ("N2", 500_000)]
    assert "Miller" not in "".join(str(i) for i in items)
    assert items[-1].reason == "remarks-not-taken"


def test_beats_need_an_ecg_and_nothing_but_symbols():
    record = [[1, 2], notes(0, (0.1, "N"), (0.5, "V"))]
    beats = [r for r in read(edf_file([ECG, NOTES], [record])) if getattr(r, "name", "") == "beat-label"]
    assert [v for r in beats for v in r.samples()] == [0.0, 1.0]
    other = {**ECG, "label": "EEG Fpz-Cz"}
    assert reason(edf_file([other, NOTES], [record])) == "remarks-not-taken"


GOOD = edf_file([ECG, NOTES], [[[1, 2], notes(0)], [[3, 4], notes(1)]])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (GOOD, ""),
        (GOOD[:-1], "truncated"),
        (GOOD[:700], "truncated"),
        (GOOD + b"\0", "trailing-bytes"),
        (GOOD[:184] + b"999     " + GOOD[192:], "malformed-edf"),
        (edf_file([ECG], [[[1, 2]]], count=-1), ""),
        (edf_file([ECG], [[[1, 2]]], count=-1) + b"\0", "truncated"),
        (edf_file([ECG], [[[1, 2]]], count=9), "truncated"),
        (edf_file([ECG], [[[1, 2]]], date="31.02.26", recording=""), "time"),
        (edf_file([ECG], [[[1, 2]]], time="25.00.00", recording=""), "time"),
        (edf_file([ECG], [[[1, 2]]], recording="Startdate 02-MAR-2026 X X X"), "time"),
        (edf_file([ECG], [[[1, 2]]], recording="Startdate X X X X"), "no-date"),
        (edf_file([ECG | {"high": -5}], [[[1, 2]]]), "uncalibrated"),
        (edf_file([ECG | {"dhigh": -2048}], [[[1, 2]]]), "uncalibrated"),
        (edf_file([ECG | {"low": "-5,0"}], [[[1, 2]]]), "malformed-edf"),
        (edf_file([ECG, ECG], [[[1, 2], [3, 4]]]), "same-signal"),
        (edf_file([ECG], [[[1, 2]]], record_s=0), "malformed-edf"),
        (edf_file([ECG], [[[1, 2]]], kind="EDF+D"), "malformed-edf"),
        (edf_file([ECG, NOTES], [[[1, 2], notes(5)], [[1, 2], notes(1)]], kind="EDF+D"), "malformed-edf"),
        (edf_file([ECG, NOTES], [[[1, 2], b"rubbish!"]]), "malformed-edf"),
    ],
)
def test_what_does_not_hold_is_refused_by_name(data, why):
    assert reason(data) == why


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=12))
def test_a_file_with_other_bytes_is_read_or_refused(at, other):
    with contextlib.suppress(DecodeError):
        read((GOOD[:at] + other + GOOD[at + len(other) :])[: len(GOOD)])
