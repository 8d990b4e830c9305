"""Trends: what one signal of one subject did in each hour and each day, and how much of that time it was there.

Windows are aligned to the clock in UTC. The order in which data came makes no difference: samples are ordered by time, and of
equal times by value. Flagged samples are left out of the numbers, and count as missing in the completeness.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.process.transforms.cleaning import CHUNK_FAST_US, CHUNK_SLOW_US, Clean
from wardround.records import Floats

HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
SLOPE_SAMPLES_MIN = 3


@dataclass(frozen=True, slots=True)
class Trend:
    """One window of one signal; values in the unit of the signal."""

    subject: str
    code: str
    unit: str
    t_us: int  # start
    width_us: int
    n: int  # good samples
    expected: int  # samples that the window has when nothing is missing
    mean: float
    std: float  # of the population
    low: float
    p05: float
    median: float
    p95: float
    high: float
    slope_per_h: float  # least squares; NaN for fewer than three samples
    first: float
    last: float

    @property
    def completeness(self) -> float:
        """Share of the window in which there was a good sample, 0 to 1."""
        return min(1.0, self.n / self.expected) if self.expected else 0.0


def trends(chunks: Sequence[Clean], widths_us: Sequence[int] = (HOUR_US, DAY_US)) -> Iterator[Trend]:
    """The trends of one subject's signals, by signal, width and time; a window without a good sample has no row."""
    for _code, group in itertools.groupby(sorted(chunks, key=lambda c: (c.code, c.t0_us)), key=lambda c: c.code):
        own = list(group)
        good = [c.good for c in own]
        times = np.concatenate([c.times_us[g] for c, g in zip(own, good, strict=True)])
        values = np.concatenate([c.values[g] for c, g in zip(own, good, strict=True)]).astype(np.float64)
        order = np.lexsort((values, times))
        times, values = times[order], values[order]
        for width_us in widths_us:
            chunk_us = CHUNK_FAST_US if own[0].period_us else CHUNK_SLOW_US
            expected = max(1, round(max(c.expected for c in own) * width_us / chunk_us))
            for t_us, when, what in _windows(times, values, width_us):
                yield _trend(own[0], t_us, width_us, expected, when, what)


def _windows(times: NDArray[np.int64], values: Floats, width_us: int) -> Iterator[tuple[int, NDArray[np.int64], Floats]]:
    if not len(times):
        return
    windows = times // width_us
    first = np.flatnonzero(np.diff(windows, prepend=windows[0] - 1))
    for a, b in itertools.pairwise([*first, len(times)]):
        yield int(windows[a] * width_us), times[a:b], values[a:b]


def _trend(signal: Clean, t_us: int, width_us: int, expected: int, times: NDArray[np.int64], values: Floats) -> Trend:
    p05, median, p95 = np.percentile(values, [5, 50, 95])
    hours = (times - t_us) / HOUR_US
    spread = np.square(hours - hours.mean()).sum()
    enough = len(values) >= SLOPE_SAMPLES_MIN and spread > 0
    slope = float(((hours - hours.mean()) * (values - values.mean())).sum() / spread) if enough else float("nan")
    return Trend(
        subject=signal.subject,
        code=signal.code,
        unit=signal.unit,
        t_us=t_us,
        width_us=width_us,
        n=len(values),
        expected=expected,
        mean=float(values.mean()),
        std=float(values.std()),
        low=float(values.min()),
        p05=float(p05),
        median=float(median),
        p95=float(p95),
        high=float(values.max()),
        slope_per_h=slope,
        first=float(values[0]),
        last=float(values[-1]),
    )
