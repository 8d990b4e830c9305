"""One rehearsal from its study to its scores: the root that joins data, fleet and held-back examples."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from wardround.errors import StudyError
from wardround.learn.faults import Faults, flipped, struck
from wardround.learn.fleet import Fleet
from wardround.learn.learners import check_learner
from wardround.learn.models import Parameters, encode_model
from wardround.learn.scores import METRICS
from wardround.learn.spread import Spread
from wardround.learn.study import Study
from wardround.process.transforms.usual import usual_scale
from wardround.records import Examples, concatenate
from wardround.rehearsal.chart import svg_chart
from wardround.rehearsal.data import Population
from wardround.rehearsal.workers import dask_spread
from wardround.watch.detectors.screens import Screens

REFERENCE_EVERY = 20  # of each edge's examples


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What became of a round. `score` is None without held-back examples; `seconds` are of this machine."""

    number: int
    score: float | None
    loss: float | None
    participants: int
    lost: int  # no update came in time
    refused: int  # triage said no
    aside: int  # the screen said no, now or before
    attempts: int
    seconds: float
    virtual_s: float


@dataclass
class Rehearsal:
    """A study over a population."""

    study: Study
    population: Population
    classes: int
    metric: str
    faults: Faults = field(default_factory=Faults)
    fast: bool = False
    workers: int = 0  # processes that train; 0: this one alone
    rounds: list[Rehearsed] = field(default_factory=list)
    aside: Counter[str] = field(default_factory=Counter)  # rounds in which an edge was set aside

    def __post_init__(self) -> None:
        """Raises StudyError or LearnError where the study cannot run over this population."""
        if self.study.kind != "model":
            raise StudyError(
                f"{self.study.name} is a study of kind `{self.study.kind}`", remedy="rehearse one that makes a model"
            )
        features = next(iter(self.population.edges.values())).features.shape[1]
        check_learner(self.study, features, self.classes)
        if self.workers and self.study.privacy.by_patient:
            raise StudyError(
                'privacy.unit is "patient", and workers do not know whose rows are whose', remedy="leave --workers out"
            )
        seed, flip = self.study.learner.seed, self.faults.label_flip
        self.flipped = frozenset(name for name in self.population.edges if struck(flip, seed, "label-flip", name))
        edges = {n: flipped(e, self.classes) if n in self.flipped else e for n, e in self.population.edges.items()}
        self._held = ExitStack()
        spread: Spread | None = None
        given: Mapping[str, Examples] = edges
        if self.workers:
            spread, given = self._held.enter_context(dask_spread(self.study, edges, self.classes, self.workers))
        self.fleet = Fleet(
            self.study,
            given,
            classes=self.classes,
            faults=self.faults,
            screen=None if self.fast else self._screen(),
            reference=self._reference(edges),
            spread=spread,
            usual=usual_scale(self.study.task, features),
        )
        if len(self.fleet.names) < self.study.rounds.edges_min:
            raise StudyError(
                f"{len(self.fleet.names)} edges have {self.study.rounds.examples_min} examples, "
                f"and rounds.edges_min is {self.study.rounds.edges_min}",
                remedy="rehearse more edges, or lower rounds.edges_min or rounds.examples_min",
            )
        self.model: Parameters = {}

    def close(self) -> None:
        """End the workers."""
        self._held.close()

    def _screen(self) -> Screens:
        """The study's own, with a secret that the seed makes."""
        triage = self.study.triage
        return Screens(
            f"rehearsal/{self.study.learner.seed}",
            threshold=triage.screen_threshold,
            rounds_min=triage.screen_rounds_min,
            twin_threshold=triage.twin_cosine_max,
            trial_rounds=triage.trial_rounds,
        )

    def _reference(self, edges: Mapping[str, Examples]) -> Examples | None:
        """What stands for the examples that a hub holds itself: some of every edge's, with their own labels."""
        if self.study.strategy.name != "fltrust":
            return None
        names = next(iter(edges.values())).feature_names
        return concatenate((e.where(np.arange(len(e)) % REFERENCE_EVERY == 0) for e in self.population.edges.values()), names)

    @property
    def unusable(self) -> int:
        """Edges with too few labelled examples to be asked."""
        return len(self.population.edges) - len(self.fleet.names)

    def run(self) -> Iterator[Rehearsed]:
        """Round by round."""
        held = self.population.held_back
        began = time.perf_counter()
        for done in self.fleet.run():
            self.model = done.model
            score = (
                METRICS[self.metric](held.labels, self.fleet.learner.predict(done.model, held.features)) if len(held) else None
            )
            ended = time.perf_counter()
            loss = done.metrics.get("loss", done.metrics.get("loss_after"))
            known = score if score is not None and np.isfinite(score) else None
            self.aside.update(done.aside)
            one = Rehearsed(
                done.number,
                known,
                loss,
                len(done.participants),
                len(done.lost),
                len(done.refused),
                len(done.aside),
                done.attempts,
                ended - began,
                done.virtual_s,
            )
            self.rounds.append(one)
            yield one
            began = time.perf_counter()

    def scores(self) -> tuple[list[int], list[float]]:
        """The rounds that have a score, and the scores."""
        known = [(r.number, r.score) for r in self.rounds if r.score is not None]
        return [n for n, _ in known], [s for _, s in known]

    def facts(self) -> dict[str, Any]:
        """Everything a report needs, as plain values."""
        _, scores = self.scores()
        return {
            "study": self.study.name,
            "task": self.study.task,
            "strategy": self.study.strategy.name,
            "source": self.population.source,
            "simulated": self.population.simulated,
            "edges": len(self.population.edges),
            "edges_usable": len(self.fleet.names),
            "examples": sum(len(e) for e in self.population.edges.values()),
            "held_back_examples": len(self.population.held_back),
            "faults": asdict(self.faults),
            "labels_flipped": sorted(self.flipped),
            "set_aside": dict(sorted(self.aside.items())),
            "screen": self.fleet.screened,
            "metric": self.metric,
            "score": scores[-1] if scores else None,
            "rounds": [asdict(r) for r in self.rounds],
            "settings": msgspec.to_builtins(self.study),
        }

    def write(self, folder: Path) -> list[Path]:
        """The facts, the last model and the curve; what was written."""
        folder.mkdir(parents=True, exist_ok=True)
        made = [folder / "rehearsal.json", folder / "model.safetensors"]
        made[0].write_text(json.dumps(self.facts(), indent=2) + "\n", encoding="utf-8")
        made[1].write_bytes(encode_model(self.model))
        rounds, scores = self.scores()
        if rounds:
            made.append(folder / "score.svg")
            title = f"{self.study.name}: {len(self.fleet.names)} virtual edges, {self.study.strategy.name}"
            made[2].write_text(svg_chart(title, self.metric, rounds, scores), encoding="utf-8")
        return made
