"""Numbers, units and times of ISO/IEEE 11073 as they travel over Bluetooth.

SFLOAT is 4 bits of exponent and 12 of mantissa, FLOAT 8 and 24, both two's complement and base ten; five mantissas of exponent
zero are no numbers (ISO/IEEE 11073-20601:2014, F.8; Bluetooth GATT Specification Supplement, "medfloat16", "medfloat32").
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, tzinfo

from wardround.errors import DecodeError

NAN, NRES, PLUS_INF, MINUS_INF, RESERVED = "NaN", "NRes", "+INF", "-INF", "reserved"
_SFLOAT_SPECIAL = {0x07FF: NAN, 0x0800: NRES, 0x07FE: PLUS_INF, 0x0802: MINUS_INF, 0x0801: RESERVED}
_FLOAT_SPECIAL = {
    0x007FFFFF: NAN,
    0x00800000: NRES,
    0x007FFFFE: PLUS_INF,
    0x00800002: MINUS_INF,
    0x00800001: RESERVED,
}
ZONE_UNKNOWN_US = 14 * 3_600_000_000  # how far local time can be from UTC
# Partition 4 of the nomenclature (ISO/IEEE 11073-10101): term code to UCUM.
UNITS = {
    512: "1",  # MDC_DIM_DIMLESS
    544: "%",
    1731: "kg",
    1760: "[lb_av]",
    2130: "mg/dL",
    2272: "/min",  # MDC_DIM_PER_MIN
    2720: "/min",  # MDC_DIM_BEAT_PER_MIN
    2784: "/min",  # MDC_DIM_RESP_PER_MIN
    3843: "kPa",
    3872: "mm[Hg]",
    4256: "V",
    4274: "mV",
    4275: "uV",
    4416: "[degF]",
    4722: "mmol/L",
    6048: "Cel",
    6656: "{steps}",
}


class Special(Exception):
    """A value that is no number: NaN, NRes (not at this resolution), +INF, -INF or reserved."""


def sfloat(raw: int, *, shift: int = 0) -> float:
    """A 16-bit SFLOAT, times ten to the `shift`; correctly rounded.

    Raises:
        Special: it is none of the numbers.
    """
    if raw in _SFLOAT_SPECIAL:
        raise Special(_SFLOAT_SPECIAL[raw])
    mantissa, exponent = raw & 0x0FFF, raw >> 12
    return _decimal(mantissa - 0x1000 if mantissa & 0x0800 else mantissa, (exponent - 16 if exponent & 8 else exponent) + shift)


def float32(raw: int) -> float:
    """A 32-bit FLOAT; correctly rounded.

    Raises:
        Special: it is none of the numbers.
    """
    if raw in _FLOAT_SPECIAL:
        raise Special(_FLOAT_SPECIAL[raw])
    mantissa, exponent = raw & 0x00FFFFFF, raw >> 24
    if mantissa & 0x00800000:
        mantissa -= 0x01000000
    return _decimal(mantissa, exponent - 256 if exponent & 0x80 else exponent)


def _decimal(mantissa: int, exponent: int) -> float:
    return float(f"{mantissa}e{exponent}")  # 364e-1 is 36.4, which 364 * 0.1 is not


def date_time(data: bytes, zone: tzinfo | None) -> tuple[int, int]:
    """Microseconds since 1970 and how far that may be off, from the 7 bytes of a Date Time (2A08): local, without a zone.

    Args:
        zone: of the device's clock; None leaves fourteen hours open.
    Raises:
        DecodeError: "time": a part of the date is not known, or it is no date.
    """
    year, month, day, hour, minute, second = struct.unpack("<HBBBBB", data)
    if not (year and month and day):
        raise DecodeError("time", f"the device does not know its date ({year}-{month}-{day})")
    try:
        local = datetime(year, month, day, hour, minute, second, tzinfo=zone or UTC)
    except (ValueError, OverflowError) as exc:
        raise DecodeError("time", f"{year}-{month}-{day} {hour}:{minute}:{second} is no time: {exc}") from exc
    return round(local.timestamp()) * 1_000_000, ZONE_UNKNOWN_US if zone is None else 0


class Bytes:
    """A cursor over a payload of little-endian fields."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what = data, what
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            DecodeError: "truncated".
        """
        if self.left < size:
            raise DecodeError("truncated", f"{self._what} ends after {len(self._data)} bytes, {self._at + size} are announced")
        self._at += size
        return self._data[self._at - size : self._at]

    def unsigned(self, size: int) -> int:
        """An unsigned integer of so many bytes."""
        return int.from_bytes(self.take(size), "little")

    def signed(self, size: int) -> int:
        """A signed integer of so many bytes."""
        return int.from_bytes(self.take(size), "little", signed=True)

    def end(self) -> None:
        """Raises:
        DecodeError: "trailing-bytes": what is left has no meaning here.
        """
        if self.left:
            raise DecodeError("trailing-bytes", f"{self._what} has {self.left} bytes more than it announces")
