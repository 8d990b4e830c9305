"""A small dense network in JAX: the default learner. With no hidden layer it is logistic regression.

All local epochs of a round are one compiled call (a loop over mini-batches of momentum SGD, Polyak 1964), so a round
costs an edge one dispatch. Rows are padded to powers of two and the number of steps is a value, not a shape: growing
data compiles anew only when it doubles. Weights start as in He et al. 2015 (arXiv:1502.01852), the last layer at zero.

Features are scaled by the model's own buffers, then clipped, and missing values become the mean: a spike, a dead
sensor or a constant column cannot throw the model.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from wardround.errors import LearnError
from wardround.learn.learners import Trained
from wardround.learn.models import Parameters, is_buffer
from wardround.learn.scaling import feature_sums
from wardround.learn.study import LearnerSettings
from wardround.records import Examples

ROWS_MIN = 64  # the smallest padded size
GRADIENT_NORM_MAX = 3.0  # a mini-batch of outliers moves the model no further (Pascanu et al. 2013, arXiv:1211.5063)
PREDICT_ROWS_MAX = 16_384  # rows in one call, so that memory is bounded

Weights = dict[str, Array]
_Padded = TypeVar("_Padded", NDArray[np.float32], NDArray[np.int32])


class _Rows(NamedTuple):
    """The examples of an edge, padded, and how often and in which order to pass over them."""

    features: Array  # (rows, n_features)
    labels: Array  # (rows,)
    order: Array  # (epochs, rows + batch)
    n: int  # rows that count


class _Hyper(NamedTuple):
    learning_rate: float
    momentum: float
    l2: float
    clip: float


class JaxMlp:
    """Dense layers with ReLU between them and softmax cross-entropy at the end, float32.

    Tensors: `layer{i}.weight` (inputs, outputs), `layer{i}.bias` (outputs,), and the buffers `scale.mean` (n_features,),
    `scale.std` (n_features,), `scale.class_weights` (n_classes,).
    """

    def __init__(self, settings: LearnerSettings, n_features: int, n_classes: int) -> None:
        self._settings = settings
        self._sizes = (n_features, *settings.hidden, n_classes)
        self._hyper = _Hyper(settings.learning_rate, settings.momentum, settings.l2, settings.clip)

    def initial(self, seed: int) -> Parameters:
        rng = np.random.default_rng(seed)
        parameters: Parameters = {
            "scale.mean": np.zeros(self._sizes[0], np.float32),
            "scale.std": np.ones(self._sizes[0], np.float32),
            "scale.class_weights": np.ones(self._sizes[-1], np.float32),
        }
        last = len(self._sizes) - 2
        for i, (inputs, outputs) in enumerate(zip(self._sizes[:-1], self._sizes[1:], strict=True)):
            spread = 0.0 if i == last else np.sqrt(2.0 / inputs)
            parameters[f"layer{i}.weight"] = (rng.standard_normal((inputs, outputs)) * spread).astype(np.float32)
            parameters[f"layer{i}.bias"] = np.zeros(outputs, np.float32)
        return parameters

    def statistics(self, examples: Examples) -> Parameters:
        return feature_sums(examples, self._sizes[-1])

    def train(self, parameters: Parameters, examples: Examples, *, seed: int, round: int) -> Trained:  # noqa: A002
        weights, buffers = self._split(parameters)
        labelled = (examples.labels >= 0) & (examples.labels < self._sizes[-1])
        n = int(labelled.sum())
        if n == 0:
            raise LearnError("no example here is labelled", remedy="train when labels have arrived")
        features = _padded(self._features(examples.features[labelled]), n)
        labels = _padded(examples.labels[labelled].astype(np.int32), n)
        order = _order(n, len(labels), self._settings, seed, round)
        new, metrics = _train(
            weights,
            buffers,
            _Rows(jnp.asarray(features), jnp.asarray(labels), jnp.asarray(order), n),
            self._hyper,
            batch=self._settings.batch,
        )
        update = {name: np.asarray(new[name]) - weights[name] for name in weights}
        if not all(np.isfinite(tensor).all() for tensor in update.values()):
            raise LearnError("training diverged: the update is not finite", remedy="lower learner.learning_rate")
        names = ("loss_before", "loss_after", "accuracy")
        return Trained(update, n, dict(zip(names, np.asarray(metrics, np.float64).tolist(), strict=True)))

    def predict(self, parameters: Parameters, features: NDArray[np.float32]) -> NDArray[np.float32]:
        weights, buffers = self._split(parameters)
        features = self._features(features)
        parts = [np.empty((0, self._sizes[-1]), np.float32)]
        for start in range(0, len(features), PREDICT_ROWS_MAX):
            rows = features[start : start + PREDICT_ROWS_MAX]
            probabilities = _predict(weights, buffers, _padded(rows, len(rows)), self._hyper.clip)
            parts.append(np.asarray(probabilities)[: len(rows)])
        return np.concatenate(parts)

    def _split(self, parameters: Parameters) -> tuple[Parameters, Parameters]:
        """Trainable tensors and buffers, once they are known to have this learner's names, shapes and dtype."""
        expected = {"scale.mean": self._sizes[:1], "scale.std": self._sizes[:1], "scale.class_weights": self._sizes[-1:]}
        for i, shape in enumerate(zip(self._sizes[:-1], self._sizes[1:], strict=True)):
            expected[f"layer{i}.weight"], expected[f"layer{i}.bias"] = shape, shape[1:]
        found = {name: tensor.shape for name, tensor in parameters.items()}
        if found != expected or any(tensor.dtype != np.float32 for tensor in parameters.values()):
            wrong = min((n for n in {*found, *expected} if found.get(n) != expected.get(n)), default="a dtype")
            raise LearnError(
                f"the model does not fit the study's learner: {wrong[:60]} is {found.get(wrong)}, expected {expected.get(wrong)}",
                remedy="the study's task or learner has changed since this model was made: start a new study",
            )
        return (
            {name: tensor for name, tensor in parameters.items() if not is_buffer(name)},
            {name: tensor for name, tensor in parameters.items() if is_buffer(name)},
        )

    def _features(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        if features.ndim != 2 or features.shape[1] != self._sizes[0]:
            raise LearnError(f"features of shape {features.shape} do not fit a model of {self._sizes[0]} features")
        return np.asarray(features, np.float32)


def _padded(rows: _Padded, n: int) -> _Padded:
    """Zero rows up to the next power of two, at least ROWS_MIN."""
    size = max(ROWS_MIN, 1 << (max(n, 1) - 1).bit_length())
    return np.concatenate([rows, np.zeros((size - n, *rows.shape[1:]), rows.dtype)])


def _order(n: int, rows: int, settings: LearnerSettings, seed: int, round_number: int) -> NDArray[np.int32]:
    """The rows of each epoch in their random order, shape (epochs, rows + batch); places from n on are filling."""
    rng = np.random.default_rng([seed, round_number])
    order = np.zeros((settings.epochs, rows + settings.batch), np.int32)
    for epoch in range(settings.epochs):
        order[epoch, :n] = rng.permutation(n)
    return order


def _logits(weights: Weights, buffers: Weights, features: Array, clip: float) -> Array:
    scaled = (features - buffers["scale.mean"]) / buffers["scale.std"]
    x = jnp.clip(jnp.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0), -clip, clip)
    layers = len(weights) // 2
    for i in range(layers):
        x = x @ weights[f"layer{i}.weight"] + weights[f"layer{i}.bias"]
        if i < layers - 1:
            x = jax.nn.relu(x)
    return x


@jax.jit
def _predict(weights: Weights, buffers: Weights, features: Array, clip: float) -> Array:
    return jax.nn.softmax(_logits(weights, buffers, features, clip))


def _losses(weights: Weights, buffers: Weights, features: Array, labels: Array, clip: float) -> tuple[Array, Array]:
    """Weighted cross-entropy and correctness of each row."""
    logits = _logits(weights, buffers, features, clip)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    return entropy * buffers["scale.class_weights"][labels], logits.argmax(axis=1) == labels


@partial(jax.jit, static_argnames=("batch",))
def _train(weights: Weights, buffers: Weights, data: _Rows, hyper: _Hyper, *, batch: int) -> tuple[Weights, Array]:
    """All epochs. Returns the new weights and [loss before, loss after, accuracy after], means over the n rows."""
    features, labels, order, n = data
    here = jnp.arange(len(labels)) < n

    def evaluate(w: Weights) -> tuple[Array, Array]:
        losses, right = _losses(w, buffers, features, labels, hyper.clip)
        return jnp.where(here, losses, 0.0).sum() / n, (right & here).sum() / n

    def loss(w: Weights, rows: Array, counted: Array) -> Array:
        losses, _ = _losses(w, buffers, features[rows], labels[rows], hyper.clip)
        penalty = sum((jnp.sum(jnp.square(w[name])) for name in w if name.endswith(".weight")), jnp.float32(0))
        return jnp.where(counted, losses, 0.0).sum() / counted.sum() + 0.5 * hyper.l2 * penalty

    steps = (n + batch - 1) // batch

    def step(i: Array, state: tuple[Weights, Weights]) -> tuple[Weights, Weights]:
        w, velocity = state
        start = (i % steps) * batch
        rows = jax.lax.dynamic_slice(order, (i // steps, start), (1, batch))[0]
        gradient = jax.grad(loss)(w, rows, jnp.arange(batch) + start < n)
        norm = jnp.sqrt(sum((jnp.sum(jnp.square(g)) for g in gradient.values()), jnp.float32(0)))
        shorter = jnp.minimum(1.0, GRADIENT_NORM_MAX / jnp.maximum(norm, 1e-12))
        velocity = {name: hyper.momentum * velocity[name] + shorter * gradient[name] for name in w}
        return {name: w[name] - hyper.learning_rate * velocity[name] for name in w}, velocity

    before, _ = evaluate(weights)
    start = ({name: jnp.asarray(w) for name, w in weights.items()}, {name: jnp.zeros_like(w) for name, w in weights.items()})
    new, _ = jax.lax.fori_loop(0, steps * len(order), step, start)
    after, accuracy = evaluate(new)
    return new, jnp.stack([before, after, accuracy])
