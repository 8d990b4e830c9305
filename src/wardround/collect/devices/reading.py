"""What every decoder gives: runs of samples as a device sent them, in its own names and units, and what was refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from wardround.errors import DecodeError
from wardround.malformed import MALFORMED

SAMPLES_MAX = 500_000
PLACES_MAX = 12


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """A run of samples of one signal, as a device sent it. Fields as in records.Observation.

    `name` is a key or code of the code table; `also` are other codes that the payload gives for the same thing, in the order in
    which they are tried. `t_error_us` bounds what the payload leaves open of its time (a date without an hour, a clock
    without a zone). `validity` and `flags` are what the payload says of its own quality.
    """

    name: str
    unit: str
    t_us: int
    n: int = 1
    period_us: float | None = None
    offsets_us: bytes | None = None
    value: float | None = None
    values: bytes | None = None
    values_type: Literal["i2", "i4"] = "i2"
    scale: float = 1.0
    origin: float = 0.0
    text: str | None = None
    also: tuple[str, ...] = ()
    t_error_us: int = 0
    validity: int = 0
    flags: int = 0

    def samples(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The samples in `unit`, shape (n,); empty for a word."""
        if self.values is not None:
            return self.origin + np.frombuffer(self.values, "<" + self.values_type).astype(np.float64) * self.scale
        return np.empty(0) if self.value is None else np.array([self.value])

    def offsets(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Microseconds from `t_us` to each sample, shape (n,)."""
        if self.offsets_us is not None:
            return np.frombuffer(self.offsets_us, "<i4").astype(np.int64)
        return np.round(np.arange(self.n) * (self.period_us or 0.0)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a payload held: readings, and the parts of it that could not be taken, each with its reason."""

    readings: tuple[Reading, ...] = ()
    refused: tuple[DecodeError, ...] = ()


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of readings of a file: kept now, there already, not kept for want of consent, set aside with a reason."""

    kept: int = 0
    repeated: int = 0
    not_kept: int = 0
    set_aside: int = 0

    def __add__(self, other: Taken) -> Taken:
        return Taken(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Reading])


def encode_readings(readings: Sequence[Reading]) -> bytes:
    """MessagePack, as readings of files wait for their edge."""
    return _encoder.encode(readings)


def decode_readings(data: bytes) -> list[Reading]:
    """The inverse of encode_readings.

    Raises:
        DecodeError: "malformed-readings".
    """
    try:
        found = _decoder.decode(data)
    except MALFORMED as exc:
        raise DecodeError("malformed-readings", f"not readings of a file: {str(exc)[:120]}") from exc
    for reading in found:
        if not _whole(reading):
            raise DecodeError(
                "malformed-readings", f"a reading of {reading.name[:40]!r} has not the {reading.n} samples it claims"
            )
    return found


def _whole(reading: Reading) -> bool:
    """Whether it has as many samples and offsets as it says, at times that there are; a number or a word is one sample."""
    width = {"i2": 2, "i4": 4}[reading.values_type]
    if reading.values is None:
        samples = reading.n == 1
    else:
        samples = reading.value is None and reading.text is None and len(reading.values) == reading.n * width
    offsets = reading.offsets_us is None or len(reading.offsets_us) == reading.n * 4
    times = reading.period_us is None or 0.0 <= reading.period_us < math.inf
    return samples and offsets and times and 0 < reading.n <= SAMPLES_MAX


def quotient(number: float, by: float) -> float:
    """The number that times `by` is `number` to the last bit, where there is one."""
    found = number / by
    for candidate in (found, math.nextafter(found, math.inf), math.nextafter(found, -math.inf)):
        if candidate * by == number:
            return candidate
    return found


def quantise(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[np.ndarray[Any, np.dtype[np.int64]], float, float]:
    """Counts, scale and origin of decimal values: exact for decimals whose digits fit 31 bits, else to 31 bits of the span."""
    for places in range(PLACES_MAX + 1):
        counts = np.round(values * 10.0**places)
        if np.abs(counts).max() < 2**31 and np.allclose(counts / 10.0**places, values, rtol=1e-13, atol=0.0):
            return counts.astype(np.int64), 10.0**-places, 0.0
    low, high = float(values.min()), float(values.max())
    scale = (high - low) / (2**31 - 2) or 1.0
    return np.round((values - low) / scale).astype(np.int64), scale, low


def packed(counts: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[bytes, Literal["i2", "i4"]]:
    """Little-endian integers of the smaller type that holds them all.

    Raises:
        DecodeError: "out-of-range": they need more than 32 bits.
    """
    low, high = int(counts.min()), int(counts.max())
    if low >= -(2**15) and high < 2**15:
        return counts.astype("<i2").tobytes(), "i2"
    if low >= -(2**31) and high < 2**31:
        return counts.astype("<i4").tobytes(), "i4"
    raise DecodeError("out-of-range", "samples need more than 32 bits")
