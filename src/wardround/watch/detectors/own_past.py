"""A number against its own past: what most detectors of training have in common.

Every value is judged by the mean and deviation of those before it, and learned afterwards: nothing looks ahead. The deviation of
a value from a mean of n values is wider than from a known mean, by sqrt(1 + 1/n), so that a short past does not raise alarms.
"""

from __future__ import annotations

import math

import msgspec

REFERENCE = 70  # values of a full past; from then on the oldest fade
REFERENCE_MIN = 20  # before anything is said
WARM_UP = 20  # rounds of a study that teach nothing: a model learns fastest at first
KEYS_MAX = 20_000  # edges remembered; the ones unheard longest are forgotten first
CLIP = 15.0
EWMA_CLIP = 6.0
LEARNED_Z_MAX = 3.0  # a value further off than that does not fade into a full past
LARGEST = 1e100  # what an edge may claim of itself: beyond it numbers are alike


class _Past(msgspec.Struct):
    n: int = 0
    mean: float = 0.0
    variance: float = 0.0
    last: list[float] = []  # the newest z, at most three


class OwnPast:
    """The past of one number by edge."""

    Kept = dict[str, _Past]  # what `save` gives

    def __init__(self, *, sd_min: float, sd_share: float = 0.0, reference_min: int = REFERENCE_MIN) -> None:
        """A deviation counts as at least `sd_min`, and at least `sd_share` of the mean: what is smaller is no sign."""
        self._sd_min, self._sd_share, self._reference_min = sd_min, sd_share, reference_min
        self._past: dict[str, _Past] = {}

    def z(self, key: str, value: float) -> tuple[float, float] | None:
        """How many of its own deviations a value lies above its own mean, clipped to +-CLIP, and that mean; None: too early."""
        past, value = self._past.get(key), _bounded(value)
        if past is None or past.n < self._reference_min:
            return None
        sd = max(math.sqrt(past.variance), self._sd_min, self._sd_share * abs(past.mean))
        z = (value - past.mean) / (sd * math.sqrt(1 + 1 / past.n)) if math.isfinite(value) else CLIP
        z = max(-CLIP, min(CLIP, z))
        past.last = [*past.last[-2:], z]
        return z, past.mean

    def two_of_three(self, key: str, sign: float = 1.0) -> float:
        """What two of the newest three z reach, upwards (`sign` 1) or downwards (-1); 0 before there are two."""
        newest = self._past[key].last
        if len(newest) < 2:
            return 0.0
        newest = sorted(newest)
        return newest[-2] if sign > 0 else -newest[1]

    def three_together(self, key: str) -> float:
        """The mean of the newest three z, upwards, in its own standard deviations; 0 before there are three."""
        newest = self._past[key].last
        return sum(newest) / math.sqrt(len(newest)) if len(newest) > 2 else 0.0

    def learn(self, key: str, value: float) -> None:
        """Take a value into the past."""
        if not math.isfinite(value):
            return
        value = _bounded(value)
        past = self._past.pop(key, None)
        if past is None:
            past = _Past()
        self._past[key] = past  # the newest last
        if len(self._past) > KEYS_MAX:
            del self._past[next(iter(self._past))]
        if past.n >= REFERENCE and past.last and abs(past.last[-1]) > LEARNED_Z_MAX:
            return
        past.n += 1
        weight = 1.0 / min(past.n, REFERENCE)
        deviation = value - past.mean
        past.mean += weight * deviation
        past.variance = (1 - weight) * (past.variance + weight * deviation * deviation)

    def save(self) -> dict[str, _Past]:
        """What is to be kept."""
        return self._past

    def load(self, past: dict[str, _Past]) -> None:
        """Take up what was kept."""
        self._past = past


def _bounded(value: float) -> float:
    """A Python float, for of NumPy's it may be, whose square and whose distance to another such have no overflow; NaN stays."""
    value = float(value)
    return max(-LARGEST, min(LARGEST, value)) if math.isfinite(value) else value


def ewma(before: float, z: float, weight: float) -> float:
    """An exponentially weighted mean of z, of which one counts no more than EWMA_CLIP: an odd round is no course."""
    return before + weight * (max(-EWMA_CLIP, min(EWMA_CLIP, z)) - before)


def ewma_score(mean: float, weight: float) -> float:
    """That mean in its own standard deviations, if the z are independent (Roberts, Technometrics 1(3), 1959)."""
    return mean / math.sqrt(weight / (2 - weight))


class Saved(msgspec.Struct):
    """The state of a detector of one number: its past, rounds seen, and a running statistic by edge."""

    past: dict[str, _Past]
    rounds: int = 0
    running: dict[str, list[float]] = {}
