"""Observations of the Generic Health Sensor service: numbers and samples, and everything else refused by name."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.collect.devices import ghs
from wardround.collect.devices.gatt import Source
from wardround.errors import DecodeError
from wardround.records import Quality, Validity

NOW = 1_700_000_000_000_000
SOURCE = Source(NOW)
SPO2, PERCENT = 150456, 262688  # MDC_PULS_OXIM_SAT_O2, MDC_DIM_PERCENT
WHEN = datetime(2026, 3, 1, 7, 30, tzinfo=UTC)
MILLISECONDS = 0b10 << 2


def number(mantissa, exponent=0):
    return struct.pack("<I", (mantissa & 0xFFFFFF) | (exponent & 0xFF) << 24)


def whole(kind, flags, body):
    body = struct.pack("<H", flags) + body
    return bytes([kind]) + struct.pack("<H", len(body)) + body


def simple(*, unit=None, flags=1, extra=b""):
    unit = struct.pack("<H", PERCENT & 0xFFFF) if unit is None else unit
    return whole(0, flags, struct.pack("<I", SPO2) + extra + unit + number(975, -1))


def elapsed(flags, ticks, zone=0):
    return struct.pack("<BIHBb", flags, ticks & 0xFFFFFFFF, ticks >> 32, 1, zone)


@pytest.mark.parametrize("unit", [struct.pack("<H", PERCENT & 0xFFFF), struct.pack("<I", PERCENT)])
def test_a_number_with_its_code_and_unit(unit):
    [reading] = ghs.decode(simple(unit=unit), SOURCE).readings
    assert (reading.name, reading.value, reading.unit, reading.t_us) == ("mdc:150456", 97.5, "%", NOW)


@pytest.mark.parametrize(
    ("flags", "offset_s", "zone", "error_h"),
    [(0b10_0010, 0, 0, 0), (0b11_0000, 3600, 4, 0), (0b10_0000, 0, 0, 14)],
)
def test_times(flags, offset_s, zone, error_h):
    since = int((WHEN - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds()) + offset_s
    data = simple(flags=3, extra=elapsed(flags | MILLISECONDS, since * 1000, zone))
    [reading] = ghs.decode(data, SOURCE).readings
    assert reading.t_us == int(WHEN.timestamp()) * 1_000_000
    assert reading.t_error_us == error_h * 3_600_000_000
    assert (Quality.CLOCK_UNSYNCED in Quality(reading.flags)) == bool(error_h)


def test_a_compound_of_numbers_one_of_which_is_none():
    parts = [(150021, number(120)), (150022, struct.pack("<I", 0x007FFFFF))]
    body = bytes([2]) + b"".join(struct.pack("<IH", code, 3872) + value for code, value in parts)
    found = ghs.decode(whole(4, 0, body), SOURCE)
    assert [(r.name, r.value, r.unit) for r in found.readings] == [("mdc:150021", 120.0, "mm[Hg]")]
    assert [e.reason for e in found.refused] == ["not-available"]


@pytest.mark.parametrize("unit", [struct.pack("<H", 4274), struct.pack("<I", 266418)])
@pytest.mark.parametrize("kind", ["<i1", "<i2", "<i4"])
def test_samples(unit, kind):
    counts = np.array([-3, 0, 100], kind)
    head = unit + number(5, -3) + number(1, 0) + bytes(8) + number(4, -3)
    body = struct.pack("<I", 131330) + head + bytes([1, counts.itemsize]) + struct.pack("<I", 3) + counts.tobytes()
    [reading] = ghs.decode(whole(3, 1, body), SOURCE).readings
    assert (reading.unit, reading.n, reading.period_us, reading.scale, reading.origin) == ("mV", 3, 4000.0, 0.005, 1.0)
    assert np.frombuffer(reading.values, "<" + reading.values_type).tolist() == [-3, 0, 100]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (whole(2, 1, bytes(8)), "observation-class"),
        (whole(0xFF, 0, bytes(8)), "observation-class"),
        (whole(0, 0, bytes(8)), "no-code"),
        (simple(flags=1 | 1 << 9), "must-understand"),
        (simple(unit=struct.pack("<H", 9999)), "unknown-unit"),
        (simple(unit=b"\0\0\0"), "malformed-observation"),
        (simple(flags=3, extra=elapsed(0b10_0001, 5)), "time"),
        (simple(flags=3, extra=elapsed(0b00_0010, 5)), "time"),
        (simple(flags=33, extra=bytes([4])), "another-user"),
        (simple(flags=9, extra=struct.pack("<H", 1 << 6)), "test-data"),
        (simple(flags=9, extra=struct.pack("<H", 1 << 3)), "not-available"),
        (simple()[:-1], "truncated"),
        (simple() + b"\0", "trailing-bytes"),
        (b"", "truncated"),
    ],
)
def test_what_is_refused(data, reason):
    with pytest.raises(DecodeError) as caught:
        ghs.decode(data, SOURCE)
    assert caught.value.reason == reason


def test_a_questionable_measurement_says_so():
    [reading] = ghs.decode(simple(flags=9, extra=struct.pack("<H", 1 << 2)), SOURCE).readings
    assert reading.validity == Validity.QUESTIONABLE


@given(st.binary(max_size=80), st.sampled_from([0, 3, 4]))
def test_any_bytes_are_read_or_refused(data, kind):
    for payload in (data, bytes([kind]) + struct.pack("<H", len(data)) + data):
        try:
            found = ghs.decode(payload, SOURCE)
        except DecodeError:
            continue
        assert found.readings or found.refused
