"""What trains. A learner is pure: parameters and examples in, an update out; no clock, no network, no hidden state.

The same learner runs at the edge (train), at the hub (score what is held back) and at the bedside (predict).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wardround.errors import StudyError
from wardround.learn.learners.own_code import OwnCode, find
from wardround.learn.models import Parameters
from wardround.learn.study import LearnerSettings, Study
from wardround.learn.study_checks import LEARNER_KINDS, PLAIN_SGD_STRATEGIES
from wardround.records import Examples

__all__ = ["LEARNERS", "Learner", "Parameters", "Pull", "Trained", "check_learner", "code_digest", "make_learner"]

LEARNERS = LEARNER_KINDS
EXTRAS = {"torch": "PyTorch", "sklearn": "scikit-learn", "xgboost": "XGBoost"}  # kinds that need `wardround[KIND]`


@dataclass(frozen=True, slots=True)
class Trained:
    """What local training gives back."""

    update: Parameters  # new minus base, without the scaling; of trees, those that are new
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


def make_learner(settings: LearnerSettings, n_features: int, n_classes: int, *, code: str = "") -> Learner:
    """The learner a study asks for, for a task of this shape. Its library is imported here, and no other learner's.

    Args:
        code: digest that the source of `settings.module` must have; empty: it may be any.

    Raises:
        StudyError: there is no such learner, its library is not installed here, or the user's own code does not do.
    """
    if settings.kind not in LEARNERS:
        raise StudyError(f"unknown learner `{settings.kind}`", remedy=f"choose one of: {', '.join(LEARNERS)}")
    own = _own_code(settings, code) if settings.kind == "torch" else None
    try:
        if own is not None:
            from wardround.learn.learners.torch_learner import TorchLearner  # noqa: PLC0415 (each takes a second or more)

            return TorchLearner(settings, n_features, n_classes, own)
        if settings.kind == "sklearn":
            from wardround.learn.learners.sklearn_learner import SklearnLearner  # noqa: PLC0415

            return SklearnLearner(settings, n_features, n_classes)
        if settings.kind == "xgboost":
            from wardround.learn.learners.xgboost_learner import XgboostLearner  # noqa: PLC0415

            return XgboostLearner(settings, n_features, n_classes)
    except ImportError as exc:
        if settings.kind not in EXTRAS or (exc.name or "").split(".")[0] != settings.kind:
            raise
        raise StudyError(
            f"learner.kind is `{settings.kind}`, and {EXTRAS[settings.kind]} is not installed here",
            remedy=f"pip install 'wardround[{settings.kind}]', at the hub and at every edge of the study",
        ) from exc
    from wardround.learn.learners.jax_learner import JaxLearner  # noqa: PLC0415

    return JaxLearner(settings, n_features, n_classes)


def code_digest(settings: LearnerSettings) -> str:
    """What the source of a user's own learner is called; empty for the learners that come with Wardround.

    Raises:
        StudyError: it is not here.
    """
    return _own_code(settings, "").digest if settings.kind == "torch" else ""


def check_learner(study: Study, n_features: int, n_classes: int) -> None:
    """Whether this machine can make the learner of a study that `study.check` found right, and it does what the strategy asks.

    Raises:
        StudyError: as make_learner, or the two do not fit.
    """
    if study.learner.kind not in EXTRAS:
        return
    learner = make_learner(study.learner, n_features, n_classes)
    if study.strategy.name in PLAIN_SGD_STRATEGIES and getattr(learner, "own_optimiser", False):
        raise StudyError(
            f"strategy.name is `{study.strategy.name}`: its formula needs plain steps; {study.learner.module} has an optimiser",
            remedy="leave `optimiser` out of that file, or choose another strategy",
        )


def _own_code(settings: LearnerSettings, expected: str) -> OwnCode:
    found = find(settings.module)
    if expected and found.digest != expected:
        raise StudyError(
            f"{settings.module} is another version here ({found.digest[:12]}) than at the hub ({expected[:12]})",
            remedy="install the hub's version of that package here",
        )
    return found
