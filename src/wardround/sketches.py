"""Histograms with fixed bins: what a day of a signal looked like, small, mergeable, and comparable with another day.

Bins divide a signal's plausible range evenly; what lies outside, and what is missing, is counted apart. Merging is addition, so
days, wards and edges add up in any order. Drift is the population stability index (Siddiqi, Credit Risk Scorecards, Wiley 2006,
with half a count added to each bin so that an empty one does not make it infinite) and the Kolmogorov-Smirnov distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 64
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sketch:
    """Counts of values from `low` to `high`: the first bin is below, the last one above; shape (BINS + 2,)."""

    low: float
    high: float
    counts: Counts
    missing: int = 0
    total: float = 0.0  # sum of the values, for an exact mean

    @property
    def n(self) -> int:
        """How many values."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Exact; NaN when empty."""
        return self.total / self.n if self.n else float("nan")

    @property
    def width(self) -> float:
        """Of a bin: no quantile is further off than that, as long as it lies in the range."""
        return (self.high - self.low) / (len(self.counts) - 2)

    def quantile(self, share: float) -> float:
        """The value below which that share of the values lies, to within a bin's width; NaN when empty."""
        if not self.n:
            return float("nan")
        below = np.concatenate([[0], np.cumsum(self.counts)])
        wanted = share * self.n
        bin_ = int(np.clip(np.searchsorted(below, wanted, side="right") - 1, 0, len(self.counts) - 1))
        inside = (wanted - below[bin_]) / max(1, self.counts[bin_])
        return float(np.clip(self.low + (bin_ - 1 + inside) * self.width, self.low, self.high))


def sketch(values: Floats, low: float, high: float, bins: int = BINS) -> Sketch:
    """The sketch of values, shape (n,); NaN counts as missing.

    Raises:
        ValueError: the range is empty.
    """
    if not high > low:
        raise ValueError(f"a range from {low} to {high}")
    there = values[np.isfinite(values)]
    place = np.floor((there - low) / (high - low) * bins).astype(np.int64) + 1
    place = np.where(there == high, bins, place).clip(0, bins + 1)
    counts = np.bincount(place, minlength=bins + 2).astype(np.int64)
    return Sketch(low, high, counts, int(len(values) - len(there)), float(there.sum()))


def merge(a: Sketch, b: Sketch) -> Sketch:
    """Both together.

    Raises:
        ValueError: their bins differ.
    """
    _same(a, b)
    return Sketch(a.low, a.high, a.counts + b.counts, a.missing + b.missing, a.total + b.total)


def stability_index(expected: Sketch, found: Sketch) -> float:
    """Population stability index: under 0.1 the same, over 0.25 another population, by the usual rule of thumb.

    Raises:
        ValueError: their bins differ.
    """
    _same(expected, found)
    a, b = (s.counts + 0.5 for s in (expected, found))
    p, q = a / a.sum(), b / b.sum()
    return float(((q - p) * np.log(q / p)).sum())


def distance(a: Sketch, b: Sketch) -> float:
    """Kolmogorov-Smirnov: the largest gap between the two distributions, 0 to 1; to within what a bin holds.

    Raises:
        ValueError: their bins differ.
    """
    _same(a, b)
    if not a.n or not b.n:
        return 0.0
    return float(np.abs(np.cumsum(a.counts) / a.n - np.cumsum(b.counts) / b.n).max())


def _same(a: Sketch, b: Sketch) -> None:
    if (a.low, a.high, len(a.counts)) != (b.low, b.high, len(b.counts)):
        raise ValueError("sketches of other bins cannot be put together")
