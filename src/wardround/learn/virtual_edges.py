"""The edges of a rehearsal: their examples, what they keep, and their trainings, many in one compiled call where that can be.

Where a strategy needs the mean update alone, no single update is ever formed (`means`); else every update is (`each`), as its hub
would have it. Either way the training is the live edge's: learn/local.py, or JaxLearner.train_many, which the tests hold equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from wardround.errors import LearnError
from wardround.learn.by_patient import train_by_patient
from wardround.learn.compression import Decoded, compress, size_max, unpack
from wardround.learn.learners import Learner, make_learner
from wardround.learn.learners.jax_learner import JaxLearner, Many, Pool
from wardround.learn.local import Local, train_locally
from wardround.learn.models import MemoryTensors, Parameters, TensorSource, decode_model
from wardround.learn.spread import Results, Share, Spread
from wardround.learn.strategies import Strategy
from wardround.learn.study import CompressionSettings, LocalRule, Study
from wardround.records import Examples

POOL_BYTES_MAX = 1_000_000_000  # examples, or updates, held on the device at a time; a round that needs more is trained in parts


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean update of some edges, by their examples."""

    update: Parameters
    examples: int
    loss: float


@dataclass(frozen=True, slots=True)
class Made:
    """One edge's update as its hub reads it, and what the edge keeps once it counts."""

    tensors: TensorSource
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    keep: Parameters = field(default_factory=dict)
    bytes: int = 0  # as it travelled, if it was compressed


class VirtualEdges:
    """Memory: the examples twice, of at most POOL_BYTES_MAX, and as many models as a call of `each` makes updates."""

    def __init__(
        self,
        study: Study,
        edges: Mapping[str, Examples],
        *,
        classes: int,
        strategy: Strategy,
        spread: Spread | None = None,
    ) -> None:
        """Edges with too few labelled examples are left out. With `spread` they are trained in other processes.

        Raises:
            LearnError: no edge has enough labelled examples.
        """
        self._study, self._rule, self._spread = study, strategy.rule, spread
        counts = {n: int((e.labels >= 0).sum()) for n, e in sorted(edges.items())}
        self.counts = {n: count for n, count in counts.items() if count >= study.rounds.examples_min}  # labelled examples
        usable = {n: edges[n] for n in self.counts}
        if not usable:
            raise LearnError("no edge of the rehearsal has enough labelled examples", remedy="lower rounds.examples_min")
        self.names = tuple(usable)
        self._place = {name: i for i, name in enumerate(self.names)}
        self._edges = tuple(usable.values())
        self.shape = (self._edges[0].features.shape[1], classes)
        self.learner: Learner = make_learner(study.learner, *self.shape)
        self.kept: dict[str, Parameters] = {}
        self._pool: Pool | None = None
        simple = self._rule == LocalRule(proximal=self._rule.proximal) and not strategy.needs and not study.privacy.by_patient
        simple = simple and not study.learner.dp_sgd.on
        self._together = self.learner if isinstance(self.learner, JaxLearner) and simple else None
        self.means_do = self._together is not None and strategy.means_only and study.compression == CompressionSettings()

    def replace(self, edges: Mapping[str, Examples]) -> None:
        """Let these edges train on other examples from now on."""
        known = {self._place[name]: examples for name, examples in edges.items()}
        if known:
            self.counts |= {n: int((e.labels >= 0).sum()) for n, e in edges.items()}
            self._edges = tuple(known.get(i, e) for i, e in enumerate(self._edges))
            self._pool = None

    def sums(self) -> Iterator[Parameters]:
        """Federated sums of every edge."""
        return (self.learner.statistics(e) for e in self._edges)

    def means(self, model: Parameters, edges: Sequence[str], number: int) -> list[Mean]:
        """The mean update of as many edges as fit on the device together, and so on.

        Raises:
            LearnError: an update is not finite.
        """
        assert self._together is not None  # noqa: S101 - asked for where `means_do` alone
        if self._spread is not None:
            return [cast("Mean", m) for part in self._spread.run(self._shares(model, edges, number, means=True)) for m in part]
        found: list[Mean] = []
        for pool, members in self._pools(self._together, edges):
            many = self._train(model, pool, members, number)
            if not all(np.isfinite(t).all() for t in many.update.values()):
                raise LearnError(
                    f"round {number}: an edge's training diverged",
                    remedy="lower learner.learning_rate; without --fast triage refuses that edge and the round goes on",
                )
            examples = int(many.counts.sum())
            found.append(Mean(many.update, examples, float(many.losses @ many.counts) / examples))
        return found

    def each(self, model: Parameters, edges: Sequence[str], number: int) -> Iterator[tuple[str, Made | str]]:
        """Every edge's update as its hub reads it, or the words of its failure."""
        for edge, local in self.trained(model, edges, number):
            yield edge, local if isinstance(local, str) else self._made(model, edge, local)

    def trained(self, model: Parameters, edges: Sequence[str], number: int) -> Iterator[tuple[str, Local | str]]:
        """Every edge's training, or the words of its failure."""
        if self._spread is not None:
            for found in self._spread.run(self._shares(model, edges, number, means=False)):
                yield from cast("Results", found)
            return
        if self._together is None:
            for edge in edges:
                try:
                    yield edge, self._alone(model, edge, number)
                except LearnError as error:
                    yield edge, str(error)
            return
        size = max(1, sum(t.nbytes for t in model.values()))
        most = max(1, POOL_BYTES_MAX // size)
        for start in range(0, len(edges), most):
            part = edges[start : start + most]
            at = 0
            for pool, members in self._pools(self._together, part):
                many = self._train(model, pool, members, number, each=True)
                for i in range(len(members)):
                    update = {name: tensors[i] for name, tensors in many.update.items()}
                    edge, at = part[at], at + 1
                    if not all(np.isfinite(t).all() for t in update.values()):
                        yield edge, "training diverged: the update is not finite"
                        continue
                    yield edge, Local(update, int(many.counts[i]), {"loss": float(many.losses[i])}, {})

    def _shares(self, model: Parameters, edges: Sequence[str], number: int, *, means: bool) -> list[Share]:
        """A round's edges in as many parts as are trained side by side."""
        assert self._spread is not None  # noqa: S101 - asked for where it is there alone
        size = max(1, -(-len(edges) // self._spread.ways))
        parts = [tuple(edges[start : start + size]) for start in range(0, len(edges), size)]
        kept = [{e: self.kept[e] for e in part if e in self.kept} for part in parts]
        return [Share(number, part, model, means, k) for part, k in zip(parts, kept, strict=True)]

    def _train(self, model: Parameters, pool: Pool, members: Sequence[int], number: int, *, each: bool = False) -> Many:
        assert self._together is not None  # noqa: S101 - asked for where it is there alone
        seed = self._study.learner.seed
        return self._together.train_many(model, pool, members, seed=seed, round=number, pull=self._rule.proximal, each=each)

    def _alone(self, model: Parameters, edge: str, number: int) -> Local:
        kept, examples = self.kept.get(edge, {}), self._edges[self._place[edge]]
        if self._study.privacy.by_patient:
            clip, own = self._study.privacy.clip_norm, (self.learner, self._study.learner, self._rule, model, examples)
            return train_by_patient(*own, clip=clip, round_number=number)
        return train_locally(self.learner, self._study.learner, self._rule, model, kept, examples, round_number=number)

    def _made(self, model: Parameters, edge: str, local: Local) -> Made:
        """An update as the hub reads it, however the study compresses it, and what its edge keeps of it."""
        own = self._study.compression
        if own == CompressionSettings():
            return Made(MemoryTensors(local.update), local.examples, local.metrics, local.kept)
        data, residual = compress(local.update, self.kept.get(edge, {}), own)
        sent = len(data)
        if own.zstd:
            packed, base = data, MemoryTensors(model)
            data = b"".join(unpack(lambda at, length: packed[at : at + length], size_max(base, list(local.update), own)))
        tensors: TensorSource = MemoryTensors(decode_model(data))
        if own.update != "none":
            tensors = Decoded(tensors, MemoryTensors(model), list(local.update), own)
        return Made(tensors, local.examples, local.metrics, {**local.kept, **residual}, sent)

    def _pools(self, learner: JaxLearner, edges: Sequence[str]) -> Iterator[tuple[Pool, list[int]]]:
        """The edges' examples on the device, in parts of at most POOL_BYTES_MAX (or of one edge)."""
        members = [self._place[e] for e in edges]
        if self._pool is None and sum(e.features.nbytes for e in self._edges) <= POOL_BYTES_MAX:
            self._pool = Pool(learner, self._edges)
        if self._pool is not None:
            yield self._pool, members
            return
        part: list[int] = []
        size = 0
        for member in members:
            own = self._edges[member].features.nbytes
            if part and size + own > POOL_BYTES_MAX:
                yield Pool(learner, [self._edges[m] for m in part]), list(range(len(part)))
                part, size = [], 0
            part.append(member)
            size += own
        if part:
            yield Pool(learner, [self._edges[m] for m in part]), list(range(len(part)))
