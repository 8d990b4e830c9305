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
from wardround.watch.novel_stream import Kept, Learning, NovelStream

HOUR_US = 3_600_000_000
LEARNING = Learning(warm_up=12, learnt=24, quiet=24, evidence_max=48)  # hours
OVER_HOURS = 6
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


class TrendNovelty:
    """Every patient of one edge."""

    def __init__(self) -> None:
        self._patients: dict[str, dict[str, NovelStream]] = {}  # the one that was heard of last comes last
        self._changed = set[str]()

    def hour(self, subject: str, vital: str, hour: int, median: float) -> UnusualHour | None:
        """The median of an hour that is over (hours since 1970); one that is not newer than the last is left out."""
        own = self._patients.pop(subject, {})
        self._patients[subject] = own
        while len(self._patients) > PATIENTS_MAX:
            quietest = next(iter(self._patients))
            del self._patients[quietest]
            self._changed.add(quietest)
        stream = own.get(vital)
        if stream is None:
            if len(own) >= VITALS_MAX:
                return None
            stream = own[vital] = NovelStream(LEARNING)
        t_us = hour * HOUR_US
        if t_us <= stream.newest_us or not math.isfinite(median):
            return None
        found = stream.update(t_us, median)
        self._changed.add(subject)
        return UnusualHour(subject, vital, t_us, median, found.score, found.threshold, found.evidence) if found else None

    def standing(self, now_us: int) -> set[tuple[str, str]]:
        """Patients and vital signs of which an hour was new lately."""
        lately = now_us - (OVER_HOURS + 1) * HOUR_US
        streams = ((subject, vital, stream) for subject, own in self._patients.items() for vital, stream in own.items())
        return {(subject, vital) for subject, vital, stream in streams if stream.spoke_after(lately)}

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
        try:
            own = msgspec.msgpack.decode(state, type=dict[str, Kept])
            self._patients[subject] = {vital: NovelStream(LEARNING, kept) for vital, kept in own.items()}
        except MALFORMED as error:
            raise ValueError(f"this is no state of a patient's trends: {error}") from error

    def _state(self, subject: str) -> bytes:
        own = self._patients.get(subject)
        return b"" if own is None else msgspec.msgpack.encode({vital: stream.kept() for vital, stream in own.items()})
