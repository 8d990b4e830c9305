"""The models of one study on a hub: the registry with its lineage, what is measured, and which model predicts where.

learn/releases.py decides; this carries out: it measures models on the held-back examples, keeps the registry in the store, pins
the files in use, signs what predicts, and tells edges what to hold. Going back is journaled first (learn/rollbacks.py) and noted
here after; a kill in between is made good when the study is opened again.
"""

from __future__ import annotations

import base64
import hashlib
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog

import wardround
from wardround.clock import Clock
from wardround.errors import StudyError
from wardround.learn.calibration import calibrate
from wardround.learn.coordinator import Coordinator
from wardround.learn.grpc_wire import CHUNK
from wardround.learn.journal import Committed
from wardround.learn.learners import Learner
from wardround.learn.manifests import Signed, make_manifest
from wardround.learn.messages import Release
from wardround.learn.models import decode_model, without_controls
from wardround.learn.releases import Entry, Measured, Move, Stage, at, decide, gone_back, in_use, previous, promoted, ring, wanted
from wardround.learn.rollbacks import Asked
from wardround.learn.scores import METRICS, by_group, worst
from wardround.learn.study import Study, features_digest
from wardround.process.transforms import Task
from wardround.records import EdgeId, Examples
from wardround.store import ModelRecord, Store

log = structlog.get_logger(__name__)
LOOK_AGAIN_S = 10.0  # with no held-back examples there is nothing to measure on; then it looks again


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the registry asks of the hub: who there is, what each edge holds, how to tell one, and the hub's signature."""

    edges: Callable[[], Sequence[str]]
    holds: Callable[[str], Sequence[str]]  # an edge's models, by digest, as it last said
    tell: Callable[[EdgeId, Release], None]
    sign: Callable[[bytes], Signed]
    edge_of: Callable[[str], str]  # the edge of a subject


class Releases:
    """The registry of one study. Safe to use from several threads; `committed` returns at once."""

    def __init__(
        self,
        study: Study,
        text: str,
        task: Task,
        *,
        settings: bytes,
        metric: str,
        learner: Learner,
        coordinator: Coordinator,
        store: Store,
        clock: Clock,
        fleet: Fleet,
        held_back: Callable[[], Examples],
        say: Callable[[str, str], None],
    ) -> None:
        """`text` is study.toml as it was started; `settings` go to edges with a model; `say(title, detail)` is what happened."""
        self._study, self._task, self._settings, self._metric = study, task, settings, metric
        self._learner, self._coordinator, self._store, self._clock = learner, coordinator, store, clock
        self._fleet, self._held_back, self._say = fleet, held_back, say
        self._study_sha256 = hashlib.sha256(text.encode()).hexdigest()
        self._lock = threading.RLock()
        self._new: queue.SimpleQueue[Committed] = queue.SimpleQueue()
        # Put in place whole: who asks reads it as it stands, and never waits for the lock, under which models are measured.
        self._records: Mapping[int, ModelRecord] = {r.number: r for r in store.models(study.name)}
        self._measured: dict[str, Measured] = {}
        self._measured_on: tuple[int, int] = (0, 0)
        self._not_before_s = 0.0
        self._catch_up()

    # -- what others ask

    def entries(self) -> list[Entry]:
        """Every model, oldest first. Waits for nobody, as the next two."""
        return _entries(self._records)

    def committed(self, done: Committed) -> None:
        """A round is over; a rollback's row makes no model."""
        if done.folded:
            self._new.put(done)

    def release_for(self, edge: str) -> Release | None:
        """What an edge should hold for its predictions; None: nothing yet."""
        records = self._records
        entries = _entries(records)
        entry = at(entries, Stage.CANARY) if edge in self._ring() else None
        entry = entry or at(entries, Stage.CURRENT)
        if entry is None:
            return None
        temperature = records[entry.number].facts.get("calibration", {}).get("temperature", 1.0)
        return Release(self._study.name, entry.number, entry.model, entry.stage, self._settings, temperature)

    def tell(self, edge: EdgeId) -> None:
        """Say to an edge what to hold."""
        if (release := self.release_for(edge)) is not None:
            self._fleet.tell(edge, release)

    def measured_us(self) -> int:
        """When a model's scores and calibration last changed; 0: none has any."""
        return max((r.changed_us for r in self._records.values() if "calibration" in r.facts), default=0)

    def last_good(self) -> Entry | None:
        """The model that has passed the gates last: the current one, or the one before when nothing was made since."""
        with self._lock:
            self._take_new()
            entries = self.entries()
            current = at(entries, Stage.CURRENT)
            newest = max((e.number for e in entries), default=0)
            return previous(entries) if current is not None and current.number == newest else current

    # -- acts

    def look(self) -> None:
        """Measure what is new, and let models move by themselves. Called about once a second."""
        with self._lock:
            self._take_new()
            self._measure_all()
            finished = self._coordinator.finished
            canary, on_ring = at(self.entries(), Stage.CANARY), self._ring()
            holds = None if not on_ring else canary is not None and any(canary.model in self._fleet.holds(e) for e in on_ring)
            newest = max(self._records, default=0)
            moves = decide(
                self._study.release, self.entries(), self._measured, newest=newest, finished=finished, ring_holds=holds
            )
            self._move(moves)

    def promote(self, number: int, stage: Stage, *, who: str, reason: str) -> str:
        """Make a model canary or current by hand; what was done, in words.

        Raises:
            StudyError: there is no such model, or it stands there already, or its file is gone.
        """
        with self._lock:
            self._take_new()
            self._must_be_there(number)
            self._move(promoted(self.entries(), number, stage, f"by {who}: {reason}" if reason else f"by {who}"))
            return f"the model of round {number} is {stage}"

    def roll_back(self, asked: Asked) -> str:
        """Go back: the study trains on from that model, and it is what predicts. What was done, in words.

        Raises:
            StudyError: there is no such model any more.
            StorageFull: the hub's disk refused; nothing has changed.
        """
        with self._lock:
            self._take_new()
            self._must_be_there(asked.to_round)
            done = self._coordinator.roll_back(asked)
            self._went_back(asked)
            return f"back at the model of round {asked.to_round} ({done.model[:8]}), noted as round {done.number}"

    # -- how

    def _must_be_there(self, number: int) -> None:
        record = self._records.get(number)
        if record is None:
            raise StudyError(f"there is no model of round {number}", remedy="`wardround study models` lists them")
        if not self._coordinator.model_size(record.model):
            raise StudyError(f"model {record.model[:8]} of round {number} is not kept any more", remedy="choose a newer one")

    def _catch_up(self) -> None:
        """Take up what a kill left undone: rounds without a row here, a rollback whose moves were not noted."""
        for done in self._coordinator.committed():
            if done.folded and done.number > 0 and done.number not in self._records:
                self._new.put(done)
        self._take_new()
        rollbacks = self._coordinator.rollbacks()
        if rollbacks and rollbacks[-1].number > self._noted_rollback():
            newest = rollbacks[-1]
            self._went_back(Asked(newest.to_round, newest.who, newest.reason, newest.request))
        self._coordinator.pin(in_use(self.entries()))

    def _went_back(self, asked: Asked) -> None:
        reason = f"rolled back by {asked.who}: {asked.reason}" if asked.reason else f"rolled back by {asked.who}"
        self._move(gone_back(self.entries(), asked.to_round, reason))
        number = self._coordinator.rollbacks()[-1].number
        self._store.save_state(self._state_key(), msgspec.json.encode(number))

    def _noted_rollback(self) -> int:
        saved = self._store.load_state(self._state_key())
        return int(msgspec.json.decode(saved)) if saved else 0

    def _state_key(self) -> str:
        return f"rolled-back/{self._study.name}"

    def _take_new(self) -> None:
        new: list[ModelRecord] = []
        while not self._new.empty():
            done = self._new.get()
            if done.number > 0 and done.number not in self._records:
                new.append(self._record(done))
        self._store.put_models(new)
        self._records = {**self._records, **{r.number: r for r in new}}

    def _record(self, done: Committed) -> ModelRecord:
        study = self._study
        lineage = {
            "updates": dict(done.folded),
            "aside": list(done.aside),
            "replayed": {f"{r.edge}/{r.from_round}": r.examples for r in done.replayed},
            "task": study.task,
            "features": features_digest(self._task.feature_names),
            "learner": study.learner.kind,
            "strategy": study.strategy.name,
            "study_sha256": self._study_sha256,
            "version": wardround.__version__,
            "code": code_digest(),
        }
        facts: dict[str, Any] = {"lineage": lineage}
        stage = Stage.CANDIDATE.value
        return ModelRecord(
            study.name, done.number, done.model, done.base, stage, done.number, done.t_us, self._clock.now_us(), facts
        )

    def _ring(self) -> frozenset[str]:
        held_back = set(self._study.score.held_back_edges)
        edges = [e for e in self._fleet.edges() if e not in held_back]
        return ring(self._study.name, edges, self._study.release.canary_share)

    def _measure_all(self) -> None:
        """Measure every model whose number is asked for, all on the same examples."""
        names = wanted(self.entries())
        if all(n in self._measured for n in names) or self._clock.monotonic_s() < self._not_before_s:
            return
        examples = self._held_back()
        if len(examples) == 0:
            self._not_before_s = self._clock.monotonic_s() + LOOK_AGAIN_S
            return
        on = (len(examples), int(examples.t_us.max()))
        if on != self._measured_on:
            self._measured, self._measured_on = {}, on
        changed = []
        numbers = {r.model: r.number for r in self._records.values()}
        for model in names:
            if model not in self._measured and self._coordinator.model_size(model):
                self._measured[model], facts = self._measure(model, examples)
                record = self._records[numbers[model]]
                changed.append(replace(record, facts={**record.facts, **facts}, changed_us=self._clock.now_us()))
        self._measured = {m: v for m, v in self._measured.items() if m in names}
        self._keep(changed)

    def _measure(self, model: str, examples: Examples) -> tuple[Measured, Mapping[str, Any]]:
        parameters = without_controls(decode_model(self._coordinator.model(model)))
        probabilities = self._learner.predict(parameters, examples.features)
        edges = np.array([self._fleet.edge_of(str(s)) for s in examples.subjects], np.str_)
        by_edge = by_group(self._metric, examples.labels, probabilities, edges)
        lowest = worst(by_edge) or ("", float("nan"))
        value = METRICS[self._metric](examples.labels, probabilities)
        found = calibrate(examples.labels, probabilities, np.asarray(examples.subjects, np.str_))
        measured = Measured(value, lowest[0], lowest[1], len(examples), found.ece, found.brier)
        facts: dict[str, Any] = {
            "score": {
                "metric": self._metric,
                "value": _number(value),
                "worst_edge": lowest[0],
                "worst": _number(lowest[1]),
                "by_edge": by_edge,
                "examples": len(examples),
                "subjects": len(np.unique(examples.subjects)),
                "from_us": int(examples.t_us.min()),
                "to_us": int(examples.t_us.max()),
            },
            "calibration": {
                "ece": found.ece,
                "brier": found.brier,
                "temperature": found.temperature,
                **({"ece_scaled": found.ece_scaled} if found.ece_scaled is not None else {}),
            },
        }
        return measured, facts

    def _move(self, moves: Sequence[Move]) -> None:
        """Note moves in the registry, all or none; then pin, tell, and say what happened."""
        changed, moved = [], []
        newest = max(self._records, default=0)
        for move in moves:
            record = self._records.get(move.number)
            if record is None or (record.stage == move.stage and record.facts.get("reason") == move.reason):
                continue
            facts = {**record.facts, "reason": move.reason}
            if move.stage in (Stage.CANARY, Stage.CURRENT):
                facts["signature"] = self._signature(record.model)
            if record.stage != move.stage:
                moved.append(move)
            since = newest if record.stage != move.stage else record.since_round
            now_us = self._clock.now_us()
            changed.append(replace(record, stage=move.stage.value, since_round=since, changed_us=now_us, facts=facts))
        self._keep(changed)
        if not moved:
            return
        self._coordinator.pin(in_use(self.entries()))
        for move in moved:
            log.info("model moved", study=self._study.name, number=move.number, stage=move.stage, reason=move.reason)
            self._say(f"{self._study.name}: model of round {move.number} is {move.stage}", move.reason)
        for edge in self._fleet.edges():
            self.tell(EdgeId(edge))

    def _keep(self, changed: Sequence[ModelRecord]) -> None:
        self._store.put_models(changed)
        self._records = {**self._records, **{r.number: r for r in changed}}

    def _signature(self, model: str) -> Mapping[str, str]:
        """The hub's signature over the manifest of a model's file."""
        size = self._coordinator.model_size(model)
        parts = (self._coordinator.model(model, start, CHUNK) for start in range(0, size, CHUNK))
        signed = self._fleet.sign(make_manifest(self._study.name, model, CHUNK, parts))
        return {
            "manifest": base64.b64encode(signed.manifest).decode(),
            "signature": base64.b64encode(signed.signature).decode(),
            "certificate": signed.certificate.decode(),
        }


@cache
def code_digest() -> str:
    """Short name of the source that makes models: the files of learn/ and of the transforms."""
    root = Path(wardround.__file__).parent
    hash_ = hashlib.sha256()
    for folder in ("learn", "process/transforms"):
        for path in sorted((root / folder).rglob("*.py")):
            hash_.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return hash_.hexdigest()[:16]


def _entries(records: Mapping[int, ModelRecord]) -> list[Entry]:
    return [Entry(r.number, r.model, Stage(r.stage), r.since_round) for _, r in sorted(records.items())]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
