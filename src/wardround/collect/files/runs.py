"""Samples of a file to runs that travel: waveforms in pieces of ten seconds, single points bundled while they follow closely.

Counts stay the recorder's own integers. How a file is cut depends on its content alone, so that the same content is recognised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.collect.devices.reading import Reading, packed
from wardround.records import Quality

PIECE_S = 10.0
PIECE_SAMPLES_MAX = 8_000  # 32 kB at most: a piece that is set aside can be replayed whole
POINTS_MAX = 600
GAP_US = 600_000_000  # a longer silence ends a run of points
SPAN_US = 2**31 - 1  # what offsets can hold


@dataclass(frozen=True, slots=True)
class Channel:
    """What the samples of one signal have in common: value = origin + count * scale."""

    name: str
    unit: str
    scale: float = 1.0
    origin: float = 0.0
    also: tuple[str, ...] = ()
    t_error_us: int = 0
    flags: int = 0

    def common(self) -> dict[str, Any]:
        """Of every reading of this channel."""
        return {"name": self.name, "unit": self.unit, "also": self.also, "t_error_us": self.t_error_us}


def piece_samples(period_us: float) -> int:
    """How many samples a piece of a waveform has."""
    return int(min(max(1.0, round(PIECE_S * 1e6 / period_us)), PIECE_SAMPLES_MAX))


def waveform(
    channel: Channel, counts: NDArray[np.int64], valid: NDArray[np.bool_], t_us: float, period_us: float, *, gap_before: bool
) -> Iterator[Reading]:
    """Pieces of a regular run that begins at `t_us`, cut where samples are not valid.

    Args:
        counts, valid: shape (n,).
        gap_before: whether samples are missing before the first one.
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], valid, [False])).astype(np.int8)))
    size = piece_samples(period_us)
    for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        for first in range(start, end, size):
            part = counts[first : min(first + size, end)]
            values, kind = packed(part)
            cut = first == start and (start > 0 or gap_before)
            yield Reading(
                **channel.common(),
                t_us=round(t_us + first * period_us),
                n=len(part),
                period_us=period_us if len(part) > 1 else None,
                values=values,
                values_type=kind,
                scale=channel.scale,
                origin=channel.origin,
                flags=channel.flags | (Quality.GAP_BEFORE if cut else 0),
            )


@dataclass
class Points:
    """Points of several channels in the order of their time, to runs. A run ends at a silence or at POINTS_MAX."""

    _waiting: dict[Channel, tuple[list[int], list[int]]] = field(default_factory=dict)

    def add(self, channel: Channel, t_us: int, count: int) -> Iterator[Reading]:
        """Take a point; the run that it ends, if it ends one."""
        times, counts = self._waiting.setdefault(channel, ([], []))
        if times and (len(times) >= POINTS_MAX or not 0 <= t_us - times[-1] <= GAP_US or t_us - times[0] > SPAN_US):
            yield _run(channel, times, counts)
            times, counts = self._waiting[channel] = ([], [])
        times.append(t_us)
        counts.append(count)

    def end(self) -> Iterator[Reading]:
        """What is left."""
        for channel, (times, counts) in self._waiting.items():
            yield _run(channel, times, counts)
        self._waiting.clear()


def _run(channel: Channel, times: list[int], counts: list[int]) -> Reading:
    n = len(times)
    if n == 1:
        value = channel.origin + counts[0] * channel.scale
        return Reading(**channel.common(), t_us=times[0], value=value, flags=channel.flags)
    offsets = np.array(times, np.int64) - times[0]
    steps = np.diff(offsets)
    regular = bool(steps.min() > 0 and steps.min() == steps.max())
    values, kind = packed(np.array(counts, np.int64))
    return Reading(
        **channel.common(),
        t_us=times[0],
        n=n,
        period_us=float(steps[0]) if regular else None,
        offsets_us=None if regular else offsets.astype("<i4").tobytes(),
        values=values,
        values_type=kind,
        scale=channel.scale,
        origin=channel.origin,
        flags=channel.flags,
    )
