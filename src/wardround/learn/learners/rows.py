"""What every learner does alike, whatever library trains it: which rows count, in which order, on which scale, and the scores.

NumPy alone: a learner of one library must not load another's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.errors import LearnError
from wardround.learn.models import Parameters, Tensor
from wardround.records import Examples

GRADIENT_NORM_MAX = 3.0  # a mini-batch of outliers moves the model no further (Pascanu et al. 2013, arXiv:1211.5063)

Fits = Mapping[str, tuple[tuple[int, ...], "np.dtype[Any]"]]  # shape and dtype of each tensor of a model
Floats32 = NDArray[np.float32]


def row_order(n: int, epochs: int, seed: int, round_number: int) -> NDArray[np.int32]:
    """The rows of each epoch in their random order, shape (epochs, n): the same for every edge of n examples."""
    rng = np.random.default_rng([seed, round_number])
    return np.stack([rng.permutation(n) for _ in range(epochs)]).astype(np.int32)


def no_scale(n_features: int, n_classes: int) -> Parameters:
    """The scaling buffers of a first model: they change nothing."""
    return {
        "scale.mean": np.zeros(n_features, np.float32),
        "scale.std": np.ones(n_features, np.float32),
        "scale.class_weights": np.ones(n_classes, np.float32),
    }


def check_fit(parameters: Mapping[str, Tensor], expected: Fits) -> None:
    """Whether a model has exactly these tensors.

    Raises:
        LearnError: it has not.
    """
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in parameters.items()}
    if found == dict(expected):
        return
    wrong = min(n for n in {*found, *expected} if found.get(n) != expected.get(n))
    has, wants = (f"{side[wrong][0]} {side[wrong][1]}" if wrong in side else "not there" for side in (found, expected))
    raise LearnError(
        f"the model does not fit the study's learner: {wrong[:60]} is {has}, expected {wants}",
        remedy="the study's task or learner has changed since this model was made: start a new study",
    )


def checked(features: NDArray[Any], n_features: int) -> Floats32:
    """Features of the right width, float32.

    Raises:
        LearnError: they are of another.
    """
    if features.ndim != 2 or features.shape[1] != n_features:
        raise LearnError(f"features of shape {features.shape} do not fit a model of {n_features} features")
    return np.asarray(features, np.float32)


def labelled(examples: Examples, n_features: int, n_classes: int) -> tuple[Floats32, NDArray[np.int32]]:
    """The labelled examples, shapes (n, n_features) and (n,).

    Raises:
        LearnError: the features do not fit, or no example is labelled.
    """
    here = (examples.labels >= 0) & (examples.labels < n_classes)
    features = checked(examples.features, n_features)[here]
    if not here.any():
        raise LearnError("no example here is labelled", remedy="train when labels have arrived")
    return features, examples.labels[here].astype(np.int32)


def scaled(features: Floats32, parameters: Mapping[str, Tensor], clip: float) -> Floats32:
    """By the model's own buffers, missing values the mean, and nothing further out than `clip` standard deviations."""
    with np.errstate(invalid="ignore", over="ignore"):
        x = (features - parameters["scale.mean"]) / parameters["scale.std"]
    return np.clip(np.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0), -clip, clip)


def loss_and_accuracy(probabilities: NDArray[Any], labels: NDArray[np.int32], weights: Tensor) -> tuple[float, float]:
    """Mean cross-entropy under class weights, and the share that is right."""
    own = np.asarray(probabilities, np.float64)[np.arange(len(labels)), labels]
    losses = -np.log(np.maximum(own, 1e-12)) * weights[labels]
    return float(losses.mean()), float((probabilities.argmax(axis=1) == labels).mean())


def check_finite(update: Mapping[str, Tensor]) -> None:
    """Whether training has stayed among the numbers.

    Raises:
        LearnError: it has not.
    """
    if not all(np.isfinite(tensor).all() for tensor in update.values()):
        raise LearnError("training diverged: the update is not finite", remedy="lower learner.learning_rate")
