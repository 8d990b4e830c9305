"""How updates become the next model: one file per algorithm, each naming its paper.

A strategy has two halves. `rule` is what edges do while they train (learn/local.py): a proximal pull, control variates, tensors
that stay, a personal model. `fold` is what the hub does with their updates, which it reads a block at a time from where they
lie: its memory is the next model, what it remembers of earlier rounds, and 256 KiB an update.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from wardround.errors import StudyError
from wardround.learn.models import Parameters, TensorSource
from wardround.learn.study import LearnerSettings, LocalRule, StrategySettings

__all__ = ["STRATEGIES", "Folded", "LocalRule", "Strategy", "WeightedUpdate", "make_strategy"]


@dataclass(frozen=True, slots=True)
class WeightedUpdate:
    """An update that passed triage, and what counts for it.

    `facts` are numbers that its edge measured, `loss_before` among them; those a strategy `needs` are there, finite and not
    negative. `staleness` is the number of models made since the one it is based on.
    """

    tensors: TensorSource
    examples: int
    facts: Mapping[str, float] = field(default_factory=dict)
    staleness: int = 0


@dataclass(frozen=True, slots=True)
class Folded:
    """The next model, and what the strategy has to remember until the next fold (empty for most)."""

    model: Parameters
    memory: Parameters = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fold:
    """What a fold is given."""

    base: TensorSource
    updates: Sequence[WeightedUpdate]
    memory: Parameters = field(default_factory=dict)  # as the last fold left it
    fleet: int = 0  # edges that train in this study, in this round or another; at least the updates
    reference: Parameters | None = None  # the hub's own update, for a strategy with `wants_reference`


class Strategy(Protocol):
    """Folds updates (new minus base, trainable tensors) into the next model."""

    @property
    def rule(self) -> LocalRule:
        """What edges do while they train."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """The facts without which an update cannot count."""
        ...

    @property
    def means_only(self) -> bool:
        """Whether the fold looks at the updates' mean by examples and at nothing else of them."""
        ...

    @property
    def wants_reference(self) -> bool:
        """Whether the fold compares with an update that the hub trains on data it holds itself."""
        ...

    def fold(self, given: Fold) -> Folded:
        """The next model: the names, shapes and dtypes of the base (trees are appended); tensors that no update carries stay.

        Raises:
            UpdateRefused: an update does not fit the base, or there is none with examples.
        """
        ...


Make = Callable[[StrategySettings, LearnerSettings], Strategy]

# name: module and class of this package
STRATEGIES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "fedavg": ("fedavg", "FedAvg"),
        "fedprox": ("fedprox", "FedProx"),
        "fedavgm": ("fedavgm", "FedAvgM"),
        "fedadagrad": ("fedadagrad", "FedAdagrad"),
        "fedadam": ("fedadam", "FedAdam"),
        "fedyogi": ("fedyogi", "FedYogi"),
        "fednova": ("fednova", "FedNova"),
        "scaffold": ("scaffold", "Scaffold"),
        "feddyn": ("feddyn", "FedDyn"),
        "fedbn": ("fedbn", "FedBN"),
        "ditto": ("ditto", "Ditto"),
        "fine-tuning": ("fine_tuning", "FineTuning"),
        "qfedavg": ("qfedavg", "QFedAvg"),
        "coordinate-median": ("coordinate_median", "CoordinateMedian"),
        "trimmed-mean": ("trimmed_mean", "TrimmedMean"),
        "krum": ("krum", "Krum"),
        "multi-krum": ("krum", "MultiKrum"),
        "geometric-median": ("geometric_median", "GeometricMedian"),
        "centered-clipping": ("centered_clipping", "CenteredClipping"),
        "fltrust": ("fltrust", "FLTrust"),
        "bagging": ("bagging", "Bagging"),
    }
)


def make_strategy(settings: StrategySettings, learner: LearnerSettings) -> Strategy:
    """The strategy of a study whose edges train as `learner` says.

    Raises:
        StudyError: there is none of this name.
    """
    if settings.name not in STRATEGIES:
        raise StudyError(f"unknown strategy `{settings.name}`", remedy=f"choose one of: {', '.join(STRATEGIES)}")
    module, name = STRATEGIES[settings.name]
    make: Make = getattr(importlib.import_module(f"wardround.learn.strategies.{module}"), name)
    return make(settings, learner)
