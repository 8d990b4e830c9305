"""How updates become the next model: one file per algorithm, each naming its paper.

A strategy sees updates as sources that are read a block at a time, so its memory is one model whatever the number of edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from wardround.errors import StudyError
from wardround.learn.models import Parameters, TensorSource

__all__ = ["STRATEGIES", "Strategy", "WeightedUpdate", "make_strategy"]


@dataclass(frozen=True, slots=True)
class WeightedUpdate:
    """An update that passed triage, and the number of examples behind it."""

    tensors: TensorSource
    examples: int


class Strategy(Protocol):
    """Folds updates (new minus base, trainable tensors) into the next model."""

    def fold(self, base: Parameters, updates: Sequence[WeightedUpdate]) -> Parameters:
        """The next model: the names, shapes and dtypes of `base`; tensors that no update carries stay as they are.

        Raises:
            UpdateRefused: an update does not fit the base, or there is none with examples.
        """
        ...


STRATEGIES = ("fedavg",)


def make_strategy(name: str) -> Strategy:
    """The strategy of this name.

    Raises:
        StudyError: there is none.
    """
    if name != "fedavg":
        raise StudyError(f"unknown strategy `{name}`", remedy=f"choose one of: {', '.join(STRATEGIES)}")
    from wardround.learn.strategies.fedavg import FedAvg  # noqa: PLC0415 (a strategy is loaded when a study names it)

    return FedAvg()
