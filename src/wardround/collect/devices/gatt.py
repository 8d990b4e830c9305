"""Bluetooth health characteristics to readings: heart rate, thermometer, blood pressure, pulse oximeter, glucose, CGM, weight.

Two steps: `parse_...` gives what the bytes say, in the characteristic's own terms; `decode` makes readings of it, and refuses
by name what is no patient's measurement: no number, no contact, demonstration data, control solution, another user of a shared
device. Sources: Heart Rate Service 1.0, Health Thermometer Service 1.0, Blood Pressure Service 1.1.1, Pulse Oximeter Service
1.0.1, Glucose Service 1.0.1, Continuous Glucose Monitoring Service 1.0.2, Weight Scale Service 1.0, GATT Specification
Supplement. Where a characteristic carries no time, its time is that of its arrival.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo

import numpy as np

from wardround.collect.devices.ieee11073 import Bytes, Special, date_time, float32, sfloat
from wardround.collect.devices.reading import Decoded, Reading, packed
from wardround.errors import DecodeError
from wardround.records import Quality, Validity

PAYLOAD_BYTES_MAX = 517  # an attribute's longest value is 512 bytes
USER_UNKNOWN = 0xFF
GLUCOSE_SAMPLES = {
    1: "glucose",  # capillary whole blood
    2: "glucose",  # capillary plasma
    9: "glucose-interstitial",
}
GLUCOSE_SAMPLE_NAMES = {
    3: "venous whole blood",
    4: "venous plasma",
    5: "arterial whole blood",
    6: "arterial plasma",
    7: "undetermined whole blood",
    8: "undetermined plasma",
    10: "control solution",
}


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of a device beside its bytes."""

    now_us: int
    zone: tzinfo | None = None  # of the device's clock
    user: int | None = None  # the patient's number on a device that several use


@dataclass(frozen=True, slots=True)
class HeartRate:
    """Heart Rate Measurement (2A37). `contact` is None where the sensor does not know."""

    heart_rate_bpm: int
    contact: bool | None
    energy_kj: int | None
    rr_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """Values of one measurement with what belongs to all of them. A value that is no number is its name, such as NaN or +INF."""

    values: Mapping[str, float | str]  # by the code table's key
    unit: Mapping[str, str]
    time: bytes = b""
    offset_s: int = 0
    user: int | None = None
    validity: Validity = Validity.VALID
    flags: Quality = Quality.NONE
    refuse: str = ""  # why none of it is a patient's measurement
    facts: Mapping[str, object] = field(default_factory=dict)


def parse_heart_rate(data: bytes) -> HeartRate:
    """Characteristic 2A37.

    Raises:
        DecodeError: the bytes are not one.
    """
    cursor = Bytes(data, "2A37")
    flags = cursor.unsigned(1)
    rate = cursor.unsigned(2 if flags & 1 else 1)
    contact = bool(flags & 2) if flags & 4 else None
    energy = cursor.unsigned(2) if flags & 8 else None
    intervals: list[float] = []
    while flags & 16 and cursor.left:
        intervals.append(cursor.unsigned(2) / 1024)
    cursor.end()
    return HeartRate(rate, contact, energy, tuple(intervals))


def parse_temperature(data: bytes) -> Measured:
    """Characteristic 2A1C, Temperature Measurement."""
    cursor = Bytes(data, "2A1C")
    flags = cursor.unsigned(1)
    value = _value(lambda: float32(cursor.unsigned(4)))
    time = cursor.take(7) if flags & 2 else b""
    site = cursor.unsigned(1) if flags & 4 else None
    cursor.end()
    unit = "[degF]" if flags & 1 else "Cel"
    return Measured({"body-temperature": value}, {"body-temperature": unit}, time, facts={"type": site})


def parse_blood_pressure(data: bytes) -> Measured:
    """Characteristic 2A35, Blood Pressure Measurement."""
    cursor = Bytes(data, "2A35")
    flags = cursor.unsigned(1)
    names = ("systolic", "diastolic", "mean-pressure")
    values: dict[str, float | str] = {name: _sfloat(cursor) for name in names}
    time = cursor.take(7) if flags & 2 else b""
    if flags & 4:
        values["pulse-rate"] = _sfloat(cursor)
    user = cursor.unsigned(1) if flags & 8 else None
    status = cursor.unsigned(2) if flags & 16 else 0
    cursor.end()
    unit = dict.fromkeys(names, "kPa" if flags & 1 else "mm[Hg]") | {"pulse-rate": "/min"}
    doubtful = status & 0b10_0011  # the body moved, the cuff was loose, the position improper
    return Measured(
        values,
        unit,
        time,
        user=user,
        validity=Validity.QUESTIONABLE if doubtful else Validity.VALID,
        flags=Quality.MOTION if status & 1 else Quality.NONE,
    )


def parse_oximeter_spot(data: bytes) -> Measured:
    """Characteristic 2A5E, PLX Spot-Check Measurement."""
    cursor = Bytes(data, "2A5E")
    flags = cursor.unsigned(1)
    values: dict[str, float | str] = {"spo2": _sfloat(cursor), "pulse-rate": _sfloat(cursor)}
    time = cursor.take(7) if flags & 1 else b""
    status = cursor.unsigned(2) if flags & 2 else 0
    device = cursor.unsigned(3) if flags & 4 else 0
    if flags & 8:
        values["perfusion-index"] = _sfloat(cursor)
    cursor.end()
    clock_set = not flags & 16
    return _oximeter(values, time if clock_set else b"", status, device, Quality.NONE if clock_set else Quality.CLOCK_UNSYNCED)


def parse_oximeter(data: bytes) -> Measured:
    """Characteristic 2A5F, PLX Continuous Measurement. The normal averages are taken; fast and slow ones are read over."""
    cursor = Bytes(data, "2A5F")
    flags = cursor.unsigned(1)
    values: dict[str, float | str] = {"spo2": _sfloat(cursor), "pulse-rate": _sfloat(cursor)}
    for bit in (1, 2):
        if flags & bit:
            cursor.take(4)
    status = cursor.unsigned(2) if flags & 4 else 0
    device = cursor.unsigned(3) if flags & 8 else 0
    if flags & 16:
        values["perfusion-index"] = _sfloat(cursor)
    cursor.end()
    return _oximeter(values, b"", status, device, Quality.NONE)


def _oximeter(values: Mapping[str, float | str], time: bytes, status: int, device: int, flags: Quality) -> Measured:
    """With what the measurement status (16 bits) and the device and sensor status (24 bits) say."""
    off = device & (1 << 11 | 1 << 13 | 1 << 14 | 1 << 15)  # unconnected, displaced, malfunctioning, disconnected
    poor = device & 0b101_1111_1110  # equipment, signal and interference
    validity = Validity.VALID
    for bit, meaning in (
        (5, Validity.ONGOING),
        (6, Validity.QUESTIONABLE),  # early estimate
        (7, Validity.VALIDATED),
        (8, Validity.VALIDATED),
        (12, Validity.CALIBRATING),
        (14, Validity.QUESTIONABLE),
        (13, Validity.NOT_AVAILABLE),
        (15, Validity.INVALID),
    ):
        if status & 1 << bit:
            validity = meaning
    if off or (poor and validity in (Validity.VALID, Validity.VALIDATED, Validity.ONGOING)):
        validity = max(validity, Validity.QUESTIONABLE)
    refuse = "test-data" if status & (1 << 10 | 1 << 11) else "not-available" if validity == Validity.NOT_AVAILABLE else ""
    unit = {"spo2": "%", "pulse-rate": "/min", "perfusion-index": "%"}
    return Measured(
        values, unit, time, validity=validity, flags=flags | (Quality.LEAD_OFF if off else Quality.NONE), refuse=refuse
    )


def parse_glucose(data: bytes) -> Measured:
    """Characteristic 2A18, Glucose Measurement. Its unit is that of a laboratory: mg/dL for kg/L, mmol/L for mol/L."""
    cursor = Bytes(data, "2A18")
    flags = cursor.unsigned(1)
    sequence = cursor.unsigned(2)
    time = cursor.take(7)
    offset_s = cursor.signed(2) * 60 if flags & 1 else 0
    if not flags & 2:
        raise DecodeError("no-value", "2A18 without a concentration")
    molar = bool(flags & 4)
    value = _value(lambda: sfloat(cursor.unsigned(2), shift=3 if molar else 5))
    sample = cursor.unsigned(1) & 0x0F
    status = cursor.unsigned(2) if flags & 8 else 0
    cursor.end()
    name = GLUCOSE_SAMPLES.get(sample, "glucose")
    refuse = "" if sample in GLUCOSE_SAMPLES else "sample-type"
    doubtful = status & 0b1111_1111_1110  # all but a low battery
    return Measured(
        {name: value},
        {name: "mmol/L" if molar else "mg/dL"},
        time,
        offset_s,
        validity=Validity.QUESTIONABLE if doubtful else Validity.VALID,
        refuse=refuse,
        facts={"sequence": sequence, "sample": GLUCOSE_SAMPLE_NAMES.get(sample, GLUCOSE_SAMPLES.get(sample, str(sample)))},
    )


def parse_weight(data: bytes) -> Measured:
    """Characteristic 2A9D, Weight Measurement."""
    cursor = Bytes(data, "2A9D")
    flags = cursor.unsigned(1)
    raw = cursor.unsigned(2)
    time = cursor.take(7) if flags & 2 else b""
    user = cursor.unsigned(1) if flags & 4 else None
    if flags & 8:
        cursor.take(4)  # BMI and height: derived, and not measured now
    cursor.end()
    value: float | str = "NaN" if raw == 0xFFFF else round(raw * (0.01 if flags & 1 else 0.005), 3)
    return Measured({"body-weight": value}, {"body-weight": "[lb_av]" if flags & 1 else "kg"}, time, user=user)


def parse_cgm(data: bytes) -> list[Measured]:
    """Characteristic 2AA7, CGM Measurement: one record or several, each with its CRC where the sensor sends one.

    Times are minutes from the start of the session, which this characteristic does not hold: `facts["minute"]`.
    """
    found: list[Measured] = []
    cursor = Bytes(data, "2AA7")
    while cursor.left:
        size = data[len(data) - cursor.left]
        record = cursor.take(size) if size >= 6 else b""
        if not record:
            raise DecodeError("truncated", f"2AA7 announces a record of {size} bytes; the shortest has 6")
        found.append(_cgm(record))
    if not found:
        raise DecodeError("truncated", "2AA7 holds no record")
    return found


def _cgm(record: bytes) -> Measured:
    cursor = Bytes(record, "2AA7")
    cursor.take(1)
    flags = cursor.unsigned(1)
    value = _sfloat(cursor)
    minute = cursor.unsigned(2)
    status = 0
    for bit, place in ((7, 0), (6, 1), (5, 2)):
        if flags & 1 << bit:
            status |= cursor.unsigned(1) << 8 * place
    for bit in (0, 1):
        if flags & 1 << bit:
            cursor.take(2)  # trend, quality
    if cursor.left == 2:
        crc = cursor.unsigned(2)
        if crc != crc16(record[:-2]):
            raise DecodeError("checksum", "a CGM record does not have the checksum it carries")
    cursor.end()
    name = "glucose-interstitial"
    return Measured(
        {name: value},
        {name: "mg/dL"},
        validity=Validity.QUESTIONABLE if status & ~0b10 else Validity.VALID,  # anything but a low battery
        facts={"minute": minute},
    )


def crc16(data: bytes) -> int:
    """The E2E-CRC of the CGM service: CRC-CCITT, seed 0xFFFF, least significant bit first."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x8408 if crc & 1 else 0)
    return crc


def characteristics() -> list[int]:
    """The 16-bit UUIDs of every characteristic that is decoded."""
    return sorted({0x2A37, 0x2AA7, *PARSERS})


def decode(characteristic: int, data: bytes, source: Source) -> Decoded:
    """Readings of a notification.

    Args:
        characteristic: its 16-bit UUID, such as 0x2A37.
    Raises:
        DecodeError: no decoder for it, or the bytes are not one.
    """
    if len(data) > PAYLOAD_BYTES_MAX:
        raise DecodeError("too-large", f"{len(data)} bytes are more than a characteristic holds")
    if characteristic == 0x2A37:
        return _heart_rate_readings(parse_heart_rate(data), source)
    if characteristic == 0x2AA7:
        measured = parse_cgm(data)
        newest = max(int(str(m.facts["minute"])) for m in measured)
        parts = [_readings(m, source, (int(str(m.facts["minute"])) - newest) * 60) for m in measured]
        return Decoded(tuple(r for p in parts for r in p.readings), tuple(e for p in parts for e in p.refused))
    parse = PARSERS.get(characteristic)
    if parse is None:
        known = ", ".join(f"{c:04X}" for c in characteristics())
        raise DecodeError("characteristic", f"{characteristic:04X} is none of {known}")
    return _readings(parse(data), source, 0)


PARSERS: Mapping[int, Callable[[bytes], Measured]] = {
    0x2A18: parse_glucose,
    0x2A1C: parse_temperature,
    0x2A35: parse_blood_pressure,
    0x2A5E: parse_oximeter_spot,
    0x2A5F: parse_oximeter,
    0x2A9D: parse_weight,
}


def _heart_rate_readings(found: HeartRate, source: Source) -> Decoded:
    if found.contact is False:
        return Decoded(refused=(DecodeError("no-contact", "the sensor says that it does not touch the skin"),))
    readings = [Reading(name="heart-rate", unit="/min", t_us=source.now_us, value=float(found.heart_rate_bpm))]
    if found.rr_s:
        counts = np.round(np.array(found.rr_s) * 1024).astype(np.int64)
        ends = np.cumsum(counts)  # each interval is dated at its end; the last one ends now
        offsets = np.round((ends - ends[0]) * 1e6 / 1024).astype(np.int64)
        values, kind = packed(counts)
        readings.append(
            Reading(
                name="rr-interval",
                unit="ms",
                t_us=source.now_us - int(offsets[-1]),
                n=len(counts),
                offsets_us=offsets.astype("<i4").tobytes(),
                values=values,
                values_type=kind,
                scale=1000 / 1024,
            )
        )
    return Decoded(tuple(readings))


def _readings(found: Measured, source: Source, shift_s: int) -> Decoded:
    if found.refuse:
        detail = ", ".join(f"{k} {v}" for k, v in found.facts.items()) or "the device says so itself"
        return Decoded(refused=(DecodeError(found.refuse, f"not a patient's measurement: {detail}"),))
    if found.user not in (None, USER_UNKNOWN, source.user):
        return Decoded(
            refused=(DecodeError("another-user", f"user {found.user} of the device, and the patient is user {source.user}"),)
        )
    t_us, error_us = source.now_us + shift_s * 1_000_000, 0
    flags = found.flags
    if found.time:
        t_us, error_us = date_time(found.time, source.zone)
        t_us += found.offset_s * 1_000_000
        flags |= Quality.CLOCK_UNSYNCED if error_us else Quality.NONE
    readings: list[Reading] = []
    refused: list[DecodeError] = []
    for name, value in found.values.items():
        if isinstance(value, str):
            refused.append(DecodeError("not-available", f"{name} is {value}"))
            continue
        readings.append(
            Reading(
                name=name,
                unit=found.unit[name],
                t_us=t_us,
                t_error_us=error_us,
                value=value,
                validity=int(found.validity),
                flags=int(flags),
            )
        )
    return Decoded(tuple(readings), tuple(refused))


def _sfloat(cursor: Bytes) -> float | str:
    return _value(lambda: sfloat(cursor.unsigned(2)))


def _value(read: Callable[[], float]) -> float | str:
    try:
        return read()
    except Special as special:
        return str(special)
