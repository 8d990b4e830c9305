"""Whose data a drill plays with: the wards of the synthetic study, or the population of an operator's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from wardround.records import Examples
from wardround.rehearsal.data import Population

HELD_BACK = "held back"


class Wards(Protocol):
    """Edges and their examples by round."""

    @property
    def fresh(self) -> bool:
        """Whether every round has other examples."""
        ...

    @property
    def classes(self) -> int: ...

    def examples(self, number: int, edges: Sequence[str] | None = None) -> Mapping[str, Examples]:
        """What these edges, or all, train on in a round; 0 is before the first."""
        ...

    def tried(self) -> Mapping[str, Examples]:
        """Examples that nobody trains on, by edge, or of subjects held back under HELD_BACK."""
        ...


class OwnWards:
    """An operator's population: the same examples in every round, as an edge keeps them."""

    fresh = False

    def __init__(self, population: Population, classes: int) -> None:
        self._population, self.classes = population, classes

    def examples(self, number: int, edges: Sequence[str] | None = None) -> Mapping[str, Examples]:
        del number
        own = self._population.edges
        return own if edges is None else {e: own[e] for e in edges}

    def tried(self) -> Mapping[str, Examples]:
        return {HELD_BACK: self._population.held_back}
