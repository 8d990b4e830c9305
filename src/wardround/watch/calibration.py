"""Thresholds from a healthy period: what a study's own detectors reach when nothing is wrong.

Of every healthy round the highest score of each sign is kept, HEALTHY_ROUNDS of them. The threshold is then MARGIN times their
maximum, or more where the tail of the scores says that the budget of false alarms would not hold, and never less than the shipped
default: a maximum of so few rounds is often exceeded in the next thousand. Until then the defaults hold, and the report says so.
What is calibrated belongs to one study in one configuration. Pure; a fault that was there from the first round is calibrated in.
Source of the tail: peaks over threshold with exponential excesses, Davison, Smith, Models for Exceedances over High Thresholds,
JRSS B 52(3), 1990. MARGIN and the defaults were measured in simulation: 1.7 false alarms in 1,000 rounds at 1.15.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from wardround.watch.detectors.seen import Sign

HEALTHY_ROUNDS = 70
MARGIN = 1.15
BUDGET_PER_1000 = 2.0
TAIL_SHARE = 0.2  # of the rounds: the highest, whose excesses speak for the tail
VALUES_MIN = 30  # of a sign, for a threshold of its own
HIGHEST = 2.5  # times the default: beyond it a sign would be blind


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """One sign's threshold. `highest` is the highest healthy score; `per_1000` the false alarms expected, None: not known yet."""

    sign: str
    value: float
    default: float
    highest: float | None = None
    per_1000: float | None = None


class CalibrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """How far calibration is, and what it has found."""

    configuration: str
    rounds: int  # healthy ones
    needed: int
    calibrated: bool
    budget_per_1000: float
    per_1000: float | None  # false alarms expected of all signs together
    thresholds: tuple[Threshold, ...]
    rounds_seen: int = 0

    @property
    def words(self) -> str:
        """One line for people."""
        if not self.calibrated:
            return f"not calibrated yet: {self.rounds} of {self.needed} healthy rounds; the shipped thresholds hold"
        expected = f"{self.per_1000:.2g}" if self.per_1000 is not None else "an unknown number of"
        held = "" if self.per_1000 is None or self.per_1000 <= self.budget_per_1000 else ", which is over its budget"
        budget = f"budget {self.budget_per_1000:g}"
        return f"calibrated on {self.rounds} healthy rounds: {expected} false alarms in 1,000 rounds expected ({budget}){held}"


class _Saved(msgspec.Struct):
    configuration: str
    rounds: int
    highest: dict[str, list[float]]


class Calibration:
    """The thresholds of one study. Memory: HEALTHY_ROUNDS numbers a sign."""

    def __init__(self, configuration: str, signs: Mapping[str, Sign], *, budget_per_1000: float = BUDGET_PER_1000) -> None:
        """`configuration` is a digest of what the study is; another one begins anew."""
        self._configuration, self._signs, self._budget = configuration, dict(signs), budget_per_1000
        self._rounds = 0
        self._highest: dict[str, list[float]] = {name: [] for name in signs}
        self._thresholds: dict[str, Threshold] = {}
        self._settle()

    @property
    def calibrated(self) -> bool:
        """Whether there were healthy rounds enough."""
        return self._rounds >= HEALTHY_ROUNDS

    def threshold(self, sign: str) -> float:
        """Above it a score is an alarm."""
        return self._thresholds[sign].value

    def healthy(self, highest: Mapping[str, float]) -> None:
        """A round in which nothing was wrong, with the highest score of each sign. A round without scores teaches nothing."""
        if self.calibrated or not highest:
            return
        self._rounds += 1
        for name, score in highest.items():
            if math.isfinite(score):
                self._highest[name].append(score)
        if self.calibrated:
            self._settle()

    def report(self, rounds_seen: int = 0) -> CalibrationReport:
        """How far it is."""
        self._settle()
        each = tuple(self._thresholds[name] for name in self._signs)
        known = [t.per_1000 for t in each if t.per_1000 is not None]
        return CalibrationReport(
            configuration=self._configuration,
            rounds=self._rounds,
            needed=HEALTHY_ROUNDS,
            calibrated=self.calibrated,
            budget_per_1000=self._budget,
            per_1000=sum(known) if known else None,
            thresholds=each,
            rounds_seen=rounds_seen,
        )

    def again(self) -> None:
        """Forget what was found: the next healthy rounds count."""
        self._rounds, self._highest = 0, {name: [] for name in self._signs}
        self._settle()

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        return msgspec.msgpack.encode(_Saved(self._configuration, self._rounds, self._highest))

    def restore(self, state: bytes) -> bool:
        """Take up a kept state; False: it is of another configuration, and calibration begins anew.

        Raises:
            msgspec.MsgspecError: it is none.
        """
        saved = msgspec.msgpack.decode(state, type=_Saved)
        if saved.configuration != self._configuration or set(saved.highest) != set(self._signs):
            return False
        self._rounds, self._highest = saved.rounds, saved.highest
        self._settle()
        return True

    def _settle(self) -> None:
        share = self._budget / 1000 / max(1, len(self._signs))
        for name, sign in self._signs.items():
            scores = self._highest[name]
            if not self.calibrated or len(scores) < VALUES_MIN:
                highest = max(scores, default=None)
                self._thresholds[name] = Threshold(sign=name, value=sign.default, default=sign.default, highest=highest)
                continue
            tail = _Tail(scores)
            wanted = max(sign.default, MARGIN * max(scores), tail.reached(share))
            value = min(wanted, HIGHEST * sign.default)
            self._thresholds[name] = Threshold(
                sign=name, value=value, default=sign.default, highest=max(scores), per_1000=1000 * tail.rate(value)
            )


class _Tail:
    """How often scores go beyond a value, from the highest of a sample."""

    def __init__(self, scores: list[float]) -> None:
        ordered = sorted(scores)
        count = max(2, round(TAIL_SHARE * len(ordered)))
        self._from = ordered[-count - 1]
        self._share = count / len(ordered)
        self._excess = sum(s - self._from for s in ordered[-count:]) / count

    def rate(self, value: float) -> float:
        """The share of rounds beyond a value."""
        if self._excess <= 0:
            return 0.0 if value >= self._from else 1.0
        return min(1.0, self._share * math.exp(-(value - self._from) / self._excess))

    def reached(self, share: float) -> float:
        """The value that so many rounds go beyond."""
        return self._from + self._excess * math.log(max(1.0, self._share / share))
