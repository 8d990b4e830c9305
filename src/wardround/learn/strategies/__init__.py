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


STRATEGIES = ("fedavg", "coordinate-median", "trimmed-mean", "multi-krum", "geometric-median")


def make_strategy(name: str, faulty_share: float = 0.2) -> Strategy:
    """The strategy of this name; `faulty_share` is what the robust ones withstand.

    Raises:
        StudyError: there is none.
    """
    from wardround.learn.strategies import fedavg, robust  # noqa: PLC0415 - they need the names above

    made: dict[str, Strategy] = {
        "fedavg": fedavg.FedAvg(),
        "coordinate-median": robust.CoordinateMedian(),
        "trimmed-mean": robust.TrimmedMean(faulty_share),
        "multi-krum": robust.MultiKrum(faulty_share),
        "geometric-median": robust.GeometricMedian(),
    }
    if name not in made:
        raise StudyError(f"unknown strategy `{name}`", remedy=f"choose one of: {', '.join(STRATEGIES)}")
    return made[name]
