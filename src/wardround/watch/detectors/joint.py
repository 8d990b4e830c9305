"""An edge's numbers of a round together: the vector that the joint advisory detectors look at (ecod.py, half_space_trees.py).

Each number is put against the same edge's own past (own_past.py), and what counts is its course: an exponentially weighted mean
of z. So the vectors of all edges are of one kind, and a detector can learn from them together. What several numbers say at once,
each too little to be a sign of its own, is what it is for. Sans-I/O.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.row_counts import CONFIDENCE_BINS
from wardround.watch.detectors.own_past import WARM_UP, OwnPast, Saved, ewma, ewma_score
from wardround.watch.detectors.seen import Counts, EdgeSeen, RoundSeen

Vectors = NDArray[Any]  # float64, shape (n, len(NUMBERS))
WEIGHT = 0.3  # of the newest round in the course
EDGES_MAX = 20_000  # whose course is kept; the ones unheard longest are forgotten first
NUMBERS: Mapping[str, float] = {  # with the least deviation that is more than noise
    "loss": 0.02,  # of its logarithm
    "seconds to answer": 0.15,  # of the logarithm
    "seconds of training": 0.15,
    "examples": 0.05,
    "confidence": 0.01,
    "level of the inputs": 0.02,  # in bins
    "spread of the inputs": 0.02,
}


class JointDetector(Protocol):
    """What says how unusual vectors are. `fit` forgets what was fitted before; the same vectors always make the same scores."""

    def fit(self, vectors: Vectors) -> None:
        """Learn from vectors of health, in the order of their rounds."""
        ...

    def score(self, vectors: Vectors) -> NDArray[Any]:
        """A score for each, shape (n,): the higher, the more unusual."""
        ...


class OwnNumbers:
    """The vectors of one study's edges. Memory: len(NUMBERS) pasts an edge."""

    def __init__(self) -> None:
        self._pasts = {name: OwnPast(sd_min=sd) for name, sd in NUMBERS.items()}
        self._courses: dict[str, list[float]] = {}  # by edge
        self._rounds = 0

    def vectors(self, seen: RoundSeen) -> dict[str, list[float]]:
        """By edge, how far the course of each number is from usual, in its own deviations; 0 where it is not known.

        Who has no past yet is left out.
        """
        found: dict[str, list[float]] = {}
        for edge, own in seen.edges.items():
            judged = {name: self._pasts[name].z(edge, value) for name, value in _numbers(own)}
            if all(one is None for one in judged.values()):
                continue
            course = self._courses.pop(edge, None) or [0.0] * len(NUMBERS)
            for i, name in enumerate(NUMBERS):
                if (one := judged.get(name)) is not None:
                    course[i] = ewma(course[i], one[0], WEIGHT)
            self._courses[edge] = course  # the newest last
            if len(self._courses) > EDGES_MAX:
                del self._courses[next(iter(self._courses))]
            found[edge] = [ewma_score(value, WEIGHT) for value in course]
        return found

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        """Take a round into what is usual, without some edges."""
        self._rounds += 1
        if self._rounds <= WARM_UP:  # a model learns fastest at first
            return
        for edge, own in seen.edges.items():
            if edge not in leave_out:
                for name, value in _numbers(own):
                    self._pasts[name].learn(edge, value)

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        pasts = [Saved(past.save(), self._rounds) for past in self._pasts.values()]
        return msgspec.msgpack.encode([*pasts, Saved({}, self._rounds, self._courses)])

    def restore(self, state: bytes) -> None:
        """Take up a kept state.

        Raises:
            msgspec.MsgspecError, ValueError: it is none.
        """
        saved = msgspec.msgpack.decode(state, type=list[Saved])
        *pasts, courses = saved
        for past, own in zip(self._pasts.values(), pasts, strict=True):
            past.load(own.past)
        self._courses, self._rounds = courses.running, courses.rounds


def _numbers(own: EdgeSeen) -> Iterator[tuple[str, float]]:
    """What an edge said of itself, and what was measured, by name."""
    if own.loss is not None and math.isfinite(own.loss):
        yield "loss", math.log(max(own.loss, 1e-6))
    if own.seconds is not None:
        yield "seconds to answer", math.log(max(own.seconds, 0.01))
    if own.trained_s is not None:
        yield "seconds of training", math.log(max(own.trained_s, 0.01))
    if own.examples > 0:
        yield "examples", math.log(own.examples)
    if own.confidence is not None and (rows := own.confidence[:, 0]).sum():
        yield "confidence", float((rows * (np.arange(CONFIDENCE_BINS) + 0.5)).sum() / rows.sum() / CONFIDENCE_BINS)
    if own.inputs is not None and own.inputs.sum():
        yield from zip(("level of the inputs", "spread of the inputs"), _moments(own.inputs), strict=True)


def _moments(inputs: Counts) -> tuple[float, float]:
    """Mean bin and its deviation, each a mean over the features; what is missing stands in no bin."""
    counts = inputs[:, :-1].astype(np.float64)
    total = np.maximum(counts.sum(axis=1), 1.0)
    bins = np.arange(counts.shape[1])
    mean = counts @ bins / total
    variance = np.maximum(counts @ (bins * bins) / total - mean * mean, 0.0)
    return float(mean.mean()), float(np.sqrt(variance).mean())
