"""One live drill at work: a coordinator, screens and a watch of its own, beside the studies and apart from them.

It is no running study: it has no registry of models, so that none of them is ever a candidate, tried, held for predictions or
exported; its journal lies in a folder of its own. Edges reach it through the same link, and its alerts go into the hub's book,
marked. What is done about them is done to the sandbox: triage and screens set edges aside in it alone.
"""

from __future__ import annotations

import collections
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from wardround.clock import Clock
from wardround.collect.storage import FolderStorage
from wardround.learn import rounds
from wardround.learn.blobs import FolderBlobs
from wardround.learn.coordinator import Coordinator
from wardround.learn.drills import Charter, SignedCharter
from wardround.learn.journal import Journal
from wardround.learn.learners import make_learner
from wardround.learn.messages import MaskStep, Order, RoundEvent
from wardround.learn.strategies import make_strategy
from wardround.live_drills.plan import HAPPENED_MAX, MODEL_BYTES_MAX, MODELS_KEPT, Noticed, Plan, Shown
from wardround.live_drills.plan import Verdict as Said
from wardround.records import EdgeId
from wardround.study_watch import StudyWatch
from wardround.watch.detectors.screens import Screens
from wardround.watch.detectors.seen import Deviation, Standing
from wardround.watch.detectors.trial import ON_TRIAL
from wardround.watch.detectors.updates import Tensors, Verdict
from wardround.watch.watcher import Watch

KEPT = "kept"  # a file in the folder of a drill that stays
EVENTS_MAX = 10_000
T = TypeVar("T")
Send = Callable[[EdgeId, Order | rounds.Cancel | MaskStep, str], None]


class _NoStates:
    """Nothing of a drill's watch outlives it."""

    def load_state(self, key: str) -> bytes | None:
        del key
        return None

    def save_state(self, key: str, value: bytes) -> None:
        del key, value


class _Overheard(Screens):
    """The study's screens; what they say is written down. Called under the coordinator's lock."""

    said: collections.deque[Said]

    def judge_round(self, round_number: int, updates: Mapping[str, Tensors], aside: Collection[str] = ()) -> dict[str, Verdict]:
        verdicts = super().judge_round(round_number, updates, aside)
        for edge, verdict in sorted(verdicts.items()):
            if not verdict.accepted and verdict.reason != ON_TRIAL:
                facts = (_finite(verdict.score), _finite(verdict.threshold))
                self.said.append(Said(round_number, edge, verdict.reason, *facts))
        return verdicts


class Sandbox:
    """One drill. Called from one thread at a time, as desk.py holds its lock; the link asks the coordinator."""

    def __init__(
        self,
        plan: Plan,
        *,
        folder: Path,
        clock: Clock,
        watch: Watch,
        send: Send,
        sign: Callable[[bytes], tuple[bytes, bytes]],
        held: Callable[[EdgeId], str],
    ) -> None:
        """`sign(charter)` gives the hub's signature and certificate; `held(edge)` is why it is asked nothing now, or empty.

        Raises:
            WardroundError: the study cannot be run.
        """
        self.plan, self.name, self._folder = plan, plan.study.name, folder
        self._clock, self._watch = clock, watch
        study, triage = plan.study, plan.study.triage
        self.until_us = clock.now_us() + round(plan.minutes * 60e6)
        charter = _charter(plan, self.until_us)
        self._screens = _Overheard(
            f"{self.name}/{clock.now_us()}",
            threshold=triage.screen_threshold,
            rounds_min=triage.screen_rounds_min,
            twin_threshold=triage.twin_cosine_max,
            trial_rounds=triage.trial_rounds,
        )
        self._screens.said = collections.deque(maxlen=EVENTS_MAX)
        self._events: collections.deque[RoundEvent] = collections.deque(maxlen=EVENTS_MAX)
        self.shown = Shown(
            study=self.name,
            fault=plan.fault,
            seed=plan.seed,
            state="running",
            rounds=study.rounds.count,
            from_round=plan.from_round,
            edges=plan.edges,
            struck=plan.struck,
            began_us=clock.now_us(),
            told=plan.deliver,
        )
        features = tuple(f"feature-{i:02d}" for i in range(plan.shape[0]))
        self._watched = StudyWatch(
            study, features, screens=self._screens, store=_NoStates(), clock=clock, tell=self._told, is_well=watch.is_well
        )
        learner = make_learner(study.learner, *plan.shape)
        self._journal = Journal(FolderStorage(folder).connect)
        self.coordinator = Coordinator(
            study,
            settings=msgspec.msgpack.encode(SignedCharter(charter, *sign(charter))),
            initial=lambda: learner.initial(study.learner.seed),
            shape=plan.shape,
            strategy=make_strategy(study.strategy, study.learner),
            screen=self._screens,
            journal=self._journal,
            blobs=FolderBlobs(folder),
            clock=clock,
            send=lambda edge, message: send(edge, message, self.name),
            on_event=self._event,
            commit_later=True,
            held=lambda edge: held(edge) if edge in plan.edges else "not in this drill",
        )

    def _event(self, event: RoundEvent) -> None:
        """Under the coordinator's lock: what follows is done in a turn."""
        self._events.append(event)
        if event.kind == "committed":
            self._watched.committed(event)

    def turn(self) -> bool:
        """Take in what has happened since the last turn; whether the drill is over."""
        while self._events:
            self._happened(self._events.popleft())
        while self._screens.said:
            _add(self.shown.verdicts, self._screens.said.popleft())
        self._watched.look()
        if self.shown.state == "running" and self._clock.now_us() > self.until_us:
            self.shown.state, self.shown.why = "failed", f"it was not over within {self.plan.minutes:g} minutes"
        return self.shown.state != "running"

    def note_alerts(self) -> None:
        """Write down which alerts the drill has made."""
        for alert in self._watch.alerts():
            if alert.finding.study == self.name and len(self.shown.alerts) < HAPPENED_MAX:
                self.shown.alerts[alert.alert_id] = alert.finding.title

    def end(self, state: str = "", why: str = "") -> None:
        """Nothing of it runs after this: edges are told, alerts are over, files are gone where they need not stay."""
        self.turn()
        self.coordinator.stop()
        if self.shown.state == "running":
            self.shown.state, self.shown.why = state or "stopped", why
        self.shown.ended_us = self._clock.now_us()
        self.note_alerts()
        self._watch.drill_over(self.name)
        if self.plan.keep:
            self.shown.folder = str(self._folder)
            (self._folder / KEPT).touch()
        self._journal.close()
        if not self.plan.keep:
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- what is heard

    def _happened(self, event: RoundEvent) -> None:
        shown, number = self.shown, event.round_number
        if event.kind == "committed":
            shown.round_number = number
            self._watch.round_committed(self.name)
            for edge, score in event.screen.items():
                if edge not in event.aside:
                    self._watch.score(self.name, edge, number, score)
            for edge in event.aside:
                shown.aside.setdefault(edge, number)
            if number > 0 and 0 < self.coordinator.model_size(event.model) <= MODEL_BYTES_MAX:
                shown.models = [*shown.models[1 - MODELS_KEPT :], self.coordinator.model(event.model)]
        elif event.kind == "refused":
            _add(shown.refused, (number, event.edge, event.reason))
            self._watch.update_refused(self.name, event.edge, number, event.reason, event.detail)
        elif event.kind == "quarantined":
            self._watch.edge_quarantined(
                self.name,
                event.edge,
                number,
                reason=event.reason,
                score=event.score,
                threshold=event.threshold,
                until_round=event.until_round,
            )
        elif event.kind == "abandoned":
            _add(shown.abandoned, number)
            self._watch.round_abandoned(self.name, number, event.reason)
        elif event.kind == "finished":
            shown.state = "done"

    def _told(self, study: str, deviations: Sequence[Deviation], standing: Collection[Standing]) -> None:
        for d in deviations:
            facts = (d.round_number, d.state, d.kind, d.sign, d.edge, tuple(d.edges))
            _add(self.shown.noticed, Noticed(*facts, _finite(d.score), _finite(d.threshold)))
        self._watch.trained(study, deviations, standing)


def _charter(plan: Plan, until_us: int) -> bytes:
    """What edges are told that the drill may do."""
    return msgspec.msgpack.encode(
        Charter(
            study=plan.study.name,
            seed=plan.seed,
            edges=plan.edges,
            struck=plan.struck,
            fault=plan.fault,
            from_round=plan.from_round,
            rounds=plan.study.rounds.count * 2,  # rounds in which everything is set aside have numbers, too
            until_us=until_us,
            training=plan.training,
            slower_s=plan.slower_s,
            absent=plan.absent,
        )
    )


def _add(to: list[T], what: T) -> None:
    if len(to) < HAPPENED_MAX:
        to.append(what)


def _finite(value: float) -> float:
    """As JSON can hold it."""
    return float(value) if math.isfinite(value) else math.copysign(1e300, value)
