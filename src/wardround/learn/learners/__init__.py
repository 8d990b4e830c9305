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

__all__ = ["LEARNERS", "Learner", "Parameters", "Pull", "Trained", "make_learner"]

LEARNERS = ("mlp", "cnn", "tcn", "gru")


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training gives back."""

    update: Parameters  # new minus base, trainable tensors alone
    examples: int  # labelled examples trained on
    steps: int  # of gradient descent
    metrics: dict[str, float] = field(default_factory=dict)  # loss_before, loss_after, accuracy (on the examples trained on)


@dataclass(frozen=True, slots=True)
class Pull:
    """What a strategy adds to the gradient at the edge: `strength` * (w - towards) + slope.

    `towards` are the trainable tensors drawn to (None: those that training begins with); `slope` has theirs or none.
    """

    strength: float = 0.0
    towards: Parameters | None = None
    slope: Parameters | None = None


class Learner(Protocol):
    """A family of models of one shape."""

    def initial(self, seed: int) -> Parameters:
        """A fresh model, with a scaling that changes nothing; the same seed gives the same bytes."""
        ...

    def statistics(self, examples: Examples) -> Parameters:
        """The sums that the hub adds up for the scaling: `count`, `sum`, `sum_squares`, `classes` (learn.scaling)."""
        ...

    def train(
        self,
        parameters: Parameters,
        examples: Examples,
        *,
        seed: int,
        round: int,  # noqa: A002
        pull: Pull | None = None,
        epochs: int = 0,
    ) -> Trained:
        """Local training from `parameters` on the labelled examples; seed and round decide the order of the examples.

        `epochs` passes; 0: as many as the study says.

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
    if settings.kind not in LEARNERS:
        raise StudyError(f"unknown learner `{settings.kind}`", remedy=f"choose one of: {', '.join(LEARNERS)}")
    from wardround.learn.learners.jax_learner import JaxLearner  # noqa: PLC0415 (jax takes a second: only who trains pays)

    return JaxLearner(settings, n_features, n_classes)
