"""What trains. A learner is pure: parameters and examples in, an update out; no clock, no network, no hidden state.

The same learner runs at the edge (train), at the hub (score what is held back) and at the bedside (predict).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wardround.errors import StudyError
from wardround.learn.models import Parameters
from wardround.learn.study import LearnerSettings
from wardround.records import Examples

__all__ = ["LEARNERS", "Learner", "Parameters", "Trained", "make_learner"]

LEARNERS = ("mlp",)


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training gives back."""

    update: Parameters  # new minus base, trainable tensors alone
    examples: int  # labelled examples trained on
    metrics: dict[str, float] = field(default_factory=dict)  # loss_before, loss_after, accuracy (on the examples trained on)


class Learner(Protocol):
    """A family of models of one shape."""

    def initial(self, seed: int) -> Parameters:
        """A fresh model, with a scaling that changes nothing; the same seed gives the same bytes."""
        ...

    def statistics(self, examples: Examples) -> Parameters:
        """The sums that the hub adds up for the scaling: `count`, `sum`, `sum_squares`, `classes` (learn.scaling)."""
        ...

    def train(self, parameters: Parameters, examples: Examples, *, seed: int, round: int) -> Trained:  # noqa: A002
        """Local training from `parameters` on the labelled examples; seed and round decide the order of the examples.

        Raises:
            LearnError: no example is labelled, or the parameters are not of this learner's shape.
        """
        ...

    def predict(self, parameters: Parameters, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities, shape (n, n_classes), of features of shape (n, n_features).

        Raises:
            LearnError: the shapes do not fit.
        """
        ...


def make_learner(settings: LearnerSettings, n_features: int, n_classes: int) -> Learner:
    """The learner a study asks for, for a task of this shape.

    Raises:
        StudyError: there is no such learner.
    """
    if settings.kind != "mlp":
        raise StudyError(f"unknown learner `{settings.kind}`", remedy=f"choose one of: {', '.join(LEARNERS)}")
    from wardround.learn.learners.jax_mlp import JaxMlp  # noqa: PLC0415 (jax takes a second to load: only who trains pays)

    return JaxMlp(settings, n_features, n_classes)
