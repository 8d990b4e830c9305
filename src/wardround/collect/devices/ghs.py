"""The Generic Health Sensor service's observations: one self-describing format for every Bluetooth sensor (GHSS 1.0, 2023).

An observation is a class (1 byte), a length (2 bytes) and a body of that length: presence flags (2), then what they announce, in
this order: type (4, MDC context-free), elapsed time (9), duration (4), status (2), object id (4), patient (1), supplemental
codes (1 + 4n), derived-from (1 + 4n), members (1 + 4n), TLVs; then the class's value. Numbers and runs of samples are taken,
everything else is refused by name. Whether a unit takes 2 or 4 bytes follows from the length alone, so neither is assumed.
Written after the service's draft implementation by its editors and the adopted profile; not tried against hardware.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from wardround.collect.devices.gatt import USER_UNKNOWN, Source
from wardround.collect.devices.ieee11073 import UNITS, ZONE_UNKNOWN_US, Bytes, Special, float32
from wardround.collect.devices.reading import SAMPLES_MAX, Decoded, Reading, packed
from wardround.errors import DecodeError
from wardround.records import Quality, Validity

BYTES_MAX = 1_000_000  # observations are longer than one notification
EPOCH_2000_US = 946_684_800_000_000
NUMERIC, SAMPLES, COMPOUND = 0x00, 0x03, 0x04
_CLASSES = {0x01: "a discrete value", 0x02: "a string", 0x05: "compound discrete events", 0x06: "a compound state"}
_CLASSES |= {0x07: "a compound observation", 0x08: "TLVs", 0xFF: "a bundle"}
_RESOLUTION_US = (1_000_000, 100_000, 1_000, 100)
_COMPONENTS_MAX = 64


def decode(data: bytes, source: Source) -> Decoded:
    """Readings of one Live (2B8B) or Stored Health Observation (2BDD), put together from its notifications.

    Raises:
        DecodeError: the bytes are not one, or of a class that is not taken.
    """
    if len(data) > BYTES_MAX:
        raise DecodeError("too-large", f"the observation has {len(data)} bytes, more than {BYTES_MAX}")
    cursor = Bytes(data, "the observation")
    kind, length = cursor.unsigned(1), cursor.unsigned(2)
    body = Bytes(cursor.take(length), "the observation's body")
    cursor.end()
    if kind not in (NUMERIC, SAMPLES, COMPOUND):
        raise DecodeError("observation-class", f"it holds {_CLASSES.get(kind, f'class {kind:#04x}')}, which is not taken")
    flags = body.unsigned(2)
    if not flags & 1 and kind != COMPOUND:
        raise DecodeError("no-code", "the observation does not say what it measures")
    code = body.unsigned(4) if flags & 1 else 0
    t_us, error_us = _elapsed(body.take(9)) if flags & 2 else (source.now_us, 0)
    if flags & 4:
        body.take(4)
    validity, refuse = _status(body.unsigned(2)) if flags & 8 else (Validity.VALID, "")
    if flags & 16:
        body.take(4)
    user = body.unsigned(1) if flags & 32 else None
    for bit in (6, 7, 8):
        if flags & 1 << bit:
            body.take(4 * body.unsigned(1))
    if flags & 0b1111_1110_0000_0000:
        raise DecodeError("must-understand", "the observation has TLVs or fields that are not known here")
    if user not in (None, USER_UNKNOWN, source.user):
        raise DecodeError("another-user", f"user {user} of the device, and the patient is user {source.user}")
    if refuse:
        raise DecodeError(refuse, "the device says that it is no patient's measurement")
    common = {"t_us": t_us, "t_error_us": error_us, "validity": int(validity)}
    common["flags"] = int(Quality.CLOCK_UNSYNCED) if error_us else 0
    if kind == SAMPLES:
        return Decoded((_samples(body, code, common),))
    return _numbers(body, [code] if kind == NUMERIC else None, common)


def _numbers(body: Bytes, codes: list[int] | None, common: dict[str, Any]) -> Decoded:
    """One value with its unit, or several with their codes too."""
    count = body.unsigned(1) if codes is None else 1
    if not 0 < count <= _COMPONENTS_MAX or body.left % count:
        raise DecodeError("malformed-observation", f"{count} components do not fit {body.left} bytes")
    unit_bytes = body.left // count - 4 - (4 if codes is None else 0)
    if unit_bytes not in (2, 4):
        raise DecodeError("malformed-observation", f"a component of {body.left // count} bytes")
    readings: list[Reading] = []
    refused: list[DecodeError] = []
    for i in range(count):
        code = codes[i] if codes is not None else body.unsigned(4)
        unit = _unit(body.unsigned(unit_bytes))
        try:
            value = float32(body.unsigned(4))
        except Special as special:
            refused.append(DecodeError("not-available", f"mdc:{code} is {special}"))
            continue
        readings.append(Reading(name=f"mdc:{code}", unit=unit, value=value, **common))
    return Decoded(tuple(readings), tuple(refused))


def _samples(body: Bytes, code: int, common: dict[str, Any]) -> Reading:
    """A run: unit, scale, offset, lowest, highest, period in seconds, samples a period, bytes a sample, count, samples."""
    tail = body.left - 26
    probe = body.take(body.left)
    for unit_bytes in (2, 4):
        count = int.from_bytes(probe[unit_bytes + 22 : unit_bytes + 26], "little")
        size = probe[unit_bytes + 21] if len(probe) > unit_bytes + 21 else 0
        if size in (1, 2, 4) and 0 < count <= SAMPLES_MAX and count * size == tail - unit_bytes:
            break
    else:
        raise DecodeError("malformed-observation", "the samples do not have the length that they announce")
    cursor = Bytes(probe, "the samples")
    unit = _unit(cursor.unsigned(unit_bytes))
    try:
        scale, origin = float32(cursor.unsigned(4)), float32(cursor.unsigned(4))
        cursor.take(8)
        period_s = float32(cursor.unsigned(4))
    except Special as special:
        raise DecodeError("malformed-observation", f"scale, offset or period is {special}") from special
    per_period = cursor.unsigned(1)
    if per_period != 1:
        raise DecodeError("dimensions", f"{per_period} samples in a period: several signals in one run are not taken apart")
    cursor.take(5)
    if scale == 0 or not 1e-6 <= period_s <= 86_400:
        raise DecodeError("malformed-observation", f"scale {scale:g}, period {period_s:g} s")
    counts = np.frombuffer(cursor.take(count * size), f"<i{size}").astype(np.int64)
    values, kind = packed(counts)
    return Reading(
        name=f"mdc:{code}",
        unit=unit,
        n=count,
        period_us=period_s * 1e6,
        values=values,
        values_type=kind,
        scale=scale,
        origin=origin,
        **common,
    )


def _unit(code: int) -> str:
    unit = UNITS.get(code & 0xFFFF if code >> 16 in (0, 4) else -1)
    if unit is None:
        raise DecodeError("unknown-unit", f"unit {code} of the nomenclature is not in the table")
    return unit


def _elapsed(data: bytes) -> tuple[int, int]:
    """Microseconds since 1970, and what is open of it, from an elapsed time (Elapsed Time Service 1.0).

    Raises:
        DecodeError: "time": ticks of a counter, or of a timeline that was left.
    """
    flags, low, high, _source, zone = struct.unpack("<BIHBb", data)
    if flags & 1 or not flags & 32:
        raise DecodeError("time", "its time is ticks of a counter, or of a clock that was set since")
    t_us = EPOCH_2000_US + (low | high << 32) * _RESOLUTION_US[flags >> 2 & 3]
    if flags & 2:
        return t_us, 0
    if flags & 16 and abs(zone) <= 56:
        return t_us - zone * 900_000_000, 0
    return t_us, ZONE_UNKNOWN_US


def _status(status: int) -> tuple[Validity, str]:
    """Measurement status (ISO/IEEE 11073-10206): validity, and why it is no measurement of a patient."""
    for bit, validity, refuse in (
        (1 << 6 | 1 << 7, Validity.INVALID, "test-data"),  # demonstration, test
        (1 << 3, Validity.NOT_AVAILABLE, "not-available"),
        (1 << 0, Validity.INVALID, ""),
        (1 << 2, Validity.QUESTIONABLE, ""),
        (1 << 4, Validity.CALIBRATING, ""),
        (1 << 1, Validity.QUESTIONABLE, ""),
        (1 << 8, Validity.VALIDATED, ""),
    ):
        if status & bit:
            return validity, refuse
    return Validity.VALID, ""
