"""What the hand-over of a shift asks of the hub: the last hours from what the parts know, and the notes of who leaves.

A note is in the hub's records; that it was written and confirmed, by whom and with which digest, is in the audit log, its words
are not: they may say something of a patient.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

from wardround.clock import Clock
from wardround.console.bedside_model import BedsideView
from wardround.console.hand_over_model import (
    NEEDS,
    NOTE_CHARS,
    RISE,
    HandOverView,
    Note,
    ShiftAlert,
    ShiftPart,
    ShiftStudy,
)
from wardround.console.model import URGENCY, Overview, RoutineView
from wardround.console.shared import Shared
from wardround.console.ward_model import SubjectRow
from wardround.desks.alerts import where_of
from wardround.errors import WardroundError
from wardround.store import Store, StudyRecord, StudyRequest
from wardround.store.hand_overs import HandOver, HandOvers
from wardround.trust.roles import Act
from wardround.watch.alerts import Alert, State

HOUR_US = 3_600_000_000
ALERTS_MAX, STUDIES_MAX, DUE_MAX, NOTES_SHOWN = 1_000, 100, 40, 6
SELDOM_US = HOUR_US  # what runs more often than this is not due: it goes on
KEEP_S = 2.0


class Watch(Protocol):
    """The watch, as far as it is asked here."""

    def alerts(self) -> list[Alert]: ...


class AtTheBedside(Protocol):
    """What edges have said."""

    def view(self) -> BedsideView: ...

    def seen(self, who: str) -> bool: ...


class HubHandOverDesk:
    """Of one hub. May be called from any thread."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        overview: Callable[[], Overview],
        routines: Callable[[], Sequence[RoutineView]],
        watch: Watch,
        bedside: AtTheBedside,
        rising: Callable[[str, int], tuple[SubjectRow, ...] | None],
        check: Callable[[str, Act], None],
        record: Callable[..., None],
    ) -> None:
        """`rising(who, points)` are patients whose score went up; `check(who, act)` raises NotAllowed."""
        self._store, self._clock, self._notes = store, clock, HandOvers(store)
        self._overview, self._routines, self._watch, self._bedside = overview, routines, watch, bedside
        self._rising, self._check, self._record = rising, check, record
        self._views: dict[tuple[ShiftPart, int], Shared[HandOverView]] = {}

    def view(self, who: str, part: ShiftPart, hours: int) -> HandOverView:
        """The newest read model of one part.

        Raises:
            NotAllowed: their role does not cover it.
            WardroundError: that somebody sees patients cannot be recorded, and they must not be shown.
        """
        self._check(who, NEEDS[part])
        made = Shared(lambda: self._build(part, hours), self._clock, keep_s=KEEP_S)
        found = self._views.setdefault((part, hours), made)()
        if part == "technical":
            return found
        self._bedside.seen(who)
        own = tuple(row for row in self._bedside.view().rows if row.about_patient)
        return HandOverView(
            part, found.now_us, hours, alerts=found.alerts, bedside=own, rising=self._rising(who, RISE), notes=found.notes
        )

    def write(self, who: str, part: ShiftPart, hours: int, text: str) -> int:
        """Leave a note to the next one; its number.

        Raises:
            NotAllowed: their role does not cover it.
            WardroundError: it is empty or too long, or cannot be recorded.
        """
        self._check(who, NEEDS[part])
        words = text.strip()
        if not words:
            raise WardroundError("a hand-over without words says nothing", remedy="write what the next one should know")
        if len(words) > NOTE_CHARS:
            raise WardroundError(f"a note has {NOTE_CHARS:,} characters at most", remedy="say it shorter; alerts are on the page")
        digest = hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()
        self._record("change", "hand-over written", who, part=part, hours=hours, sha256=digest)
        number = self._notes.add(part, who, hours=hours, text=words, now_us=self._clock.now_us())
        self._forget()
        return number

    def confirm(self, who: str, number: int) -> None:
        """The next one has read it.

        Raises:
            NotAllowed: their role does not cover that part.
            WardroundError: there is none, it is their own, or somebody has.
        """
        found = self._notes.get(number)
        if found is None:
            raise WardroundError(f"there is no hand-over {number}", remedy="look at the page again")
        self._check(who, NEEDS["clinical" if found.part == "clinical" else "technical"])
        if found.who == who:
            raise WardroundError("who has written a hand-over does not confirm it", remedy="the next one on call does")
        if found.confirmed_us:
            raise WardroundError(f"{found.confirmed_by} has confirmed it already", remedy="nothing is left to do")
        self._record("change", "hand-over confirmed", who, number=number, part=found.part, of=found.who)
        if not self._notes.confirm(number, who, self._clock.now_us()):
            raise WardroundError("somebody has confirmed it meanwhile", remedy="nothing is left to do")
        self._forget()

    def _forget(self) -> None:
        for shared in list(self._views.values()):
            shared.forget()

    # -- the read model

    def _build(self, part: ShiftPart, hours: int) -> HandOverView:
        now_us, overview = self._clock.now_us(), self._overview()
        since_us = now_us - hours * HOUR_US
        undoable = {a.alert_id for a in overview.alerts if a.undo_title}
        alerts = [
            _alert(a, since_us, undo=a.alert_id in undoable)
            for a in self._watch.alerts()
            if (a.finding.category == "physiological") is (part == "clinical") and _belongs(a, since_us)
        ]
        alerts.sort(key=lambda a: (not a.open, URGENCY.index(a.priority), -a.since_us))
        notes = tuple(map(_note, self._notes.newest(part, limit=NOTES_SHOWN)))
        if part == "clinical":
            return HandOverView(part, now_us, hours, alerts=tuple(alerts[:ALERTS_MAX]), notes=notes)
        return HandOverView(
            part,
            now_us,
            hours,
            alerts=tuple(alerts[:ALERTS_MAX]),
            silent=tuple(sorted((e for e in overview.edges if e.state == "silent"), key=lambda e: -e.silent_s)),
            aside=tuple(e for e in overview.edges if e.state == "set-aside"),
            studies=_studies(self._store.studies(), self._store.study_requests(asked=False), since_us),
            due=_due(self._routines(), now_us, now_us + hours * HOUR_US),
            notes=notes,
        )


def _belongs(alert: Alert, since_us: int) -> bool:
    return alert.state is not State.PENDING and (alert.open or alert.raised_us >= since_us or alert.changed_us >= since_us)


def _alert(alert: Alert, since_us: int, *, undo: bool) -> ShiftAlert:
    finding, response = alert.finding, alert.response
    done = ""
    if response is not None:
        done = ", ".join(part for part in (response.what, response.until) if part)
        done += f"; undone by {response.undone_by}" if response.undone_us else ""
    last = next((step for step in reversed(alert.history) if step.what == "acknowledged"), None)
    return ShiftAlert(
        alert.alert_id,
        finding.title,
        ", ".join(where_of(alert)),
        finding.priority,
        alert.open,
        alert.raised_us >= since_us,
        finding.since_us,
        last.who if last is not None else alert.acknowledged_by,
        last.t_us if last is not None else 0,
        bool(alert.silenced_by),
        done,
        undo,
    )


def _studies(records: Sequence[StudyRecord], asked: Sequence[StudyRequest], since_us: int) -> tuple[ShiftStudy, ...]:
    """States that are not usual, then what was done in this time, the newest first."""
    states = [
        ShiftStudy(r.name, r.state, why=r.detail, t_us=r.changed_us)
        for r in records
        if r.state in ("paused", "failed") or (r.state in ("stopped", "finished") and r.changed_us >= since_us)
    ]
    acts = [
        ShiftStudy(
            r.study, f"{r.kind.replace(':', ' ')}{'' if r.state == 'done' else f', {r.state}'}", r.who, r.reason, r.asked_us
        )
        for r in reversed(asked)
        if r.asked_us >= since_us
    ]
    return tuple([*states, *acts][:STUDIES_MAX])


def _due(routines: Sequence[RoutineView], now_us: int, until_us: int) -> tuple[RoutineView, ...]:
    """What is late or failed, then what comes in as long a time again, but for what runs all the time."""
    wrong = [r for r in routines if r.late_s or r.outcome == "failed"]
    soon = [
        r
        for r in routines
        if not r.late_s and r.outcome != "failed" and now_us < r.next_us <= until_us and r.next_us - r.last_us >= SELDOM_US
    ]
    return tuple([*wrong, *sorted(soon, key=lambda r: r.next_us)][:DUE_MAX])


def _note(made: HandOver) -> Note:
    return Note(made.number, made.who, made.written_us, made.hours, made.text, made.confirmed_by, made.confirmed_us)
