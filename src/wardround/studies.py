"""The studies a hub runs: from study.toml to a coordinator, and from each committed round to its scores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from wardround.learn.blobs import FolderBlobs
from wardround.learn.coordinator import Coordinator
from wardround.learn.journal import Journal
from wardround.learn.learners import Learner, make_learner
from wardround.learn.messages import Order, RoundEvent
from wardround.learn.models import Parameters, decode_model, with_controls, without_controls
from wardround.learn.scores import METRICS, by_group, worst
from wardround.learn.strategies import make_strategy
from wardround.learn.study import Study, check, encode_training, is_held_back, parse_study, training_settings
from wardround.learn.survey import SurveyedSignal, SurveySettings, encode_survey
from wardround.process.jobs import gold_examples
from wardround.process.lake import Lake
from wardround.process.transforms import TASKS, Task
from wardround.records import EdgeId, Examples
from wardround.store import RoundRecord, Store, StudyRecord
from wardround.watch.detectors.own_history import OwnHistory

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
        send: Callable[[EdgeId, Order | rounds.Cancel, str], None],
        edge_of: Callable[[str], str],
        on_event: Callable[[RoundEvent], None],
    ) -> None:
        """`edge_of(subject)` names the edge whose subject it is.

        Raises:
            StudyError: the study cannot be run as it is written.
        """
        self.study: Study = parse_study(record.toml, where=record.name)
        signals = load_signals()
        check(self.study, TASKS, signals=signals.names())
        self.survey = survey_settings(self.study, signals) if self.study.kind == "statistics" else None
        self.task: Task | None = TASKS[self.study.task] if self.survey is None else None
        self._store, self._lake, self._clock = store, lake, clock
        self._edge_of, self._on_event = edge_of, on_event
        shape = (len(self.task.feature_names), len(self.task.classes)) if self.task is not None else (1, 2)
        self._learner: Learner = make_learner(self.study.learner, *shape)
        self._strategy = make_strategy(self.study.strategy, self.study.learner)
        folder = home / "studies" / record.name
        self.latest: Score | None = None
        self.newest: RoundRecord | None = next(reversed(store.rounds(record.name)), None)
        self._pending: dict[str, RoundEvent] = {}
        self._scoring = threading.Lock()
        self.coordinator = Coordinator(
            self.study,
            settings=self._settings(),
            initial=self._initial,
            shape=shape,
            strategy=self._strategy,
            screen=OwnHistory(f"{record.name}/{record.created_us}"),
            journal=Journal(FolderStorage(folder).connect),
            blobs=FolderBlobs(folder),
            clock=clock,
            send=lambda edge, message: send(edge, message, record.name),
            on_event=self._event,
            survey=self.survey,
            reference=self._reference,
        )

    @property
    def metric(self) -> str:
        """The name of the score; empty for statistics, which have none."""
        return self.study.score.metric or (self.task.metric if self.task is not None else "")

    def _settings(self) -> bytes:
        """What edges need to know."""
        if self.survey is not None:
            return encode_survey(self.survey)
        assert self.task is not None  # noqa: S101 - a study that is no survey has one
        return encode_training(training_settings(self.study, self.task, self._strategy.rule))

    def _initial(self) -> Parameters:
        """The first model."""
        model = self._learner.initial(self.study.learner.seed)
        return with_controls(model) if self._strategy.rule.controls else model

    def _reference(self, base: Parameters, round_number: int) -> Parameters | None:
        """An update trained on consented examples that the hub holds, and that score no model."""
        assert self.task is not None  # noqa: S101 - statistics have no strategy
        examples = gold_examples(self._lake, self.task)
        own = examples.where(~self._held_back_mask(examples) & (examples.labels >= 0))
        if len(own) < self.study.rounds.examples_min:
            return None
        return self._learner.train(base, own, seed=self.study.learner.seed, round=round_number).update

    def _held_back_mask(self, examples: Examples) -> NDArray[np.bool_]:
        return np.array([self._is_held_back(str(s)) for s in examples.subjects], bool)

    def held_back(self) -> Examples:
        """The labelled examples in the lake of subjects that never train a model."""
        assert self.task is not None  # noqa: S101 - statistics have no round that is scored
        examples = gold_examples(self._lake, self.task)
        return examples.where(self._held_back_mask(examples) & (examples.labels >= 0))

    def score_pending(self) -> None:
        """Score the newest model that has none yet; one at a time, in the caller's thread."""
        with self._scoring:
            if not self._pending:
                return
            events, self._pending = self._pending, {}
            event = max(events.values(), key=lambda e: e.round_number)
            examples = self.held_back()
            if len(examples) == 0:
                return
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

    def _is_held_back(self, subject: str) -> bool:
        return is_held_back(self.study.score, subject, self._edge_of(subject))

    def _event(self, event: RoundEvent) -> None:
        if event.kind == "committed":
            if event.round_number > 0:
                self._pending[event.model] = event
            self.newest = self._record(event, None)
            self._store.put_round(self.newest)
        self._on_event(event)

    def _record(self, event: RoundEvent, score: Score | None) -> RoundRecord:
        facts: dict[str, Any] = {
            "base": event.base,
            "folded": dict(event.folded),
            "aside": list(event.aside),
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


class Studies:
    """What is asked for in the store becomes running; what is finished is said there."""

    def __init__(self, store: Store, clock: Clock, make: Callable[[StudyRecord], RunningStudy]) -> None:
        self._store, self._clock, self._make = store, clock, make
        self.running: dict[str, RunningStudy] = {}

    @property
    def coordinators(self) -> dict[str, Coordinator]:
        """By the study's name."""
        return {name: running.coordinator for name, running in self.running.items()}

    async def look(self, attached: set[EdgeId]) -> None:
        """Start what was asked for, or was running when the hub stopped."""
        for record in await asyncio.to_thread(self._store.studies):
            if record.state not in ("requested", "running") or record.name in self.running:
                continue
            try:
                running = await asyncio.to_thread(self._make, record)
            except WardroundError as error:
                log.error("study cannot run", study=record.name, reason=str(error))
                self._put(record, "failed", str(error))
                continue
            self.running[record.name] = running
            self._put(record, "running", "")
            for edge in sorted(attached):
                running.coordinator.attach(edge)

    def finished(self, name: str) -> None:
        """A study has all its rounds."""
        record = next((r for r in self._store.studies() if r.name == name), None)
        if record is not None:
            self._put(record, "finished", "")

    def _put(self, record: StudyRecord, state: str, detail: str) -> None:
        now_us = self._clock.now_us()
        self._store.put_study(StudyRecord(record.name, record.toml, state, detail, record.created_us, now_us))
