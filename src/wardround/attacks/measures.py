"""How well an attack does, always with an interval and beside chance.

Pure: NumPy and SciPy; randomness is a seed that the caller gives. Scores are higher where the attacker says `yes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, rankdata, t

CONFIDENCE = 0.95
RESAMPLES = 200
Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]


class Estimate(NamedTuple):
    """A number, its interval (95 %), and what guessing would give."""

    value: float
    low: float
    high: float
    chance: float

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval lies above chance: the attack did something. If not, that is no proof that none could."""
        return self.low > self.chance


def auc(scores: Floats, truth: Truth) -> float:
    """Area under the ROC curve, ties counting half; NaN without both kinds."""
    yes = int(truth.sum())
    no = truth.size - yes
    if not yes or not no:
        return float("nan")
    ranks = rankdata(scores.ravel())
    return float((ranks[truth.ravel()].sum() - yes * (yes + 1) / 2) / (yes * no))


def true_rate(scores: Floats, truth: Truth, false_rate: float = 0.01) -> float:
    """Share of the true that the attacker names, where it names at most `false_rate` of the others (Carlini et al. 2022).

    NaN without both kinds. With fewer than 1 / `false_rate` others it may name none of them.
    """
    others = np.sort(scores[~truth])[::-1]
    if not len(others) or not truth.any():
        return float("nan")
    return float(np.mean(scores[truth] > others[int(false_rate * len(others))]))


def by_unit(measure: Callable[[Floats, Truth], float], scores: Floats, truth: Truth, chance: float, seed: int) -> Estimate:
    """A measure over scores of shape (models, units), with the bootstrap's percentile interval over the units.

    A unit's scores under all models are drawn together: they are one patient's, and not independent.
    """
    rng = np.random.default_rng([seed, scores.shape[1]])
    found = []
    for _ in range(RESAMPLES):
        units = rng.integers(scores.shape[1], size=scores.shape[1])
        found.append(measure(scores[:, units], truth[:, units]))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail]) if np.isfinite(found).any() else (np.nan, np.nan)
    return Estimate(measure(scores, truth), float(low), float(high), chance)


def share(hits: int, of: int, chance: float) -> Estimate:
    """A share of independent trials, with the interval of Clopper and Pearson (1934), which is never too short."""
    tail = (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, hits, of - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, of - hits)) if hits < of else 1.0
    return Estimate(hits / of if of else float("nan"), low, high, chance)


def mean(values: Floats, chance: float = 0.0) -> Estimate:
    """A mean over seeds with Student's interval; of one value alone the interval is unknown (NaN)."""
    n = len(values)
    middle = float(np.mean(values)) if n else float("nan")
    if n < 2:
        return Estimate(middle, float("nan"), float("nan"), chance)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Estimate(middle, middle - half, middle + half, chance)
