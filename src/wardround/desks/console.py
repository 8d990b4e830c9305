"""The hub's desk: what the console asks of the hub. One read model a second, shared by every session; acts go to the parts."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from wardround.clock import Clock
from wardround.console.model import AlertView, AtEdgeView, EdgeView, HoursView, Line, Overview, Part, RoutineView, StudyView
from wardround.errors import NotAllowed, WardroundError
from wardround.learn.grpc_wire import Beat
from wardround.records import EdgeId, Observation, is_sandbox
from wardround.store import Store
from wardround.studies import RunningStudy
from wardround.trust.roles import Act, check_act
from wardround.watch.acts import Acts, answer
from wardround.watch.alerts import Alert, needs_person
from wardround.watch.delivery.outbox import Outbox
from wardround.watch.metrics import EdgeFacts, Facts, SinkFacts, StudyFacts
from wardround.watch.response_words import UNDO, UndoWords
from wardround.watch.timetable import Row
from wardround.watch.watcher import Watch

log = structlog.get_logger(__name__)
RATE_S = 10.0
LINES_MAX = 200
ALERTS_SHOWN = 500
JOB_RUNS_LOOKED_AT = 100
SINKS, SILENCES, AT_EDGES = "alert-sinks", "alert-silences", "edge-alerts"  # what other processes see of them, in the store


@dataclass(frozen=True, slots=True)
class Place:
    """What stands on every page."""

    hub: str
    version: str
    site: str
    simulated: bool


class Arrivals:
    """How many samples came in the last ten seconds, and observations by edge. Safe to use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._groups: collections.deque[tuple[float, int, dict[str, int]]] = collections.deque()

    def add(self, observations: Sequence[Observation]) -> None:
        """These have just become durable."""
        by_edge = collections.Counter(o.edge for o in observations)
        with self._lock:
            self._groups.append((self._clock.monotonic_s(), sum(o.n for o in observations), dict(by_edge)))
            self._forget()

    def rates(self) -> tuple[float, Mapping[str, float]]:
        """Samples a second, and observations a second by edge."""
        with self._lock:
            self._forget()
            totals: collections.Counter[str] = collections.Counter()
            for _, _, by_edge in self._groups:
                totals.update(by_edge)
            return sum(n for _, n, _ in self._groups) / RATE_S, {e: n / RATE_S for e, n in totals.items()}

    def _forget(self) -> None:
        until = self._clock.monotonic_s() - RATE_S
        while self._groups and self._groups[0][0] < until:
            self._groups.popleft()


class Responses(Protocol):
    """What was done about alerts by itself, and can be undone."""

    def undo(self, response_id: str, who: str, reason: str) -> str:
        """What came of it, in words. Raises WardroundError: there is nothing to undo, or it cannot be undone."""

    def before_undo(self, response_id: str) -> UndoWords | None:
        """What a person reads before; None when there is nothing to undo."""


Record = Callable[..., None]  # (kind, what, who, **facts): an entry of the audit log


class HubDesk:
    """The desk of one hub. `refresh` is called once a second; the rest may be called from any thread."""

    def __init__(
        self,
        place: Place,
        *,
        clock: Clock,
        store: Store,
        watch: Watch,
        outbox: Outbox,
        record: Record,
        responses: Responses,
        routines: Callable[[], Sequence[Row]],
        hours: Callable[[], HoursView | None],
        arrivals: Arrivals,
        beats: Mapping[str, Beat],
        attached: Callable[[], set[str]],
        studies: Callable[[], Mapping[str, RunningStudy]],
        subjects: Callable[[], int],
        waiting: Callable[[], int],
        behind_s: Callable[[], float | None],
        certificate_us: Callable[[], int],
    ) -> None:
        """`certificate_us()` is when the hub's own certificate ends."""
        self._place, self._clock, self._store, self._watch = place, clock, store, watch
        self._outbox = outbox
        self._arrivals, self._beats, self._attached = arrivals, beats, attached
        self._studies, self._subjects, self._waiting, self._behind_s = studies, subjects, waiting, behind_s
        self._certificate_us, self._routines = certificate_us, routines
        self.hours = hours  # how complete each signal came, as the console asks for it
        self._record, self._responses = record, responses
        self._acts = Acts(
            acknowledge=self._acknowledge,
            judge=watch.judge,
            undo=self._undo,
            silence=watch.silence,
            unsilence=watch.unsilence,
            test=outbox.test,
            settings="hub.toml",
            command="wardround alert",
        )
        self._overview = Overview(
            clock.now_us(), place.hub, place.version, place.site, simulated=place.simulated, subjects=subjects()
        )

    # -- what the console asks

    def overview(self) -> Overview:
        """The newest read model."""
        return self._overview

    def routines(self) -> tuple[RoutineView, ...]:
        """What the hub does by the clock."""
        return tuple(
            RoutineView(
                name=row.name,
                title=row.title,
                schedule=row.schedule,
                outcome=row.outcome,
                detail=row.last.detail if row.last is not None else "",
                last_us=row.last.started_us if row.last is not None else 0,
                seconds=row.last.seconds if row.last is not None else 0.0,
                next_us=row.next_us,
                late_s=row.late_s,
            )
            for row in self._routines()
        )

    def seen(self, name: str) -> None:
        """Someone is looking now."""
        self._store.seen(name, self._clock.now_us())

    def acknowledge(self, alert_id: str, who: str) -> bool:
        """Someone is on it.

        Raises:
            NotAllowed: their role does not cover it.
        """
        self.check(who, Act.ACKNOWLEDGE)
        return self._acknowledge(alert_id, who)

    def _acknowledge(self, alert_id: str, who: str) -> bool:
        self._record("change", "alert acknowledged", who, alert=alert_id)
        done = self._watch.acknowledge(alert_id, who)
        self.refresh()
        return done

    def undo(self, alert_id: str, who: str, reason: str) -> bool:
        """Undo what was done about an alert: an edge that was set aside counts again.

        Raises:
            NotAllowed: their role does not cover it.
        """
        self.check(who, Act.UNDO)
        try:
            return self._undo(alert_id, who, reason)
        except WardroundError as error:
            log.warning("a response could not be undone", alert_id=alert_id, reason=str(error))
            return False

    def _undo(self, alert_id: str, who: str, reason: str) -> bool:
        known = self._watch.alert(alert_id)
        if known is not None and known.response is not None and known.response.undo.startswith(UNDO):
            return self._undo_response(known.response.undo.removeprefix(UNDO), who, reason)
        self._record("change", "response undone", who, alert=alert_id, reason=reason)
        command = self._watch.undo(alert_id, who, reason)
        kind, _, rest = command.partition(":")
        study, _, edge = rest.partition(":")
        running = self._studies().get(study)
        if kind == "release" and running is not None:
            running.coordinator.release(EdgeId(edge))
        self.refresh()
        return bool(command)

    def _undo_response(self, response_id: str, who: str, reason: str) -> bool:
        """Raises WardroundError: it cannot be undone."""
        self._responses.undo(response_id, who, reason)
        self.refresh()
        return True

    def answer(self, act: str, body: Mapping[str, Any], who: str) -> str:
        """Do what somebody asks of alerts from the command line; words for who asked. Roles bind people at the console.

        Raises:
            WardroundError: it cannot be done, and why.
        """
        return answer(self._acts, act, body, who)

    def facts(self) -> Facts:
        """How the hub stands, for Prometheus."""
        overview, seen = self._overview, self._watch.edges()
        views = {view.name: view for view in overview.edges}
        edges = []
        for record in self._store.edges():
            if record.revoked_us is None:
                known, beat, view = seen.get(record.name), self._beats.get(record.name), views.get(record.name)
                edges.append(
                    EdgeFacts(
                        record.name,
                        up=view is not None and view.state != "silent",
                        seen_us=known.last_us if known is not None else 0,
                        spooled=beat.spooled if beat is not None else 0,
                        spool_bytes=beat.spool_bytes if beat is not None else 0,
                        certificate_us=record.not_after_us,
                    )
                )
        succeeded: dict[str, int] = {}
        for run in self._store.job_runs(limit=JOB_RUNS_LOOKED_AT):
            if run.state == "done":
                succeeded[run.job] = max(succeeded.get(run.job, 0), run.changed_us)
        return Facts(
            version=overview.version,
            simulated=overview.simulated,
            edges=edges,
            studies=[self._study_facts(running) for running in self._studies().values()],
            sinks=[SinkFacts(n, s.waiting, s.delivered, s.given_up, bool(s.failing)) for n, s in self._outbox.states().items()],
            alerts=[(f.priority, a.state.value) for a in self._watch.open_alerts() if not is_sandbox((f := a.finding).study)],
            inbox_waiting=overview.waiting,
            set_aside=overview.set_aside,
            behind_s=overview.behind_s,
            jobs=sorted(succeeded.items()),
            hub_certificate_us=self._certificate_us(),
        )

    def _study_facts(self, running: RunningStudy) -> StudyFacts:
        view = self._study(running)
        assert view is not None  # noqa: S101 - of a running study
        accepted = sum(1 for _, part in view.parts if part == "accepted")
        return StudyFacts(view.name, view.round_number, accepted, len(view.parts), view.metric, view.score, view.worst)

    def check(self, who: str, act: Act) -> None:
        """By the role that the store has now: a session from before a change gives nothing more.

        Raises:
            NotAllowed: their role does not cover it.
        """
        person = self._store.person(who)
        try:
            check_act(who, person.role if person is not None else "", act)
        except NotAllowed as refused:
            self._record("denied", "act not allowed", who, reason=str(refused))
            raise

    # -- the read model

    def refresh(self) -> None:
        """Build the read model anew."""
        now_us = self._clock.now_us()
        studies = self._studies()
        study = self._study(next(reversed(list(studies.values())), None))
        alerts = self._watch.open_alerts()
        resolved = [a for a in self._watch.alerts() if not a.open]
        need = {a.alert_id for a in needs_person(alerts)}
        samples, per_edge = self._arrivals.rates()
        edges = self._edges(now_us, per_edge, study)
        self._overview = Overview(
            now_us=now_us,
            hub=self._place.hub,
            version=self._place.version,
            site=self._place.site,
            simulated=self._place.simulated,
            subjects=self._subjects(),
            edges=edges,
            samples_per_s=samples,
            behind_s=self._behind_s(),
            waiting=self._waiting(),
            set_aside=self._store.quarantine_count(),
            study=study,
            studies=len(studies),
            study_names=tuple(studies),
            alerts=tuple(self._alert(a, studies, needs=a.alert_id in need) for a in (alerts + resolved)[:ALERTS_SHOWN]),
            at_edges=self._at_edges(edges),
            happened=tuple(Line(h.t_us, h.title, h.detail) for h in self._store.happenings(limit=LINES_MAX)),
        )

    def _edges(self, now_us: int, per_edge: Mapping[str, float], study: StudyView | None) -> tuple[EdgeView, ...]:
        seen, attached = self._watch.edges(), self._attached()
        aside = {name for name, part in study.parts if part == "set-aside"} if study is not None else set()
        views = []
        for record in self._store.edges():
            if record.revoked_us is not None:
                continue
            name, known, beat = record.name, seen.get(record.name), self._beats.get(record.name)
            silent = known.silent if known is not None else name not in attached
            quiet_s = (now_us - (known.last_us if known is not None else record.joined_us)) / 1e6
            state = "silent" if silent else "set-aside" if name in aside else "connected"
            spooled = beat.spooled if beat is not None else 0
            views.append(EdgeView(name, state, quiet_s if silent else 0.0, spooled, per_edge.get(name, 0.0)))  # type: ignore[arg-type]  # one of the three
        return tuple(views)

    def _at_edges(self, edges: Sequence[EdgeView]) -> tuple[AtEdgeView, ...]:
        """What edges have said of their own alerts; a silent one's stay, as it said them last."""
        found = [
            AtEdgeView(view.name, one.alert_id, one.priority, one.category, one.state, stale=view.state == "silent")  # type: ignore[arg-type]  # one of the four
            for view in edges
            if (beat := self._beats.get(view.name)) is not None
            for one in beat.alerts
        ]
        order = ("high", "medium", "low", "info")
        found.sort(key=lambda a: (not a.needs_person, order.index(a.priority) if a.priority in order else len(order), a.edge))
        return tuple(found[:ALERTS_SHOWN])

    def _study(self, running: RunningStudy | None) -> StudyView | None:
        if running is None:
            return None
        newest, latest = running.newest, running.latest
        parts: tuple[tuple[str, Part], ...] = ()
        if newest is not None:
            folded, aside = set(newest.facts["folded"]), set(newest.facts["aside"])
            aside |= set(running.coordinator.quarantined())
            names = sorted(
                {e.name for e in self._store.edges() if e.revoked_us is None} - self._held_back(running) | folded | aside
            )
            parts = tuple((n, "set-aside" if n in aside else "accepted" if n in folded else "absent") for n in names)
        return StudyView(
            name=running.study.name,
            round_number=newest.number if newest is not None else 0,
            rounds=running.coordinator.rounds_in_all,
            metric=running.metric,
            score=latest.value if latest is not None else None,
            worst_edge=latest.worst_edge if latest is not None else "",
            worst=latest.worst if latest is not None and latest.worst == latest.worst else None,
            parts=parts,
            state="finished" if running.coordinator.finished else "paused" if running.coordinator.paused else "running",
        )

    @staticmethod
    def _held_back(running: RunningStudy) -> set[str]:
        return set(running.study.score.held_back_edges)

    def _alert(self, alert: Alert, studies: Mapping[str, RunningStudy], *, needs: bool) -> AlertView:
        finding, response = alert.finding, alert.response
        words: dict[str, str] = {}
        consequences: tuple[str, ...] = ()
        if alert.open and response is not None and response.undo.startswith(UNDO) and not response.undone_us:
            asked = self._responses.before_undo(response.undo.removeprefix(UNDO))
            if asked is not None:
                words = {"undo_title": asked.title, "undo_words": asked.words, "undo_keep": asked.keep}
                consequences = asked.consequences
        elif alert.open and response is not None and response.undo and not response.undone_us:
            running = studies.get(finding.study)
            newest = running.newest if running is not None else None
            number = newest.number + 1 if newest is not None else 1
            words = {
                "undo_title": f"Let {finding.edge} count again from round {number}?",
                "undo_words": f"Let {finding.edge} count again",
                "undo_keep": "Keep it set aside",
            }
            consequences = (
                f"Its next update enters the model of {finding.study}. Rounds that are over do not change.",
                "The screen stays on: the same score would set it aside again at once.",
                "Your name and reason are kept with the alert. It can be set aside again at any time.",
            )
        done = ""
        if response is not None:
            done = ", ".join(part for part in (response.what, response.until) if part)
            done += f"; undone by {response.undone_by}" if response.undone_us else ""
        return AlertView(
            alert_id=alert.alert_id,
            title=finding.title,
            detail=finding.detail,
            priority=finding.priority,
            category=finding.category,
            since_us=finding.since_us,
            raised_us=alert.raised_us,
            open=alert.open,
            needs_person=needs,
            acknowledged_by=alert.acknowledged_by,
            response=done,
            action=finding.action,
            undo_consequences=consequences,
            **words,
        )
