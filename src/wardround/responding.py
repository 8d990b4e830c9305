"""Carries out what watch/respond.py decides: from an open alert to a quarantine, a rollback, a pause, more rounds.

What is planned is in the store before it is done, done through the same requests that people make (one id, once), and settled
after; a hub that was killed in between finishes it when the study is open again. It never runs under the lock of the watch or of
a study: alerts wake it, and it looks at the alert book by itself, so that none is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import structlog

from wardround.clock import Clock
from wardround.errors import StudyError, WardroundError
from wardround.learn.messages import Notice
from wardround.records import EdgeId
from wardround.store import Request, Store
from wardround.studies import RunningStudy, Studies
from wardround.threads import pairs
from wardround.watch.alerts import Alert, Finding, State
from wardround.watch.respond import (
    BY_ITSELF,
    HOLDS,
    NOT_BACK,
    Act,
    CannotUndo,
    Entry,
    HeldBack,
    ResponseBook,
    Situation,
    cause_of,
    kinds,
)
from wardround.watch.respond import State as Stands
from wardround.watch.response_words import UndoWords, before_undo, held_back, on_alert, what
from wardround.watch.watcher import Watch

log = structlog.get_logger(__name__)
STATE = "response-book"
TOPIC = "responses"
LOOK_S = 1.0
AGAIN_S = 10.0
Record = Callable[..., None]  # (kind, what, who, **facts): an entry of the audit log


class Responding:
    """One hub's. Safe to use from several threads; `look` and `undo` may wait for the disk and for a study's lock."""

    def __init__(
        self,
        *,
        store: Store,
        watch: Watch,
        studies: Studies,
        clock: Clock,
        record: Record,
        tell: Callable[[EdgeId, Notice], None],
    ) -> None:
        """`tell` says to an edge what became of its updates."""
        self._store, self._watch, self._studies, self._clock = store, watch, studies, clock
        self._record, self._tell = record, tell
        self._lock = threading.RLock()
        self._book = ResponseBook(store.load_state(STATE) or b"")
        self._considered: dict[str, tuple[object, float]] = {}  # by study: what was looked at last, and when
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()

    # -- running

    async def run(self) -> None:
        """Look whenever an alert has changed, and once a second, until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._woken.wait()
            self._woken.clear()
            await asyncio.to_thread(self.look)

    def wake(self) -> None:
        """An alert has changed. Returns at once, from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: so has the hub
                self._loop.call_soon_threadsafe(self._woken.set)

    def look(self) -> None:
        """One turn: finish what a kill interrupted, see what has ended, respond to open alerts, answer people."""
        with self._lock:
            for entry in self._book.unfinished():
                self._finish(entry)
            firing = [a for a in self._watch.open_alerts() if a.state is State.FIRING and not a.inhibited_by]
            for name, running in pairs(self._studies.running):
                self._look_at(running, [a for a in firing if a.finding.study == name])
        for request in self._store.requests(TOPIC):
            self._store.put_request(self._answered(request))

    def _look_at(self, running: RunningStudy, firing: list[Alert]) -> None:
        study = running.study
        wanted = kinds(study.respond)
        concerned = [a for a in firing if a.finding.kind in wanted]
        holding = any(e.state in HOLDS and e.study == study.name for e in self._book.entries())
        if not concerned and not holding:
            return
        now = self._situation(running, firing)
        ended = self._book.look(now, self._clock.now_us())
        if ended:
            self._save()
        for entry in ended:
            self._say(entry)
        key, now_s = (now, tuple(cause_of(a) for a in concerned)), self._clock.monotonic_s()
        seen, seen_s = self._considered.get(study.name, (None, 0.0))
        if key == seen and now_s - seen_s < AGAIN_S:
            return  # nothing has changed but the time, and a limit of hours can wait for that
        self._considered[study.name] = (key, now_s)
        for alert in concerned:
            if self._respond(alert, running, now):
                now = self._situation(running, firing)

    def _situation(self, running: RunningStudy, firing: list[Alert]) -> Situation:
        study, coordinator = running.study, running.coordinator
        held_back = set(study.score.held_back_edges)
        edges = frozenset(e.name for e in self._store.edges() if e.revoked_us is None and e.name not in held_back)
        drift = study.respond.retrain.kinds
        wanted = {a.finding.kind for a in firing} & set(study.respond.rollback.kinds)
        releases = running.releases
        good = releases.last_good() if releases is not None and wanted else None
        return Situation(
            study=study.name,
            round_number=running.newest.number + 1 if running.newest is not None else 0,
            edges=edges,
            aside=frozenset(map(str, coordinator.quarantined())),
            quorum=study.rounds.edges_min,
            paused=coordinator.paused,
            finished=coordinator.finished,
            newest=max((e.number for e in releases.entries()), default=0) if good is not None and releases is not None else 0,
            last_good=good.number if good is not None else None,
            shown=running.watched.shown() if running.watched is not None and wanted else {},
            setting_aside=running.watched.setting_aside() if running.watched is not None else (0, 0),
            abandoned=running.watched.abandoned_attempts() if running.watched is not None else 0,
            drifting=frozenset(a.finding.edge for a in firing if a.finding.kind in drift and a.finding.edge),
        )

    # -- doing

    def _respond(self, alert: Alert, running: RunningStudy, now: Situation) -> bool:
        """Whether something was done, or tried."""
        found = self._book.consider(alert, running.study.respond, now, self._clock.now_us())
        if found is None:
            return False
        if isinstance(found, HeldBack):
            if alert.response is None or not alert.response.undo:  # what was done before stays to be seen, and to be undone
                self._watch.responded(alert.alert_id, held_back(found))
            return False
        self._save()  # before it is done
        if found.state is Stands.DRY_RUN:
            self._say(found)
        else:
            self._finish(found)
        return True

    def _finish(self, entry: Entry) -> None:
        """Do what is planned, or undo what is to be undone: now, or again after a kill."""
        running = self._studies.running.get(entry.study)
        if running is None:
            return  # it is opened soon, or never again; what is planned waits
        undoing = entry.state is Stands.UNDOING
        who, why = (entry.ended_by, entry.ended_why) if undoing else (BY_ITSELF, entry.kind)
        try:
            facts = {"response": entry.response_id, "act": entry.act.value, "study": entry.study, "alert": entry.alert_id}
            if entry.edge:
                facts["edge"] = entry.edge
            self._record("change", "response undone" if undoing else "response", who, reason=why, **facts)
        except WardroundError as error:  # what cannot be recorded is not done; the next look tries again
            log.error("a response could not be recorded", response=entry.response_id, error=str(error))
            return
        try:
            answer, done = (self._undo(entry) if undoing else self._do(entry, running)), True
        except WardroundError as error:
            answer, done = f"{error}{f'; {error.remedy}' if error.remedy else ''}", False
        settled = self._book.settle(entry.response_id, done=done, answer=answer, now_us=self._clock.now_us())
        self._save()
        log.warning("response", response=entry.response_id, act=entry.act.value, study=entry.study, state=settled.state.value)
        self._say(settled)

    def _do(self, entry: Entry, running: RunningStudy) -> str:
        """Raises WardroundError: it cannot be done."""
        ask, study = self._studies.ask, entry.study
        request, why = entry.response_id, f"{entry.kind}, {entry.alert_id}, {entry.response_id}"
        if entry.act is Act.QUARANTINE:
            until = entry.until_round
            done = ask(
                f"quarantine:{entry.edge}", study, who=BY_ITSELF, reason=_reason(entry), to_round=until, request_id=request
            )
            self._tell(EdgeId(entry.edge), Notice(study, entry.made_round, "aside", entry.kind, f"until round {until}"))
            return done
        if entry.act is Act.ROLLBACK:
            return ask("rollback", study, who=BY_ITSELF, reason=why, to_round=entry.to_round, request_id=request)
        if entry.act is Act.PAUSE:
            return self._pause(entry, why)
        if entry.act is Act.RETRAIN:
            return ask("retrain", study, who=BY_ITSELF, reason=why, to_round=entry.rounds, request_id=request)
        return self._learn_anew(running, entry)

    def _pause(self, entry: Entry, why: str) -> str:
        """Pause first, so that no round begins in between; then go back, if that is a part of it."""
        ask, study = self._studies.ask, entry.study
        said = ask("pause", study, who=BY_ITSELF, reason=why, request_id=entry.response_id)
        if not entry.from_round:
            return said
        back = f"{entry.response_id}-back"  # a request of its own: each is carried out once
        try:
            return f"{said}; {ask('rollback', study, who=BY_ITSELF, reason=why, to_round=entry.to_round, request_id=back)}"
        except WardroundError as error:  # the pause holds all the same, and can be undone
            return f"{said}; {NOT_BACK}: {error}"

    def _undo(self, entry: Entry) -> str:
        """Raises WardroundError: it cannot be undone."""
        study, who, reason = entry.study, entry.ended_by, entry.ended_why
        request = f"{entry.response_id}-undo"
        if entry.act is Act.QUARANTINE:
            aside = self._studies.running[study].coordinator.set_aside(EdgeId(entry.edge))
            if aside is None:
                return f"{entry.edge} counts already"
            if aside[1] != _reason(entry):
                remedy = f"`wardround study release {study} {entry.edge}` lets it count all the same"
                raise StudyError(f"{entry.edge} is set aside for something else meanwhile: {aside[1]}", remedy=remedy)
            return self._studies.ask(f"release:{entry.edge}", study, who=who, reason=reason, request_id=request)
        if entry.act is Act.ROLLBACK:
            to = entry.from_round
            return self._studies.ask("rollback", study, who=who, reason=reason, to_round=to, request_id=request)
        if entry.act is Act.PAUSE:
            return self._studies.ask("resume", study, who=who, reason=reason, request_id=request)
        if entry.act is Act.RETRAIN:
            kind = f"withdraw:{entry.response_id}"
            return self._studies.ask(kind, study, who=who, reason=reason, request_id=request)
        return self._give_back(self._studies.running[study], entry)

    def _learn_anew(self, running: RunningStudy, entry: Entry) -> str:
        """What detectors knew is kept first, once, so that it can be given back. Raises StudyError: there are none."""
        if running.watched is None:
            raise StudyError("no detector watches the training of this study", remedy="set respond.recalibrate.mode to off")
        if not self._store.load_state(_kept(entry)):
            self._store.save_state(_kept(entry), running.watched.state())
        request = entry.response_id
        return self._studies.ask("calibrate", entry.study, who=BY_ITSELF, reason=f"{entry.kind}, {request}", request_id=request)

    def _give_back(self, running: RunningStudy, entry: Entry) -> str:
        """Raises StudyError: what was kept belongs to another configuration."""
        state = self._store.load_state(_kept(entry)) or b""
        if running.watched is None or not running.watched.give_back(state):
            raise StudyError("its thresholds from before are of another configuration", remedy="they are learnt anew")
        self._store.save_state(_kept(entry), b"")
        return "the detectors have their thresholds back"

    def _say(self, entry: Entry) -> None:
        """On the alert: what was done, how long it holds, how it is undone."""
        if entry.state is Stands.UNDONE:
            self._watch.undo(entry.alert_id, entry.ended_by, entry.ended_why)
        else:
            self._watch.responded(entry.alert_id, on_alert(entry))

    def _save(self) -> None:
        self._store.save_state(STATE, self._book.save())

    # -- people

    def undo(self, response_id: str, who: str, reason: str) -> str:
        """Undo a response; what came of it, in words.

        Raises:
            WardroundError: there is nothing to undo, or it cannot be undone, and why.
        """
        with self._lock:
            try:
                entry = self._book.undo(response_id, who, reason)
            except CannotUndo as error:
                raise WardroundError(str(error), remedy="`wardround response list` shows what there is") from error
            self._save()
            self._finish(entry)
            settled = self._book.get(response_id)
            if settled is not None and settled.state is Stands.DONE:
                raise WardroundError(settled.answer, remedy="it holds as before")
            return settled.answer if settled is not None else ""

    def before_undo(self, response_id: str) -> UndoWords | None:
        """What a person reads before they undo it; None when there is nothing to undo."""
        with self._lock:
            entry = self._book.get(response_id)
            running = self._studies.running.get(entry.study) if entry is not None else None
            if entry is None or running is None or not entry.undoable:
                return None
            return before_undo(entry, running.newest.number + 1 if running.newest is not None else 0)

    def dry_run(self, kind: str, study: str, edge: str) -> str:
        """What would be done now about an alert of this kind, in words. Nothing is done or kept.

        Raises:
            WardroundError: the study does not run here.
        """
        with self._lock:
            running = self._studies.running.get(study)
            if running is None:
                raise WardroundError(f"the study {study!r} does not run here", remedy="`wardround study status` lists them")
            alert = _imagined(kind, study, edge, now_us := self._clock.now_us())
            if kind not in kinds(running.study.respond):
                return f"nothing: no response of {study} is about {kind!r}"
            trial = ResponseBook(self._book.save())
            found = trial.consider(alert, running.study.respond, self._situation(running, [alert]), now_us)
        if found is None:
            return "nothing: no response concerns it (a quarantine needs an edge, retraining enough of them)"
        if isinstance(found, HeldBack):
            return held_back(found).what
        mode = getattr(running.study.respond, found.act.value).mode
        would = what(msgspec.structs.replace(found, state=Stands.DRY_RUN))
        return f"{would} ({found.act.value}, mode {mode})"

    def _answered(self, request: Request) -> Request:
        body: Mapping[str, Any] = request.body
        if request.act not in ("undo", "dry-run"):
            return replace(request, state="refused", answer=f"this hub cannot {request.act[:40]!r}: it is of another version")
        try:
            if request.act == "undo":
                answer = self.undo(str(body.get("response", "")), request.who, str(body.get("reason", "")))
            else:
                answer = self.dry_run(str(body.get("kind", "")), str(body.get("study", "")), str(body.get("edge", "")))
        except WardroundError as error:
            return replace(request, state="refused", answer=f"{error}{f'; {error.remedy}' if error.remedy else ''}")
        return replace(request, state="done", answer=answer)


def _imagined(kind: str, study: str, edge: str, now_us: int) -> Alert:
    """An alert that nobody has raised."""
    finding = Finding(
        kind=kind,
        title="",
        priority="info",
        category="model",
        since_us=now_us,
        detected_us=now_us,
        edge=edge,
        study=study,
    )
    return Alert(alert_id="A-0000", state=State.FIRING, finding=finding, raised_us=now_us, changed_us=now_us)


def _kept(entry: Entry) -> str:
    """Under which the store keeps what detectors knew before a response."""
    return f"detectors-before/{entry.response_id}"


def _reason(entry: Entry) -> str:
    """Why an edge is set aside, in the journal: by it a quarantine of ours is told from another."""
    return f"{entry.kind} ({entry.response_id})"
