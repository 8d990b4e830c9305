"""Bluetooth characteristics, against golden bytes of the specifications' layouts and against rubbish."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.collect.devices import gatt
from wardround.collect.devices.gatt import PARSERS, Source, crc16, decode, parse_heart_rate
from wardround.collect.devices.ieee11073 import Special, float32, sfloat
from wardround.errors import DecodeError
from wardround.records import Quality, Validity

NOW = 1_700_000_000_000_000
SOURCE = Source(NOW)


def one(characteristic, hex_, source=SOURCE):
    return {r.name: r for r in decode(characteristic, bytes.fromhex(hex_), source).readings}


def reasons(characteristic, hex_, source=SOURCE):
    try:
        return [e.reason for e in decode(characteristic, bytes.fromhex(hex_), source).refused]
    except DecodeError as error:
        return [error.reason]


def test_the_shared_vectors(shared_data):
    path = shared_data / "formats" / "ble" / "gatt_vectors.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    names = {"spo2_pct": "spo2", "pulse_bpm": "pulse-rate", "systolic": "systolic", "diastolic": "diastolic"}
    names |= {"map": "mean-pressure", "value": "body-temperature"}
    for vector in json.loads(path.read_text()):
        data, expected = bytes.fromhex(vector["hex"]), vector["decoded"]
        characteristic = int(vector["characteristic"], 16)
        if characteristic == 0x2A37:
            found = parse_heart_rate(data)
            assert (found.heart_rate_bpm, found.contact, found.energy_kj) == (
                expected["heart_rate_bpm"],
                expected["contact"],
                expected["energy_kj"],
            )
            assert list(found.rr_s) == expected["rr_s"]
            continue
        measured = PARSERS[characteristic](data)
        for key, name in names.items():
            if key in expected:
                assert measured.values[name] == expected[key], vector["name"]


@pytest.mark.parametrize(
    ("raw", "value"),
    [(0x0048, 72.0), (0xF16C, 36.4), (0xE3E8, 10.0), (0x8001, 1e-8), (0x7001, 1e7), (0x0801 + 2, -2045.0), (0x07FD, 2045.0)],
)
def test_sfloat(raw, value):
    assert sfloat(raw) == value


@pytest.mark.parametrize(("raw", "name"), [(0x07FF, "NaN"), (0x0800, "NRes"), (0x07FE, "+INF"), (0x0802, "-INF")])
def test_sfloat_that_is_no_number(raw, name):
    with pytest.raises(Special, match=name.replace("+", r"\+")):
        sfloat(raw)


@pytest.mark.parametrize(
    ("raw", "value"), [(0xFF00016C, 36.4), (0xFFFFFE94, -36.4), (0x007FFFFD, 8388605.0), (0x7F000001, 1e127)]
)
def test_float(raw, value):
    assert float32(raw) == value


@pytest.mark.parametrize("raw", [0x007FFFFF, 0x00800000, 0x007FFFFE, 0x00800002, 0x00800001])
def test_float_that_is_no_number(raw):
    with pytest.raises(Special):
        float32(raw)


def test_rr_intervals_are_dated_at_their_ends_and_the_last_ends_now():
    found = one(0x2A37, "10" + "48" + "0004" + "0002" + "0004")  # 1 s, 0.5 s, 1 s
    run = found["rr-interval"]
    counts = np.frombuffer(run.values, "<i2") * run.scale
    np.testing.assert_array_equal(counts, [1000.0, 500.0, 1000.0])
    np.testing.assert_array_equal(
        np.frombuffer(run.offsets_us, "<i4").astype(np.int64) + run.t_us, [NOW - 1_500_000, NOW - 1_000_000, NOW]
    )


def test_a_rate_without_contact_is_no_rate():
    assert reasons(0x2A37, "0400") == ["no-contact"]


def test_a_blood_pressure_with_everything():
    flags = 0b0001_1111  # kPa, time, pulse, user, status
    time = struct.pack("<HBBBBB", 2026, 3, 1, 8, 30, 0)
    data = bytes([flags]) + struct.pack("<HHH", 0xF0A0, 0xF06B, 0xF07D) + time + struct.pack("<HBH", 0x0046, 2, 0b1)
    found = {r.name: r for r in decode(0x2A35, data, Source(NOW, ZoneInfo("Europe/Vienna"), 2)).readings}
    assert (found["systolic"].value, found["systolic"].unit) == (16.0, "kPa")
    assert (found["pulse-rate"].value, found["pulse-rate"].unit) == (70.0, "/min")
    assert found["systolic"].t_us == int(datetime(2026, 3, 1, 7, 30, tzinfo=UTC).timestamp()) * 1_000_000
    assert found["systolic"].validity == Validity.QUESTIONABLE
    assert Quality(found["systolic"].flags) == Quality.MOTION


def test_a_time_without_a_zone_leaves_fourteen_hours_open():
    data = bytes([0b10]) + struct.pack("<HHH", 120, 80, 93) + struct.pack("<HBBBBB", 2026, 3, 1, 8, 30, 0)
    reading = decode(0x2A35, data, SOURCE).readings[0]
    assert reading.t_error_us == 14 * 3_600_000_000
    assert Quality.CLOCK_UNSYNCED in Quality(reading.flags)


@pytest.mark.parametrize(
    ("characteristic", "hex_", "reason"),
    [
        (0x2A35, "08780050005d0002", "another-user"),
        (0x2A35, "0278005000" + "5d00" + "0000000000" + "0000", "time"),
        (0x2A5F, "0461004200" + "0004", "test-data"),
        (0x2A5F, "0461004200" + "0020", "not-available"),
        (0x2A5F, "00ff074200", "not-available"),
        (0x2A1C, "00ffff7f00", "not-available"),
        (0x2A18, "02" + "0100" + "ea07030108" + "1e00" + "46b0" + "1a", "sample-type"),
        (0x2A18, "00" + "0100" + "ea07030108" + "1e00", "no-value"),
        (0x2A9D, "00ffff", "not-available"),
        (0x2A37, "00", "truncated"),
        (0x2A37, "004800", "trailing-bytes"),
        (0x2A38, "00", "characteristic"),
    ],
)
def test_what_is_no_measurement_of_this_patient(characteristic, hex_, reason):
    assert reasons(characteristic, hex_) == [reason]


def test_glucose_keeps_the_decimals_of_its_laboratory_unit():
    time = "ea0703010" + "81e00"
    kilogram = one(0x2A18, "02" + "0100" + time + "5fb0" + "11", Source(NOW, UTC))  # 95e-5 kg/L
    assert (kilogram["glucose"].value, kilogram["glucose"].unit) == (95.0, "mg/dL")
    molar = one(0x2A18, "07" + "0100" + time + "0500" + "37c0" + "11", Source(NOW, UTC))  # 55e-4 mol/L, 5 minutes later
    assert (molar["glucose"].value, molar["glucose"].unit) == (5.5, "mmol/L")
    assert molar["glucose"].t_us - kilogram["glucose"].t_us == 300_000_000


def test_a_continuous_oximeter_says_how_good_it_is():
    status = 1 << 5 | 1 << 14
    found = one(0x2A5F, "04" + "6100" + "4200" + struct.pack("<H", status).hex())
    assert (found["spo2"].value, found["spo2"].validity) == (97.0, Validity.QUESTIONABLE)
    displaced = one(0x2A5F, "08" + "6100" + "4200" + (1 << 13).to_bytes(3, "little").hex())
    assert Quality.LEAD_OFF in Quality(displaced["spo2"].flags)
    assert displaced["spo2"].validity == Validity.QUESTIONABLE


def test_weight_in_kilograms_and_pounds():
    assert one(0x2A9D, "00a83e")["body-weight"].value == 80.2
    pounds = one(0x2A9D, "01" + struct.pack("<H", 18_500).hex())["body-weight"]
    assert (pounds.value, pounds.unit) == (185.0, "[lb_av]")


def test_cgm_records_and_their_checksum():
    assert crc16(b"123456789") == 0x6F91  # CRC-16/MCRF4XX, the catalogue's check value
    records = []
    for minute, value in ((10, 100), (15, 104)):
        body = bytes([8, 0]) + struct.pack("<HH", value, minute)
        records.append(body + struct.pack("<H", crc16(body)))
    found = decode(0x2AA7, b"".join(records), SOURCE).readings
    assert [(r.value, r.t_us) for r in found] == [(100.0, NOW - 300_000_000), (104.0, NOW)]
    with pytest.raises(DecodeError) as caught:
        decode(0x2AA7, records[0][:-1] + b"\x00", SOURCE)
    assert caught.value.reason == "checksum"


@given(st.sampled_from([0x2A37, 0x2AA7, *PARSERS]), st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(characteristic, data):
    try:
        found = gatt.decode(characteristic, data, SOURCE)
    except DecodeError:
        return
    assert found.readings or found.refused
