"""A recording: what one device will report, whether simulated or real. Cut into messages by time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.collect.devices.reading import Reading


@dataclass(frozen=True, slots=True)
class Track:
    """A regular signal as the device's integers: value = origin + counts * scale, in `unit`."""

    key: str  # of signals.toml
    unit: str  # as the device sends it
    period_s: float
    counts: NDArray[np.int32]
    scale: float = 1.0
    origin: float = 0.0
    start_s: float = 0.0

    def between(self, start_s: float, end_s: float) -> tuple[int, int]:
        """The samples of a stretch of the recording: first, and one past the last."""
        first, last = (round((s - self.start_s) / self.period_s) for s in (start_s, end_s))
        return max(0, first), max(0, last)


@dataclass(frozen=True, slots=True)
class Events:
    """Integers at irregular times: annotations."""

    key: str
    times_s: NDArray[np.float64]  # ascending
    counts: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Scalars:
    """Single values now and then."""

    key: str
    unit: str
    times_s: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recording:
    """One patient's device over a stretch of time, from 0 to `duration_s`."""

    patient: str
    device: str
    duration_s: float
    simulated: bool
    source: str
    tracks: tuple[Track, ...] = ()
    events: tuple[Events, ...] = ()
    scalars: tuple[Scalars, ...] = ()

    def messages(self, length_s: float) -> Iterator[tuple[float, list[Reading]]]:
        """Messages of `length_s` of signal each, with the time of their end; times are from 0, in microseconds."""
        for start in np.arange(0.0, self.duration_s, length_s):
            readings = self._between(float(start), float(start) + length_s)
            if readings:
                yield min(float(start) + length_s, self.duration_s), readings

    def _between(self, start: float, end: float) -> list[Reading]:
        readings: list[Reading] = []
        for track in self.tracks:
            first, last = track.between(start, end)
            counts = track.counts[first:last]
            if not len(counts):
                continue
            kind = "i2" if counts.min() >= -32768 and counts.max() <= 32767 else "i4"
            readings.append(
                Reading(
                    name=track.key,
                    unit=track.unit,
                    t_us=round((track.start_s + first * track.period_s) * 1e6),
                    n=len(counts),
                    period_us=track.period_s * 1e6,
                    values=counts.astype("<" + kind).tobytes(),
                    values_type=kind,  # type: ignore[arg-type]  # one of the two
                    scale=track.scale,
                    origin=track.origin,
                )
            )
        for events in self.events:
            first, last = np.searchsorted(events.times_s, [start, end])
            if first == last:
                continue
            times = np.round(events.times_s[first:last] * 1e6).astype(np.int64)
            readings.append(
                Reading(
                    name=events.key,
                    unit="1",
                    t_us=int(times[0]),
                    n=len(times),
                    offsets_us=(times - times[0]).astype("<i4").tobytes(),
                    values=events.counts[first:last].astype("<i2").tobytes(),
                )
            )
        for scalars in self.scalars:
            first, last = np.searchsorted(scalars.times_s, [start, end])
            readings.extend(
                Reading(name=scalars.key, unit=scalars.unit, t_us=round(t * 1e6), value=float(v))
                for t, v in zip(scalars.times_s[first:last], scalars.values[first:last], strict=True)
            )
        return readings
