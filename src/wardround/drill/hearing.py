"""What the hub hears of a rehearsed round, as the watch is told of a live one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wardround.learn.fleet import RehearsedRound
from wardround.learn.models import Parameters
from wardround.records import Examples
from wardround.row_counts import input_counts
from wardround.watch.detectors.seen import Counts, EdgeSeen, RoundSeen


class Hearing:
    """Of one run."""

    def __init__(self, first: Parameters) -> None:
        """`first` is the first model: its scaling is the study's."""
        self._mean, self._std = first["scale.mean"], first["scale.std"]
        self._counted: dict[str, tuple[Examples, Counts]] = {}  # of examples that have not changed since

    def seen(self, done: RehearsedRound, examples: Mapping[str, Examples], step: Parameters) -> RoundSeen:
        """`examples` are what each edge trained on, `step` is the new model minus its base."""
        aside = set(done.aside)
        edges = {
            edge: EdgeSeen(
                examples=answer.examples,
                loss=answer.metrics.get("loss_before", answer.metrics.get("loss")),
                seconds=answer.seconds,
                trained_s=answer.seconds,
                inputs=self.inputs(edge, examples[edge]),
                aside=edge in aside,
            )
            for edge, answer in done.answers.items()
        }
        norm = float(np.sqrt(sum(float(np.sum(np.square(t, dtype=np.float64))) for t in step.values())))
        return RoundSeen(number=done.number, edges=edges, asked=len(done.asked), step_norm=norm)

    def inputs(self, edge: str, examples: Examples) -> Counts:
        """Counts of the rows that an edge trains on."""
        known = self._counted.get(edge)
        if known is not None and known[0] is examples:
            return known[1]
        counts = input_counts(examples.features, self._mean, self._std)
        self._counted[edge] = examples, counts
        return counts
