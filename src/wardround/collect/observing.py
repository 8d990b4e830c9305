"""A reading in the code table's terms becomes an observation: its time checked, its own samples judged."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from wardround.collect.device_clock import ClockReading
from wardround.collect.devices.reading import Reading
from wardround.collect.signals import Signal
from wardround.errors import DecodeError
from wardround.records import Observation, Quality, SubjectId, Validity

EARLIEST_US = 946_684_800_000_000  # 2000-01-01: an earlier time is a clock that was never set
FUTURE_US = 3_600_000_000
FLAT_SAMPLES = 32


def observed(
    reading: Reading,
    signal: Signal,
    *,
    subject: SubjectId,
    device: str,
    edge: str,
    clock: ClockReading,
    now_us: int,
    consent_version: int,
) -> Observation:
    """A canonical reading of a device whose clock stands so, as it came in; `judged` says how good it is."""
    return Observation(
        subject=subject,
        device=device,
        edge=edge,
        code=signal.code,
        unit=signal.unit,
        t0_us=reading.t_us + clock.offset_us,
        t0_device_us=reading.t_us,
        clock_offset_us=clock.offset_us,
        clock_error_us=clock.error_us,
        t_edge_us=now_us,
        n=reading.n,
        period_us=reading.period_us,
        offsets_us=reading.offsets_us,
        value=reading.value,
        values=reading.values,
        values_type=reading.values_type,
        scale=reading.scale,
        origin=reading.origin,
        value_text=reading.text,
        low=signal.low,
        high=signal.high,
        consent_version=consent_version,
    )


def judged(observation: Observation, reading: Reading, signal: Signal, flags: Quality) -> Observation:
    """The same with these flags, those of its reading, and those that its own samples give."""
    found, validity = judge(observation, signal)
    return replace(
        observation,
        flags=int(flags | Quality(reading.flags) | found),
        validity=int(max(validity, Validity(reading.validity))),
    )


def check_time(reading: Reading, now_us: int, *, earliest_us: int = EARLIEST_US) -> int:
    """The time of the last sample, microseconds since 1970.

    Raises:
        DecodeError: "time-before-2000" or "time-in-future".
    """
    last_us = reading.t_us + _span_us(reading)
    if reading.t_us < earliest_us:
        raise DecodeError("time-before-2000", f"{reading.name}: time {reading.t_us / 1e6:.0f} s since 1970: a clock not set")
    if last_us > now_us + FUTURE_US + reading.t_error_us:
        ahead_h = (last_us - now_us) / 3.6e9
        raise DecodeError("time-in-future", f"{reading.name}: its time is {ahead_h:.1f} h ahead of this edge")
    return last_us


def _span_us(reading: Reading) -> int:
    """From the first to the last sample."""
    if reading.offsets_us is not None:
        return int(np.frombuffer(reading.offsets_us, "<i4").max())
    return round((reading.n - 1) * reading.period_us) if reading.period_us else 0


def judge(observation: Observation, signal: Signal) -> tuple[Quality, Validity]:
    """Flags that the samples themselves give: out of range, a flat line, at the rail of the converter."""
    flags = Quality.NONE
    if observation.values is None:
        extremes = (observation.value, observation.value) if observation.value is not None else None
    else:
        counts = observation.counts()
        low, high = int(counts.min()), int(counts.max())
        ends = (observation.origin + low * observation.scale, observation.origin + high * observation.scale)
        extremes = (min(ends), max(ends))
        waveform = observation.period_us is not None and signal.unit != "1"
        if waveform and observation.n >= FLAT_SAMPLES and low == high:
            flags |= Quality.FLAT_LINE
        if observation.values_type == "i2" and (low == -32768 or high == 32767):
            flags |= Quality.SATURATED
    if extremes is not None and (
        (signal.low is not None and extremes[0] < signal.low) or (signal.high is not None and extremes[1] > signal.high)
    ):
        flags |= Quality.RANGE
    questionable = flags & (Quality.RANGE | Quality.FLAT_LINE | Quality.SATURATED)
    return flags, Validity.QUESTIONABLE if questionable else Validity.VALID
