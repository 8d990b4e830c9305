"""Vital signs hour by hour: what was never seen of one of them in this patient is a notice of low priority.

Each vital sign of each patient is a stream of its own for the novelty ensemble (detectors/novelty.py), one point an hour: the
median that the bedside watch makes of it for the patient's own usual. A stream learns for a day, which also says how high its
score goes in this patient; until then nothing is said. Beside the personal baseline, which sees a course in a direction that is
known to be bad, it sees what moves in any direction, or moves more than before. Sans-I/O, bounded memory; of each patient a state
of its own, so that an hour of one patient is what is written, not everybody's days.

Decision support. The monitor at the bedside is the primary alarm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from wardround.malformed import MALFORMED
from wardround.watch.calibration import MARGIN
from wardround.watch.detectors.novelty import Novelty

HOUR_US = 3_600_000_000
WARM_UP, LEARNT, QUIET = 12, 24, 24  # hours that score nothing, that calibrate, in which one novelty speaks
FLOOR = 1.5  # of a score: what two kinds of evidence together reach
OVER_HOURS = 6
EVIDENCE_MAX = 48
PATIENTS_MAX, VITALS_MAX = 500, 12


@dataclass(frozen=True, slots=True)
class UnusualHour:
    """An hour that was never so in this patient: its median, score and threshold, and the newest hours."""

    subject: str
    vital: str
    t_us: int
    value: float
    score: float
    threshold: float
    evidence: tuple[tuple[float, float], ...]


class _Kept(msgspec.Struct):
    novelty: bytes
    seen: int = 0
    highest: float = 0.0  # score of the hours that calibrate
    spoken_us: int = 0  # of what stands
    hour: int = -1  # the newest one
    newest: list[tuple[float, float]] = []


class TrendNovelty:
    """Every patient of one edge."""

    def __init__(self, *, warm_up: int = WARM_UP, learnt: int = LEARNT, quiet: int = QUIET) -> None:
        """Hours, as the constants say."""
        self._hours = (warm_up, learnt, quiet)
        self._patients: dict[str, dict[str, tuple[Novelty, _Kept]]] = {}  # the one that was heard of last comes last
        self._changed = set[str]()

    def hour(self, subject: str, vital: str, hour: int, median: float) -> UnusualHour | None:
        """The median of an hour that is over (hours since 1970); one that is not newer than the last is left out."""
        warm_up, learnt, quiet = self._hours
        own = self._patients.pop(subject, {})
        self._patients[subject] = own
        while len(self._patients) > PATIENTS_MAX:
            quietest = next(iter(self._patients))
            del self._patients[quietest]
            self._changed.add(quietest)
        if vital not in own and len(own) >= VITALS_MAX:
            return None
        novelty, kept = own.setdefault(vital, (Novelty(warm_up=warm_up, quiet=quiet), _Kept(b"")))
        if hour <= kept.hour or not math.isfinite(median):
            return None
        t_us = hour * HOUR_US
        score = novelty.update(t_us, median)
        kept.hour, kept.seen = hour, kept.seen + 1
        kept.newest = [*kept.newest[1 - EVIDENCE_MAX :], (float(t_us), round(median, 3))]
        self._changed.add(subject)
        if kept.seen <= learnt:
            kept.highest = max(kept.highest, score)
            return None
        threshold = max(FLOOR, MARGIN * kept.highest)
        if score <= threshold:
            return None
        kept.spoken_us = t_us
        return UnusualHour(subject, vital, t_us, median, score, threshold, tuple(kept.newest))

    def standing(self, now_us: int) -> set[tuple[str, str]]:
        """Patients and vital signs of which an hour was new lately."""
        lately = now_us - (OVER_HOURS + 1) * HOUR_US
        streams = ((s, vital, kept) for s, own in self._patients.items() for vital, (_, kept) in own.items())
        return {(subject, vital) for subject, vital, kept in streams if kept.spoken_us and kept.spoken_us > lately}

    def subjects(self) -> list[str]:
        """Every patient that is remembered."""
        return list(self._patients)

    def forget(self, subject: str) -> bool:
        """A patient has gone home, or is erased; whether anything was known of them."""
        self._changed.add(subject)
        return self._patients.pop(subject, None) is not None

    def changed(self) -> Mapping[str, bytes]:
        """The state of every patient of whom something is new since `settled`; empty: nothing is known of them any more."""
        return {subject: self._state(subject) for subject in self._changed}

    def settled(self) -> None:
        """What `changed` gave is kept."""
        self._changed.clear()

    def restore(self, subject: str, state: bytes) -> None:
        """Take up a patient's kept state.

        Raises:
            ValueError: it is none.
        """
        warm_up, _, quiet = self._hours
        try:
            own = msgspec.msgpack.decode(state, type=dict[str, _Kept])
        except MALFORMED as error:
            raise ValueError(f"this is no state of a patient's trends: {error}") from error
        taken = {}
        for vital, kept in own.items():
            novelty = Novelty(warm_up=warm_up, quiet=quiet)
            novelty.restore(kept.novelty)
            taken[vital] = (novelty, kept)
        self._patients[subject] = taken

    def _state(self, subject: str) -> bytes:
        own = self._patients.get(subject)
        if own is None:
            return b""
        for novelty, kept in own.values():
            kept.novelty = novelty.state()
        return msgspec.msgpack.encode({vital: kept for vital, (_, kept) in own.items()})
