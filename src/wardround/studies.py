"""The studies a hub runs: from study.toml to a coordinator, and from each committed round to its scores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from wardround.clock import Clock
from wardround.collect.signals import Signals, load_signals
from wardround.collect.storage import FolderStorage
from wardround.errors import StudyError, WardroundError
from wardround.learn import rounds
from wardround.learn.answers import standing
from wardround.learn.blobs import FolderBlobs
from wardround.learn.coordinator import Coordinator
from wardround.learn.journal import Committed, Journal
from wardround.learn.learners import Learner, check_learner, code_digest, make_learner
from wardround.learn.messages import MaskStep, Order, RoundEvent
from wardround.learn.models import Parameters, decode_model, with_controls, without_controls
from wardround.learn.pace import Abilities, Held
from wardround.learn.privacy.blind import Masking
from wardround.learn.privacy.dp_rounds import with_public_scale
from wardround.learn.privacy.edge_masks import Verify
from wardround.learn.privacy.ledger import NAME as LEDGER
from wardround.learn.privacy.ledger import FileLedger
from wardround.learn.privacy.maskable import check_maskable
from wardround.learn.releases import Stage
from wardround.learn.rollbacks import Asked
from wardround.learn.scores import METRICS, by_group, worst
from wardround.learn.spans import NO_SPANS, Spans, span
from wardround.learn.strategies import make_strategy
from wardround.learn.study import Study, encode_training, is_held_back, parse_study, training_settings
from wardround.learn.study_checks import check
from wardround.learn.survey import SurveyedSignal, SurveySettings, encode_survey
from wardround.process.jobs import gold_examples
from wardround.process.lake import Lake
from wardround.process.transforms import TASKS, Task
from wardround.process.transforms.usual import usual_scale
from wardround.records import EdgeId, Examples, ModelDigest
from wardround.releasing import Fleet, Releases
from wardround.store import RoundRecord, Store, StudyRecord, StudyRequest
from wardround.study_watch import Advise, StudyWatch, Tell
from wardround.trust.roster import hub_roster
from wardround.watch.detectors.screens import Screens

log = structlog.get_logger(__name__)


def survey_settings(study: Study, signals: Signals) -> SurveySettings:
    """What a study of kind `statistics` asks edges for.

    Raises:
        StudyError: a signal has no plausible range to divide.
    """
    wanted: list[SurveyedSignal] = []
    for name in study.statistics.signals:
        signal = signals.resolve(name)
        if signal.low is None or signal.high is None:
            raise StudyError(f"statistics.signals: {signal.key} has no plausible range", remedy="leave it out")
        wanted.append(SurveyedSignal(signal.code, signal.low, signal.high))
    own = study.statistics
    return SurveySettings(signals=wanted, bins=own.bins, last_days=own.last_days, subjects_min=own.subjects_min)


@dataclass(frozen=True, slots=True)
class Score:
    """How good a model is on held-back subjects; `by_edge` are the edges those subjects belong to."""

    round_number: int
    model: str
    metric: str
    value: float
    worst_edge: str
    worst: float
    examples: int
    by_edge: Mapping[str, float] = field(default_factory=dict)


class RunningStudy:
    """One study and everything that belongs to it."""

    def __init__(
        self,
        record: StudyRecord,
        *,
        home: Path,
        store: Store,
        lake: Lake,
        clock: Clock,
        send: Callable[[EdgeId, Order | rounds.Cancel | MaskStep, str], None],
        fleet: Fleet,
        on_event: Callable[[RoundEvent], None],
        say: Callable[[str, str], None],
        may_train: Callable[[str, Collection[str]], bool],
        tell: Tell,
        is_well: Callable[[str], bool],
        advise: Advise,
        verify: Verify,
        abilities: Abilities,
        held: Held,
        spans: Spans = NO_SPANS,
    ) -> None:
        """`say(title, detail)` is a line in "what happened"; `may_train(subject, codes)` is asked whenever examples are picked;
        `tell`, `is_well` and `advise` are the watch's (study_watch.py); `verify` checks an edge's signature in a blind study;
        `abilities(edge)` is what it can train, `held(edge)` why it is given nothing now, or empty.

        Raises:
            StudyError: the study cannot be run as it is written.
        """
        self.study: Study = parse_study(record.toml, where=record.name)
        signals = load_signals()
        check(self.study, TASKS, signals=signals.names())
        self.survey = survey_settings(self.study, signals) if self.study.kind == "statistics" else None
        self.task: Task | None = TASKS[self.study.task] if self.survey is None else None
        self._store, self._lake, self._clock = store, lake, clock
        self._edge_of, self._on_event, self._may_train, self._spans = fleet.edge_of, on_event, may_train, spans
        shape = (len(self.task.feature_names), len(self.task.classes)) if self.task is not None else (1, 2)
        check_learner(self.study, *shape)
        check_maskable(self.study, *shape)
        self._learner: Learner = make_learner(self.study.learner, *shape)
        self._strategy = make_strategy(self.study.strategy, self.study.learner)
        folder = home / "studies" / record.name
        self.latest: Score | None = None
        self.newest: RoundRecord | None = next(reversed(store.rounds(record.name)), None)
        self._pending: dict[str, RoundEvent] = {}
        self._say, self._unable = say, set[str]()  # edges that were said to be
        self._scoring = threading.Lock()
        self.releases: Releases | None = None  # none while the coordinator takes up its round, and none for statistics
        self.watched: StudyWatch | None = None
        journal = Journal(FolderStorage(folder).connect)
        screens = Screens(
            f"{record.name}/{record.created_us}",
            threshold=self.study.triage.screen_threshold,
            rounds_min=self.study.triage.screen_rounds_min,
            twin_threshold=self.study.triage.twin_cosine_max,
            trial_rounds=self.study.triage.trial_rounds,
        )
        if self.task is not None:
            names = self.task.feature_names
            self.watched = StudyWatch(
                self.study, names, screens=screens, store=store, clock=clock, tell=tell, is_well=is_well, advise=advise
            )
        self.coordinator = Coordinator(
            self.study,
            settings=self._settings(),
            initial=self._initial,
            shape=shape,
            strategy=self._strategy,
            screen=screens,
            journal=journal,
            blobs=FolderBlobs(folder),
            clock=clock,
            send=lambda edge, message: send(edge, message, record.name),
            on_event=self._event,
            survey=self.survey,
            reference=self._reference,
            weights=lambda: {edge: own.weight for edge, own in standing(journal).items()},
            commit_later=True,
            spans=spans,
            masking=Masking(verify, lambda edge, step: send(edge, step, record.name), lambda: hub_roster(home)),
            ledger=FileLedger(folder / LEDGER) if self.study.privacy.has_budget else None,
            abilities=abilities,
            held=held,
        )
        self._catch_up()
        if self.task is not None:
            self.releases = Releases(
                self.study,
                record.toml,
                self.task,
                settings=self._settings(),
                metric=self.metric,
                learner=self._learner,
                coordinator=self.coordinator,
                store=store,
                clock=clock,
                fleet=fleet,
                held_back=self.held_back,
                say=say,
            )

    def _catch_up(self) -> None:
        """Rounds that a kill kept from the store."""
        known = {r.number for r in self._store.rounds(self.study.name)}
        for done in self.coordinator.committed():
            if done.number not in known:
                facts: dict[str, Any] = {"base": done.base, "folded": dict(done.folded), "aside": list(done.aside)}
                facts |= {"metrics": {}, "screen": {}}
                self.newest = RoundRecord(self.study.name, done.number, done.t_us, done.seconds, done.model, facts)
                self._store.put_round(self.newest)

    def act(self, request: StudyRequest) -> str:
        """Carry out what somebody asks; what was done, in words.

        Raises:
            StudyError: it cannot be done.
        """
        if request.kind in STATES_AFTER:
            return self._hold_or_go_on(request.kind)
        if request.kind == "calibrate" and self.watched is not None:
            self.watched.calibrate_again()
            return "the next healthy rounds are the new usual; until then the shipped thresholds hold"
        act, _, edge = request.kind.partition(":")
        if act in MORE_ROUNDS:
            return self._more_rounds(act, edge, request)
        if act in ("release", "replay", "quarantine"):
            return self._about_edge(act, EdgeId(edge), request)
        releases = self.releases
        if releases is None:
            raise StudyError(f"{self.study.name} makes no model", remedy="this is for studies of kind `model`")
        if request.kind == "rollback":
            asked = Asked(request.to_round, request.who, request.reason, request.request_id)
            return releases.roll_back(asked)
        if request.kind.startswith("promote-"):
            stage = Stage(request.kind.removeprefix("promote-"))
            return releases.promote(request.to_round, stage, who=request.who, reason=request.reason)
        raise StudyError(f"this hub cannot {request.kind[:40]!r}", remedy="bring hub and command to the same version")

    def _hold_or_go_on(self, act: str) -> str:
        if act == "stop":
            self.coordinator.stop()
            return "no round is in progress, and none begins"
        self.coordinator.pause(paused=act == "pause")
        return "no new round begins; the one in progress comes to its end" if act == "pause" else "rounds go on"

    def _more_rounds(self, act: str, given: str, request: StudyRequest) -> str:
        if act == "retrain":
            total = self.coordinator.extend(request.to_round, request.request_id)
            return f"{request.to_round} more rounds, {total} in all"
        return f"{self.coordinator.withdraw(given)} rounds in all; those that are over stay"

    def _about_edge(self, act: str, edge: EdgeId, request: StudyRequest) -> str:
        if act == "replay":
            asked = Asked(request.to_round, request.who, request.reason, request.request_id)
            replay = self.coordinator.replay(edge, request.to_round, asked)
            return f"the update of {edge} in round {replay.from_round} counts in the next round that ends, as a late one"
        if act == "quarantine":
            until = self.coordinator.quarantine(edge, 0, request.reason, until=request.to_round)
            return f"{edge} is set aside until round {until}: weight 0, still asked and scored"
        if edge not in self.coordinator.quarantined() or not self.coordinator.release(edge):
            raise StudyError(f"{edge} is not set aside", remedy="`wardround study quarantine` lists who is")
        return f"{edge} counts again, from its next update on"

    @property
    def metric(self) -> str:
        """The name of the score; empty for statistics, which have none."""
        return self.study.score.metric or (self.task.metric if self.task is not None else "")

    def _settings(self) -> bytes:
        """What edges need to know."""
        if self.survey is not None:
            return encode_survey(self.survey)
        assert self.task is not None  # noqa: S101 - a study that is no survey has one
        return encode_training(training_settings(self.study, self.task, self._strategy.rule, code_digest(self.study.learner)))

    def _initial(self) -> Parameters:
        """The first model."""
        model = self._learner.initial(self.study.learner.seed)
        if self.study.begins_public and self.task is not None:
            model = with_public_scale(model, self.study, usual_scale(self.task.name, len(self.task.feature_names)))
        return with_controls(model) if self._strategy.rule.controls else model

    def _reference(self, base: Parameters, round_number: int) -> Parameters | None:
        """An update trained on consented examples that the hub holds, and that score no model."""
        assert self.task is not None  # noqa: S101 - statistics have no strategy
        examples = self._allowed_examples(self.task)
        own = examples.where(~self._held_back_mask(examples) & (examples.labels >= 0))
        if len(own) < self.study.rounds.examples_min:
            return None
        return self._learner.train(base, own, seed=self.study.learner.seed, round=round_number).update

    def _allowed_examples(self, task: Task) -> Examples:
        """The examples in the lake of subjects whose data may train and score at the hub now."""
        examples = gold_examples(self._lake, task)
        allowed = {s for s in np.unique(examples.subjects) if self._may_train(str(s), task.signals)}
        return examples.where(np.array([s in allowed for s in examples.subjects], bool))

    def _held_back_mask(self, examples: Examples) -> NDArray[np.bool_]:
        return np.array([self._is_held_back(str(s)) for s in examples.subjects], bool)

    def held_back(self) -> Examples:
        """The labelled examples in the lake of subjects that never train a model."""
        assert self.task is not None  # noqa: S101 - statistics have no round that is scored
        examples = self._allowed_examples(self.task)
        return examples.where(self._held_back_mask(examples) & (examples.labels >= 0))

    def score_pending(self) -> None:
        """Score the newest model that has none yet; one at a time, in the caller's thread."""
        with self._scoring:
            if not self._pending:
                return
            events, self._pending = self._pending, {}
            event = max(events.values(), key=lambda e: e.round_number)
            if not self.coordinator.model_size(event.model):
                return  # it has expired meanwhile
            examples = self.held_back()
            if len(examples) == 0:
                return
            with span(self._spans, "score", event.round_number, examples=len(examples)):
                score = self.score(self.coordinator.model(event.model), event, examples)
            if np.isfinite(score.value):
                self.latest = score
                self._store.put_round(self._record(event, score))

    def score(self, model: bytes, event: RoundEvent, examples: Examples) -> Score:
        """The score of a model on examples."""
        probabilities = self._learner.predict(without_controls(decode_model(model)), examples.features)
        edges = np.array([self._edge_of(str(s)) for s in examples.subjects], np.str_)
        by_edge = by_group(self.metric, examples.labels, probabilities, edges)
        lowest = worst(by_edge) or ("", float("nan"))
        value = METRICS[self.metric](examples.labels, probabilities)
        return Score(event.round_number, event.model, self.metric, value, lowest[0], lowest[1], len(examples), by_edge)

    def tell(self, edge: EdgeId) -> None:
        """Say to an edge which model to hold for its predictions."""
        if self.releases is not None:
            self.releases.tell(edge)

    def _is_held_back(self, subject: str) -> bool:
        return is_held_back(self.study.score, subject, self._edge_of(subject))

    def _event(self, event: RoundEvent) -> None:
        if self.watched is not None:
            self.watched.heard(event)
        if event.kind == "committed":
            if event.round_number > 0:
                self._pending[event.model] = event
            self.newest = self._record(event, None)
            self._store.put_round(self.newest)
            if self.watched is not None:
                self.watched.committed(event)
            if self.releases is not None:
                folded, aside = dict(event.folded), tuple(event.aside)
                done = Committed(
                    event.round_number,
                    ModelDigest(event.model),
                    event.base,
                    event.t_us,
                    event.seconds,
                    folded,
                    aside,
                    replayed=event.replayed,
                )
                self.releases.committed(done)
        elif event.kind == "own-report" and self.watched is not None:
            self.watched.told(event)
        elif event.kind == "abandoned" and self.watched is not None:
            self.watched.over()
        elif event.kind == "unable" and event.edge not in self._unable:
            self._unable.add(event.edge)
            self._say(f"{event.edge} is not asked in {event.study}", event.detail)
        elif event.kind == "rolled-back":
            self.newest = self._record(event, None)
            self._store.put_round(self.newest)
        self._on_event(event)

    def _record(self, event: RoundEvent, score: Score | None) -> RoundRecord:
        facts: dict[str, Any] = {
            "base": event.base,
            "folded": dict(event.folded),
            "aside": list(event.aside),
            "replayed": [f"{r.edge} of round {r.from_round}" for r in event.replayed],
            "metrics": dict(event.metrics),
            "screen": dict(event.screen),
        }
        if score is not None:
            facts["score"] = {
                "metric": score.metric,
                "value": score.value,
                "worst_edge": score.worst_edge,
                "worst": None if np.isnan(score.worst) else score.worst,
                "examples": score.examples,
                "by_edge": dict(score.by_edge),
            }
        return RoundRecord(event.study, event.round_number, event.t_us, event.seconds, event.model, facts)


AT_WORK = ("requested", "running", "paused")
STATES_AFTER = {"pause": "paused", "resume": "running", "stop": "stopped"}
MORE_ROUNDS = ("retrain", "withdraw")


class Studies:
    """What is asked for in the store becomes running; what is finished is said there."""

    def __init__(
        self, store: Store, clock: Clock, make: Callable[[StudyRecord], RunningStudy], say: Callable[[str, str], None]
    ) -> None:
        self._store, self._clock, self._make, self._say = store, clock, make, say
        self.running: dict[str, RunningStudy] = {}

    @property
    def coordinators(self) -> dict[str, Coordinator]:
        """By the study's name."""
        return {name: running.coordinator for name, running in self.running.items()}

    async def look(self, attached: set[EdgeId]) -> None:
        """Start what was asked for, or was running when the hub stopped; open what predicts; then carry out what is asked."""
        requests = await asyncio.to_thread(self._store.study_requests)
        in_use = await asyncio.to_thread(self._store.studies_in_use)
        asked = {r.study for r in requests}
        for record in await asyncio.to_thread(self._store.studies):
            at_work = record.state in AT_WORK
            served = record.state in ("finished", "stopped") and (record.name in in_use or record.name in asked)
            if record.name in self.running or not (at_work or served):
                continue
            try:
                running = await asyncio.to_thread(self._make, record)
            except WardroundError as error:
                log.error("study cannot run", study=record.name, reason=str(error))
                self._put(record, "failed", str(error))
                continue
            running.coordinator.pause(paused=record.state in ("paused", "stopped"))
            self.running[record.name] = running
            if record.state == "requested":
                self._put(record, "running", "")
            for edge in sorted(attached):
                running.coordinator.attach(edge)
                running.tell(edge)
        for request in requests:
            await asyncio.to_thread(self._answer, request)

    def ask(self, kind: str, study: str, *, who: str, reason: str, to_round: int = -1, request_id: str) -> str:
        """Do at once what a person could ask for, for a part of the hub; noted like theirs, and done once for each id.

        Raises:
            WardroundError: it cannot be done; the words say why.
        """
        if (before := self._store.study_request(request_id)) is not None and before.state == "done":
            return before.answer
        request = StudyRequest(request_id, study, kind, to_round, who, reason, self._clock.now_us())
        self._store.put_study_request(request)
        answered = self._answer(request)
        if answered.state != "done":
            raise StudyError(answered.answer, remedy="see `wardround study models`")
        return answered.answer

    def roll_back_to_last_good(self, study: str, *, who: str, reason: str, request_id: str) -> str:
        """Go back to the newest model that has passed the gates: what the watch does when a study goes wrong.

        Raises:
            WardroundError: there is none, or it cannot be done.
        """
        running = self.running.get(study)
        entry = running.releases.last_good() if running is not None and running.releases is not None else None
        if entry is None:
            raise StudyError(f"{study} has no model that passed the gates", remedy="pause the study instead")
        return self.ask("rollback", study, who=who, reason=reason, to_round=entry.number, request_id=request_id)

    def _answer(self, request: StudyRequest) -> StudyRequest:
        running = self.running.get(request.study)
        try:
            if running is None:
                raise StudyError(f"the study {request.study!r} does not run here", remedy="`wardround study status` lists them")
            answer, state = running.act(request), "done"
        except WardroundError as error:
            answer, state = f"{error}{f'; {error.remedy}' if error.remedy else ''}", "refused"
        answered = replace(request, state=state, answer=answer)
        if state == "done" and request.kind in STATES_AFTER and running is not None:
            self._now(request.study, STATES_AFTER[request.kind], f"by {request.who}", finished=running.coordinator.finished)
        if state == "done" and request.kind.partition(":")[0] in MORE_ROUNDS and running is not None:
            self._has_rounds_again(request, finished=running.coordinator.finished)
        self._store.put_study_request(answered)
        self._say(f"{request.study}: {request.kind} by {request.who} {state}", answer)
        log.info("study request", study=request.study, kind=request.kind, who=request.who, state=state)
        return answered

    def _now(self, name: str, state: str, detail: str, *, finished: bool) -> None:
        record = next((r for r in self._store.studies() if r.name == name), None)
        if record is not None:
            self._put(record, "finished" if finished else state, "" if finished or state == "running" else detail)

    def _has_rounds_again(self, request: StudyRequest, *, finished: bool) -> None:
        """More rounds wake a study that had finished, and leave one that is paused alone."""
        record = next((r for r in self._store.studies() if r.name == request.study), None)
        if record is not None and record.state in ("running", "finished"):
            self._now(request.study, "running", "", finished=finished)

    def finished(self, name: str) -> None:
        """A study has all its rounds."""
        record = next((r for r in self._store.studies() if r.name == name), None)
        if record is not None:
            self._put(record, "finished", "")

    def _put(self, record: StudyRecord, state: str, detail: str) -> None:
        now_us = self._clock.now_us()
        self._store.put_study(StudyRecord(record.name, record.toml, state, detail, record.created_us, now_us))
