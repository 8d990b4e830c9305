"""What the current model finds in live windows: a run of ventricular beats, a fall in activity. Pure.

Probabilities are calibrated before they come here (learn/calibration.py: a temperature from subjects who never train); so a
confidence means what it says as far as that does. It is blind to what the model has never seen. A run is three or more
ventricular beats in a row (AHA/ACC/HRS 2017, Circulation 138(13)); its confidence is the probability of its surest three,
taken as independent, which is less sure than they are. A fall is a day with much less walking than this patient's own days.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec

SECOND_US, HOUR_US = 1_000_000, 3_600_000_000
RUN_MIN, GAP_US, SUSTAINED_US = 3, 2 * SECOND_US, 30 * SECOND_US
FAST = 100.0  # a minute: slower runs are seldom urgent
CONFIDENT = 0.8
QUIET_US = 600 * SECOND_US  # without another run, it is over
DAYS_BEFORE, DAYS_MIN, HOURS_MIN = 7, 3, 6  # that are compared; of them with enough; hours with windows that make a day
WINDOWS_MIN = 60  # that make an hour
FALL, BACK, USUAL_MIN = 0.4, 0.6, 0.02  # shares of the usual share; the least usual share that can fall
PATIENTS_MAX = 500
LiveKind = Literal["ectopic-run", "activity-fall"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LiveEpisode:
    """Something that the model found: `count` beats at `rate` a minute; or of `count` windows, `rate` times the usual walking."""

    subject: str
    kind: LiveKind
    priority: Literal["high", "medium", "low"]
    over: bool
    since_us: int
    seen_us: int
    confidence: float = 0.0
    count: int = 0
    rate: float = 0.0


class _Rhythm(msgspec.Struct):
    newest_us: int = 0
    began_us: int = 0  # of the run under way
    last_us: int = 0
    beats: int = 0
    sure: list[float] = []  # of its last beats
    best: float = 0.0
    open_since_us: int = 0
    open_priority: str = ""
    found_us: int = 0


class _Activity(msgspec.Struct):
    newest_us: int = 0
    hours: dict[int, tuple[int, float, float]] = {}  # windows, of which walking, sum of confidence
    open_since_us: int = 0
    judged: int = 0


class _Saved(msgspec.Struct):
    rhythms: dict[str, _Rhythm] = {}
    activities: dict[str, _Activity] = {}


class LiveModel:
    """Every patient of one edge."""

    def __init__(self) -> None:
        self._saved = _Saved()

    def beats(self, subject: str, t_us: Sequence[int], ventricular: Sequence[float]) -> list[LiveEpisode]:
        """The beats of a patient in order, with the probability that each is ventricular; ones from before change nothing."""
        rhythm = _of(self._saved.rhythms, subject, _Rhythm)
        found: list[LiveEpisode] = []
        for at_us, p in zip(t_us, ventricular, strict=True):
            if at_us <= rhythm.newest_us or not math.isfinite(p):
                continue
            rhythm.newest_us = at_us
            if p < 0.5 or at_us - rhythm.last_us > GAP_US:
                rhythm.beats, rhythm.sure, rhythm.best = 0, [], 0.0
            if p < 0.5:
                continue
            if not rhythm.beats:
                rhythm.began_us = at_us
            rhythm.beats, rhythm.last_us, rhythm.sure = rhythm.beats + 1, at_us, [*rhythm.sure[1 - RUN_MIN :], p]
            if rhythm.beats >= RUN_MIN:
                rhythm.best = max(rhythm.best, math.prod(rhythm.sure))
                if rhythm.best >= CONFIDENT and (episode := self._run(subject, rhythm)) is not None:
                    found.append(episode)
        return found

    def windows(self, subject: str, t_us: Sequence[int], walking: Sequence[float], confidence: Sequence[float]) -> None:
        """Windows of movement in order, with the probability that the patient walks in each, and that of its likeliest class."""
        activity = _of(self._saved.activities, subject, _Activity)
        for at_us, p, sure in zip(t_us, walking, confidence, strict=True):
            if at_us > activity.newest_us and math.isfinite(p):
                activity.newest_us = at_us
                n, walked, sum_ = activity.hours.get(at_us // HOUR_US, (0, 0.0, 0.0))
                activity.hours[at_us // HOUR_US] = (n + 1, walked + p, sum_ + sure)

    def tick(self, now_us: int) -> list[LiveEpisode]:
        """Look at the clock: runs that are over, and once an hour, days with little walking."""
        found = []
        for subject, rhythm in self._saved.rhythms.items():
            if rhythm.open_priority and now_us - rhythm.found_us > QUIET_US:
                since_us, rhythm.open_priority = rhythm.open_since_us, ""
                found.append(LiveEpisode(subject, "ectopic-run", "medium", True, since_us, now_us))
        for subject, activity in self._saved.activities.items():
            hour = now_us // HOUR_US
            if hour != activity.judged:
                activity.judged = hour
                activity.hours = {h: v for h, v in activity.hours.items() if hour - 24 * (DAYS_BEFORE + 1) <= h <= hour}
                if (episode := self._day(subject, activity, hour, now_us)) is not None:
                    found.append(episode)
        return found

    def forget(self, subject: str) -> None:
        """A patient has gone home, or is erased."""
        self._saved.rhythms.pop(subject, None)
        self._saved.activities.pop(subject, None)

    def subjects(self) -> set[str]:
        """Every patient that is remembered."""
        return {*self._saved.rhythms, *self._saved.activities}

    def state(self) -> bytes:
        """Everything that is remembered."""
        return msgspec.msgpack.encode(self._saved)

    def restore(self, state: bytes) -> None:
        """Take up a kept state.

        Raises:
            ValueError: it is none.
        """
        try:
            self._saved = msgspec.msgpack.decode(state, type=_Saved)
        except msgspec.DecodeError as error:
            raise ValueError(f"this is no state of a live model: {error}") from error

    # -- how

    def _run(self, subject: str, rhythm: _Rhythm) -> LiveEpisode | None:
        """A run as it stands, where people do not know of one as urgent."""
        span_us = rhythm.last_us - rhythm.began_us
        rate = 60e6 * (rhythm.beats - 1) / span_us if span_us > 0 else 0.0
        priority: Literal["high", "medium", "low"] = "high" if span_us >= SUSTAINED_US else "medium" if rate >= FAST else "low"
        rhythm.found_us = max(rhythm.found_us, rhythm.last_us)
        order = ("", "low", "medium", "high")
        if order.index(priority) <= order.index(rhythm.open_priority):
            return None
        if not rhythm.open_priority:
            rhythm.open_since_us = rhythm.began_us
        rhythm.open_priority = priority
        since_us, seen_us = rhythm.open_since_us, rhythm.last_us
        return LiveEpisode(subject, "ectopic-run", priority, False, since_us, seen_us, rhythm.best, rhythm.beats, rate)

    def _day(self, subject: str, activity: _Activity, hour: int, now_us: int) -> LiveEpisode | None:
        today = _share(activity, range(hour - 24, hour))
        days = (_share(activity, range(hour - 24 * (d + 1), hour - 24 * d)) for d in range(1, DAYS_BEFORE + 1))
        before = [day for day in days if day is not None]
        if today is None or len(before) < DAYS_MIN or (usual := statistics.median(s for s, _, _ in before)) < USUAL_MIN:
            return None
        share, sure, count = today
        if not activity.open_since_us and share <= FALL * usual:
            activity.open_since_us = now_us
            return LiveEpisode(subject, "activity-fall", "low", False, now_us, now_us, sure, count, share / usual)
        if activity.open_since_us and share >= BACK * usual:
            since_us, activity.open_since_us = activity.open_since_us, 0
            return LiveEpisode(subject, "activity-fall", "low", True, since_us, now_us, sure, count, share / usual)
        return None


def _share(activity: _Activity, hours: Iterable[int]) -> tuple[float, float, int] | None:
    """Share of the windows of a day in which the patient walks, mean confidence, windows; None: too little is known of it."""
    known = [activity.hours[h] for h in hours if h in activity.hours and activity.hours[h][0] >= WINDOWS_MIN]
    if len(known) < HOURS_MIN:
        return None
    n = sum(k for k, _, _ in known)
    return sum(w for _, w, _ in known) / n, sum(c for _, _, c in known) / n, n


def _of(known: dict[str, T], subject: str, make: Callable[[], T]) -> T:
    """What is remembered of a patient; beyond PATIENTS_MAX the one that was first is forgotten."""
    if subject not in known:
        known[subject] = make()
        if len(known) > PATIENTS_MAX:
            del known[next(iter(known))]
    return known[subject]
