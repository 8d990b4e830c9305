"""What a fault of the drill is, and what it is given.

A fault is a pure alteration: of an edge's examples, of its update, of its time, or of the hub's settings, from a round on. Who is
struck follows from the seed. The docstring of a fault says what happens in a real ward, and `seen_by` what should see it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from wardround.learn.models import MemoryTensors, Parameters
from wardround.learn.triage import load
from wardround.learn.virtual_edges import Made
from wardround.records import Examples

Vector = NDArray[np.float64]
Updates = dict[str, Made]
AT_ONCE, CREEPING = 6, 30  # rounds within which a fault is to be seen


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault is given in a round."""

    seed: int
    number: int  # the round's
    since: int  # rounds that the fault has lasted, 0 in its first
    struck: frozenset[str]
    classes: int
    mean: Vector  # of each feature over the whole fleet, shape (features,)
    std: Vector
    last_step: Parameters = field(default_factory=dict)  # of the hub, in the round before; empty: none

    def rng(self, *what: str | int) -> np.random.Generator:
        """Chance that is the same for the same seed and words."""
        words = "/".join(map(str, what)).encode()
        return np.random.default_rng([self.seed, *words])


class Fault:
    """One fault; those who are struck are handed to it, and nobody else."""

    name: ClassVar[str]
    title: ClassVar[str]
    share: ClassVar[float]  # of the edges; 0: none of them is at fault
    fewest: ClassVar[int] = 1  # that are struck where any is: of one edge alone some faults are none
    seen_by: ClassVar[str]
    delay_max: ClassVar[int] = AT_ONCE
    from_the_start: ClassVar[str] = ""  # what is to see it where it is there from round 0; empty: the same

    @classmethod
    def story(cls) -> str:
        """What happens in a real ward."""
        return " ".join(inspect.getdoc(cls).split()) if cls.__doc__ else ""  # type: ignore[union-attr]  # there is one

    def edges(self, names: tuple[str, ...], seed: int) -> frozenset[str]:
        """Who is struck: at least one, where any is."""
        number = max(self.fewest, round(self.share * len(names))) if self.share else 0
        order = np.random.default_rng([seed, *self.name.encode()]).permutation(len(names))
        return frozenset(names[i] for i in order[:number])

    def examples(self, scene: Scene, edge: str, examples: Examples) -> Examples:
        """What a struck edge trains on."""
        del scene, edge
        return examples

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        """What is sent instead by those who are struck; `updates` are everybody's."""
        del scene, updates
        return {}

    def seconds(self, usual: float) -> float:
        """How long a struck edge takes."""
        return usual

    absent: ClassVar[float] = 0.0  # chance that any edge stays away
    server_factor: ClassVar[float] = 1.0  # on the hub's own step


def flat(made: Made) -> Vector:
    """An update as one vector."""
    tensors = load(made.tensors)
    return np.concatenate([np.asarray(tensors[n], np.float64).ravel() for n in sorted(tensors)])


def shaped(made: Made, vector: Vector) -> Made:
    """The same update with other values."""
    shapes = made.tensors.shapes()
    found: Parameters = {}
    at = 0
    for name in sorted(shapes):
        size = math.prod(shapes[name])
        found[name] = vector[at : at + size].reshape(shapes[name]).astype(made.tensors.dtype(name))
        at += size
    return Made(MemoryTensors(found), made.examples, made.metrics, made.keep, made.bytes)
