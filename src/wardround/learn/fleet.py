"""A study rehearsed over virtual edges in this process: the same selection, learner, rules and folds as a live study, no links.

With the same edges, examples and seed a rehearsal gives the model of the live study, to float tolerance. Where a strategy needs
the mean update alone, all participants of a round are trained in one compiled call (JaxLearner.train_many) and no single update
is ever formed; any other strategy, and edges that keep something, are trained one after the other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from wardround.errors import LearnError
from wardround.learn.compression import Decoded, compress, size_max, unpack
from wardround.learn.learners import Learner, make_learner
from wardround.learn.learners.jax_learner import JaxLearner, Pool
from wardround.learn.local import Local, personal_model, train_locally
from wardround.learn.models import MemoryTensors, Parameters, TensorSource, decode_model, with_controls
from wardround.learn.scaling import fold_sums, with_scaling
from wardround.learn.selection import Turns, choose
from wardround.learn.strategies import Fold, WeightedUpdate, make_strategy
from wardround.learn.study import CompressionSettings, LocalRule, Study
from wardround.records import Examples

POOL_BYTES_MAX = 1_000_000_000  # examples held on the device at a time; a round that needs more is trained in parts


@dataclass(frozen=True, slots=True)
class RehearsedRound:
    """A round that is over."""

    number: int
    participants: tuple[str, ...]
    lost: tuple[str, ...]  # chosen, and absent when it came to training
    model: Parameters
    metrics: Mapping[str, float] = field(default_factory=dict)


class Fleet:
    """Virtual edges and their examples. Memory: the examples, and the model a few times."""

    def __init__(self, study: Study, edges: Mapping[str, Examples], *, classes: int, absent: float = 0.0) -> None:
        """`absent` is the chance that an edge that was asked does not deliver in a round.

        Raises:
            LearnError: no edge has enough labelled examples.
        """
        self.study, self._absent = study, absent
        usable = {n: e for n, e in sorted(edges.items()) if int((e.labels >= 0).sum()) >= study.rounds.examples_min}
        if not usable:
            raise LearnError("no edge of the rehearsal has enough labelled examples", remedy="lower rounds.examples_min")
        self.names = tuple(usable)
        self._edges = tuple(usable.values())
        self.learner: Learner = make_learner(study.learner, self._edges[0].features.shape[1], classes)
        self._strategy = make_strategy(study.strategy, study.learner)
        self._kept: dict[str, Parameters] = {}
        self._pool: Pool | None = None
        self.sent_bytes = 0  # of compressed updates
        rule = self._strategy.rule
        self._plain = rule == LocalRule(proximal=rule.proximal) and study.compression == CompressionSettings()

    def first_model(self) -> Parameters:
        """The model that round 0 makes: first values, and scaling from the sums of all edges."""
        sums = fold_sums(self.learner.statistics(e) for e in self._edges)
        initial = self.learner.initial(self.study.learner.seed)
        if self._strategy.rule.controls:
            initial = with_controls(initial)
        return with_scaling(initial, sums, class_weighting=self.study.learner.class_weighting)

    def run(self) -> Iterator[RehearsedRound]:
        """Round by round, as the study says."""
        model, memory = self.first_model(), Parameters()
        turns = Turns([self.names])  # round 0 asks everybody
        for number in range(1, self.study.rounds.count + 1):
            asked, wanted = choose(self.study, self.names, turns.counts(self.study, len(self.names)), number)
            there = [e for e in asked if not self._is_absent(e, number)]
            participants = tuple(there[:wanted] if self.study.rounds.over_selection > 1 else there)
            lost = tuple(sorted(set(asked) - set(there)))
            turns.add(asked)
            if len(participants) < self.study.rounds.edges_min:
                yield RehearsedRound(number, (), lost, model)
                continue
            model, memory, metrics = self._round(model, memory, participants, number)
            yield RehearsedRound(number, participants, lost, model, metrics)

    def personal(self, model: Parameters, edge: str) -> Parameters:
        """The model that an edge uses itself: the shared one with what it keeps of its own."""
        return personal_model(model, self._kept.get(edge, {}))

    def _round(
        self, model: Parameters, memory: Parameters, participants: Sequence[str], number: int
    ) -> tuple[Parameters, Parameters, dict[str, float]]:
        if isinstance(self.learner, JaxLearner) and self._strategy.means_only and self._plain:
            updates, metrics = self._together(self.learner, model, participants, number)
        else:
            updates, metrics = self._one_by_one(model, participants, number)
        fleet = len(self.names)
        folded = self._strategy.fold(Fold(MemoryTensors(model), updates, memory, fleet))
        return folded.model, folded.memory, metrics

    def _together(
        self, learner: JaxLearner, model: Parameters, participants: Sequence[str], number: int
    ) -> tuple[list[WeightedUpdate], dict[str, float]]:
        """One mean update for every part of the participants that fits on the device together."""
        updates: list[WeightedUpdate] = []
        loss = total = 0.0
        for pool, members in self._pools(learner, [self.names.index(e) for e in participants]):
            mean, counts, lost = learner.train_many(
                model, pool, members, seed=self.study.learner.seed, round=number, pull=self._strategy.rule.proximal
            )
            examples = int(counts.sum())
            updates.append(WeightedUpdate(MemoryTensors(mean), examples))
            loss, total = loss + lost * examples, total + examples
        return updates, {"loss": loss / total}

    def _pools(self, learner: JaxLearner, members: Sequence[int]) -> Iterator[tuple[Pool, list[int]]]:
        if self._pool is None and sum(e.features.nbytes for e in self._edges) <= POOL_BYTES_MAX:
            self._pool = Pool(learner, self._edges)
        if self._pool is not None:
            yield self._pool, list(members)
            return
        part: list[int] = []
        size = 0
        for member in members:
            part.append(member)
            size += self._edges[member].features.nbytes
            if size > POOL_BYTES_MAX:
                yield Pool(learner, [self._edges[m] for m in part]), list(range(len(part)))
                part, size = [], 0
        if part:
            yield Pool(learner, [self._edges[m] for m in part]), list(range(len(part)))

    def _one_by_one(
        self, model: Parameters, participants: Sequence[str], number: int
    ) -> tuple[list[WeightedUpdate], dict[str, float]]:
        made: list[Local] = []
        sent: list[TensorSource] = []
        for edge in participants:
            local = train_locally(
                self.learner,
                self.study.learner,
                self._strategy.rule,
                model,
                self._kept.get(edge, {}),
                self._edges[self.names.index(edge)],
                round_number=number,
            )
            tensors, residual = self._sent(model, local.update, self._kept.get(edge, {}))
            if keep := {**local.kept, **residual}:
                self._kept[edge] = keep
            made.append(local)
            sent.append(tensors)
        total = sum(m.examples for m in made)
        names = sorted(set.intersection(*(set(m.metrics) for m in made)))
        metrics = {n: sum(m.metrics[n] * m.examples for m in made) / total for n in names}
        return [WeightedUpdate(tensors, m.examples, m.metrics) for tensors, m in zip(sent, made, strict=True)], metrics

    def _sent(self, model: Parameters, update: Parameters, kept: Parameters) -> tuple[TensorSource, Parameters]:
        """An update as the hub reads it, however the study compresses it, and what its edge keeps of it."""
        own = self.study.compression
        if own == CompressionSettings():
            return MemoryTensors(update), {}
        data, residual = compress(update, kept, own)
        self.sent_bytes += len(data)
        if own.zstd:
            packed, base = data, MemoryTensors(model)
            data = b"".join(unpack(lambda at, length: packed[at : at + length], size_max(base, list(update), own)))
        tensors = MemoryTensors(decode_model(data))
        return (tensors if own.update == "none" else Decoded(tensors, MemoryTensors(model), list(update), own)), residual

    def _is_absent(self, edge: str, number: int) -> bool:
        if not self._absent:
            return False
        return random.Random(f"{self.study.learner.seed}/{edge}/{number}").random() < self._absent  # noqa: S311 - a fault
