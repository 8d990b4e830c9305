"""A live drill in an edge's training worker: the edge's seat in the drill's own study, and what the fault makes of it.

Examples are those of the synthetic wards, made up from the charter's seed: no patient's are read, so a drill asks for no consent
and spends no budget. The faults are the rehearsal's. Where one needs to know what others send (a little is enough, sybils), the
seat makes their updates as they do, since their examples follow from the same seed.

Runs in the training worker, which names "wardround.drill.at_edge:answer". It remembers one model an edge, of the newest drill.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec
import numpy as np

from wardround.drill.catalogue import FAULTS
from wardround.drill.faults import Fault, Scene
from wardround.drill.synthetic import CLASSES, FEATURE_NAMES, FEATURES, SyntheticWards
from wardround.errors import LearnError
from wardround.learn.drills import Ask, Charter, read_charter
from wardround.learn.learners import Learner, make_learner
from wardround.learn.local import train_locally
from wardround.learn.messages import Done
from wardround.learn.models import MemoryTensors, Parameters, decode_model, encode_model, is_buffer
from wardround.learn.rows_said import rows_said
from wardround.learn.study import LearnerSettings, decode_training, features_digest
from wardround.learn.trainer import Work
from wardround.learn.triage import load
from wardround.learn.virtual_edges import Made
from wardround.records import Examples

EVERYBODY, THE_STRUCK = ("alie",), ("sybil",)  # faults that need the updates of others
_seats: dict[tuple[str, str], Seat] = {}  # by home and edge


def answer(home: str, work: Work) -> Done:
    """One order of a drill; `work.settings` is its charter, `work.kept` an Ask.

    Raises:
        LearnError: it cannot be carried out.
    """
    charter, ask = read_charter(work.settings), msgspec.msgpack.decode(work.kept, type=Ask)
    for key, old in list(_seats.items()):
        if old.charter != charter:  # one drill at a time is remembered
            del _seats[key]
    if (home, ask.edge) not in _seats:
        _seats[home, ask.edge] = Seat(charter, ask.edge)
    seat = _seats[home, ask.edge]
    return seat.sums() if ask.task == "statistics" else seat.train(decode_model(work.model), work.round_number)


@lru_cache(maxsize=1)
def _learner(settings: LearnerSettings) -> Learner:
    """The same for every seat of this process: what it has compiled, it has."""
    return make_learner(settings, FEATURES, CLASSES)


@dataclass
class Seat:
    """One edge's place in a drill."""

    charter: Charter
    edge: str
    _before: tuple[int, Parameters] = field(default=(0, {}), init=False)

    def __post_init__(self) -> None:
        charter = self.charter
        self._settings = decode_training(charter.training)
        fits = self._settings.features == features_digest(FEATURE_NAMES) and self._settings.classes == CLASSES
        if not fits or charter.fault not in {"", *FAULTS}:
            raise LearnError("the drill's study is not the one that is made up here", remedy="bring edge and hub to one version")
        self._wards = SyntheticWards(charter.seed, len(charter.edges))
        names = dict(zip(charter.edges, self._wards.names, strict=True))
        self._own, self._struck = names[self.edge], frozenset(names[e] for e in charter.struck)
        self._learner = _learner(self._settings.learner)
        features = np.concatenate([e.features for e in self._wards.examples(0).values()]).astype(np.float64)
        self._mean, self._std = features.mean(axis=0), features.std(axis=0)

    def sums(self) -> Done:
        """Federated sums of what this seat begins with."""
        own = self._wards.examples(0, [self._own])[self._own]
        return Done(encode_model(self._learner.statistics(own)), len(own))

    def train(self, model: Parameters, number: int) -> Done:
        """One round."""
        began_s = time.monotonic()
        every = self._wards.examples(number)
        hit = self._own in self._struck and self.charter.at_work(number)
        fault = FAULTS[self.charter.fault] if hit else None
        scene = self._scene(number, model)
        examples, own = self._made(scene, fault, model, self._own, every)
        if fault is not None:
            others = every if fault.name in EVERYBODY else self._struck if fault.name in THE_STRUCK else ()
            made = {name: self._made(scene, fault, model, name, every)[1] for name in sorted(others) if name != self._own}
            own = fault.updates(scene, {**made, self._own: own}).get(self._own, own)
        self._before = (number, model)
        metrics = {**own.metrics, "duration_s": time.monotonic() - began_s}
        rows = rows_said(self._learner, model, examples) if self._settings.row_counts else b""
        return Done(encode_model(load(own.tensors)), own.examples, metrics, rows=rows)

    def _made(
        self, scene: Scene, fault: Fault | None, model: Parameters, name: str, every: Mapping[str, Examples]
    ) -> tuple[Examples, Made]:
        """What a seat trains on, and the update that it makes of it."""
        examples = every[name]
        if fault is not None and name in self._struck:
            examples = fault.examples(scene, name, examples)
        rule = self._settings.rule
        local = train_locally(self._learner, self._settings.learner, rule, model, {}, examples, round_number=scene.number)
        return examples, Made(MemoryTensors(local.update), local.examples, local.metrics)

    def _scene(self, number: int, model: Parameters) -> Scene:
        before = self._before[1] if self._before[0] == number - 1 else {}
        step = {name: model[name] - old for name, old in before.items() if not is_buffer(name)}
        since = number - max(1, self.charter.from_round)
        return Scene(self.charter.seed, number, since, self._struck, CLASSES, self._mean, self._std, step)
