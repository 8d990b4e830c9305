"""The default learner: small networks in JAX (jax_nets.py).

All local epochs of a round are one compiled call (a loop over mini-batches of momentum SGD, Polyak 1964), so a round
costs an edge one dispatch. Rows are padded to powers of two and the number of steps is a value, not a shape: growing
data compiles anew only when it doubles. `train_many` does the same for many edges in one call, for rehearsals.

Features are scaled by the model's own buffers, then clipped, and missing values become the mean: a spike, a dead
sensor or a constant column cannot throw the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from wardround.errors import LearnError
from wardround.learn.learners import Pull, Trained
from wardround.learn.learners.jax_nets import NETS, Weights, initial, net_of
from wardround.learn.learners.rows import GRADIENT_NORM_MAX, check_finite, check_fit, checked, no_scale, row_order
from wardround.learn.models import Parameters, is_buffer
from wardround.learn.scaling import feature_sums
from wardround.learn.study import LearnerSettings
from wardround.records import Examples

ROWS_MIN = 64  # the smallest padded size
PREDICT_ROWS_MAX = 16_384  # rows in one call, so that memory is bounded

_Padded = TypeVar("_Padded", NDArray[np.float32], NDArray[np.int32])


class _Rows(NamedTuple):
    """An edge's examples among those that are at hand, and how often and in which order to pass over them."""

    features: Array  # (rows, n_features)
    labels: Array  # (rows,)
    first: int | Array  # this edge's rows are [first, first + n)
    n: int | Array
    order: Array  # (epochs, steps * batch at least); places from n on are filling


class _Hyper(NamedTuple):
    learning_rate: float
    momentum: float
    l2: float
    clip: float


class _Shape(NamedTuple):
    """What a compiled call depends on beside the shapes of its arrays."""

    kind: str
    channels: int
    batch: int


class _Group(NamedTuple):
    """Edges of one padded size; the first axis is theirs."""

    firsts: Array
    counts: Array
    orders: Array  # (edges, epochs, size + batch)
    shares: Array  # of the examples of all members


class _Forces(NamedTuple):
    """Pull, complete: what is added to the gradient is strength * (w - towards) + slope."""

    strength: float
    towards: Weights
    slope: Weights


class JaxLearner:
    """A network with softmax cross-entropy at its end, float32.

    Tensors: those of its network, and the buffers `scale.mean` (n_features,), `scale.std` (n_features,) and
    `scale.class_weights` (n_classes,).
    """

    def __init__(self, settings: LearnerSettings, n_features: int, n_classes: int) -> None:
        """Raises StudyError where the network does not fit the features."""
        self._settings = settings
        self._features_n, self._classes = n_features, n_classes
        self._shapes = net_of(settings, n_features).shapes(settings, n_features, n_classes)
        self._hyper = _Hyper(settings.learning_rate, settings.momentum, settings.l2, settings.clip)
        self._shape = _Shape(settings.kind, settings.channels, settings.batch)

    def initial(self, seed: int) -> Parameters:
        return {**no_scale(self._features_n, self._classes), **initial(self._shapes, seed)}

    def statistics(self, examples: Examples) -> Parameters:
        return feature_sums(examples, self._classes)

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
        weights, buffers = self._split(parameters)
        features, labels = self.labelled(examples)
        n = len(labels)
        if n == 0:
            raise LearnError("no example here is labelled", remedy="train when labels have arrived")
        features, labels = _padded(features, n), _padded(labels, n)
        order = np.zeros((epochs or self._settings.epochs, len(labels) + self._settings.batch), np.int32)
        order[:, :n] = row_order(n, len(order), seed, round)
        rows = _Rows(jnp.asarray(features), jnp.asarray(labels), 0, n, jnp.asarray(order))
        new, metrics = _train_one(weights, buffers, rows, self._hyper, _forces(weights, pull), shape=self._shape)
        update = {name: np.asarray(new[name]) - weights[name] for name in weights}
        check_finite(update)
        names = ("loss_before", "loss_after", "accuracy")
        steps = len(order) * -(-n // self._settings.batch)
        return Trained(update, n, steps, dict(zip(names, np.asarray(metrics, np.float64).tolist(), strict=True)))

    def predict(self, parameters: Parameters, features: NDArray[np.float32]) -> NDArray[np.float32]:
        weights, buffers = self._split(parameters)
        features = self._checked(features)
        parts = [np.empty((0, self._classes), np.float32)]
        for start in range(0, len(features), PREDICT_ROWS_MAX):
            rows = features[start : start + PREDICT_ROWS_MAX]
            probabilities = _predict(weights, buffers, _padded(rows, len(rows)), self._hyper.clip, shape=self._shape)
            parts.append(np.asarray(probabilities)[: len(rows)])
        return np.concatenate(parts)

    def labelled(self, examples: Examples) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The labelled examples, shapes (n, n_features) and (n,).

        Raises:
            LearnError: the features do not fit.
        """
        here = (examples.labels >= 0) & (examples.labels < self._classes)
        return self._checked(examples.features)[here], examples.labels[here].astype(np.int32)

    def train_many(
        self,
        parameters: Parameters,
        pool: Pool,
        members: Sequence[int],
        *,
        seed: int,
        round: int,  # noqa: A002
        pull: float = 0.0,
    ) -> tuple[Parameters, NDArray[np.int64], float]:
        """Train members of a pool as `train` would each, in one compiled call per size of edge.

        Args:
            members: indices of edges in the pool.
            pull: strength of FedProx's pull towards `parameters`.

        Returns:
            The mean update weighted by examples, the examples of each member, and their mean training loss.

        Raises:
            LearnError: as train; a member without labelled examples.
        """
        weights, buffers = self._split(parameters)
        counts = pool.counts[list(members)]
        if (counts == 0).any():
            raise LearnError("an edge of the rehearsal has no labelled example", remedy="raise rounds.examples_min")
        total, loss = {name: np.zeros(w.shape) for name, w in weights.items()}, 0.0
        shares = counts / counts.sum()
        sizes = np.array([_padded_size(int(n)) for n in counts])
        for size in np.unique(sizes):
            chosen = np.flatnonzero(sizes == size)
            order = np.zeros((len(chosen), self._settings.epochs, size + self._settings.batch), np.int32)
            known: dict[int, NDArray[np.int32]] = {}
            for place, i in enumerate(chosen):
                n = int(counts[i])
                if n not in known:
                    known[n] = row_order(n, self._settings.epochs, seed, round)
                order[place, :, :n] = known[n]
            firsts = pool.firsts[[members[int(i)] for i in chosen]]
            group = _Group(
                jnp.asarray(firsts, jnp.int32),
                jnp.asarray(counts[chosen], jnp.int32),
                jnp.asarray(order),
                jnp.asarray(shares[chosen]),
            )
            moved, lost = _train_group(weights, buffers, pool.features, pool.labels, group, self._hyper, pull, shape=self._shape)
            for name in total:
                total[name] += np.asarray(moved[name], np.float64)
            loss += float(lost)
        return {name: t.astype(np.float32) for name, t in total.items()}, counts, loss

    def _split(self, parameters: Parameters) -> tuple[Parameters, Parameters]:
        """Trainable tensors and buffers, once they are known to have this learner's names, shapes and dtype."""
        n, classes = (self._features_n,), (self._classes,)
        shapes = {"scale.mean": n, "scale.std": n, "scale.class_weights": classes, **self._shapes}
        check_fit(parameters, {name: (shape, np.dtype(np.float32)) for name, shape in shapes.items()})
        return (
            {name: tensor for name, tensor in parameters.items() if not is_buffer(name)},
            {name: tensor for name, tensor in parameters.items() if is_buffer(name)},
        )

    def _checked(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return checked(features, self._features_n)


class Pool:
    """The labelled examples of many edges as one array on the device, for `train_many`."""

    def __init__(self, learner: JaxLearner, edges: Sequence[Examples]) -> None:
        parts = [learner.labelled(e) for e in edges]
        self.counts = np.array([len(labels) for _, labels in parts], np.int64)
        self.firsts = np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)
        self.features = jnp.asarray(np.concatenate([f for f, _ in parts]))
        self.labels = jnp.asarray(np.concatenate([labels for _, labels in parts]))


def _padded_size(n: int) -> int:
    """The next power of two, at least ROWS_MIN."""
    return max(ROWS_MIN, 1 << (max(n, 1) - 1).bit_length())


def _padded(rows: _Padded, n: int) -> _Padded:
    """Zero rows up to the padded size."""
    return np.concatenate([rows, np.zeros((_padded_size(n) - n, *rows.shape[1:]), rows.dtype)])


def _forces(weights: Parameters, pull: Pull | None) -> _Forces | None:
    """None where there is nothing to add, so that a plain study pays nothing."""
    if pull is None or (pull.strength == 0.0 and pull.slope is None):
        return None
    towards, slope = pull.towards or weights, pull.slope or {name: np.zeros_like(w) for name, w in weights.items()}
    return _Forces(pull.strength, {n: jnp.asarray(towards[n]) for n in weights}, {n: jnp.asarray(slope[n]) for n in weights})


def _logits(weights: Weights, buffers: Weights, features: Array, clip: float, shape: _Shape) -> Array:
    scaled = (features - buffers["scale.mean"]) / buffers["scale.std"]
    x = jnp.clip(jnp.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0), -clip, clip)
    return NETS[shape.kind].logits(weights, x, shape.channels)


@partial(jax.jit, static_argnames=("shape",))
def _predict(weights: Weights, buffers: Weights, features: Array, clip: float, *, shape: _Shape) -> Array:
    return jax.nn.softmax(_logits(weights, buffers, features, clip, shape))


def _losses(
    weights: Weights, buffers: Weights, features: Array, labels: Array, clip: float, shape: _Shape
) -> tuple[Array, Array]:
    """Weighted cross-entropy and correctness of each row."""
    logits = _logits(weights, buffers, features, clip, shape)
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    return entropy * buffers["scale.class_weights"][labels], logits.argmax(axis=1) == labels


def _descend(
    weights: Weights, buffers: Weights, data: _Rows, hyper: _Hyper, forces: _Forces | None, shape: _Shape
) -> tuple[Weights, Array]:
    """All epochs of momentum SGD: the new weights, and the mean loss of the mini-batches."""

    def loss(w: Weights, rows: Array, counted: Array) -> tuple[Array, Array]:
        losses, _ = _losses(w, buffers, data.features[rows], data.labels[rows], hyper.clip, shape)
        penalty = sum((jnp.sum(jnp.square(w[name])) for name in w if name.endswith(".weight")), jnp.float32(0))
        own = jnp.where(counted, losses, 0.0).sum() / counted.sum()
        return own + 0.5 * hyper.l2 * penalty, own

    batch = shape.batch
    steps = (data.n + batch - 1) // batch

    def step(i: Array, state: tuple[Weights, Weights, Array]) -> tuple[Weights, Weights, Array]:
        w, velocity, lost = state
        start = (i % steps) * batch
        rows = data.first + jax.lax.dynamic_slice(data.order, (i // steps, start), (1, batch))[0]
        gradient, own = jax.grad(loss, has_aux=True)(w, rows, jnp.arange(batch) + start < data.n)
        norm = jnp.sqrt(sum((jnp.sum(jnp.square(g)) for g in gradient.values()), jnp.float32(0)))
        shorter = jnp.minimum(1.0, GRADIENT_NORM_MAX / jnp.maximum(norm, 1e-12))
        gradient = {name: shorter * g for name, g in gradient.items()}
        if forces is not None:  # beside the clipped gradient: they are the strategy's, not the data's
            gradient = {
                name: g + forces.strength * (w[name] - forces.towards[name]) + forces.slope[name] for name, g in gradient.items()
            }
        velocity = {name: hyper.momentum * velocity[name] + gradient[name] for name in w}
        return {name: w[name] - hyper.learning_rate * velocity[name] for name in w}, velocity, lost + own

    start = ({n: jnp.asarray(w) for n, w in weights.items()}, {n: jnp.zeros_like(w) for n, w in weights.items()})
    new, _, lost = jax.lax.fori_loop(0, steps * len(data.order), step, (*start, jnp.float32(0)))
    return new, lost / (steps * len(data.order))


@partial(jax.jit, static_argnames=("shape",))
def _train_one(
    weights: Weights, buffers: Weights, data: _Rows, hyper: _Hyper, forces: _Forces | None, *, shape: _Shape
) -> tuple[Weights, Array]:
    """One edge. Returns the new weights and [loss before, loss after, accuracy after], means over its n rows."""
    here = jnp.arange(len(data.labels)) < data.n

    def evaluate(w: Weights) -> tuple[Array, Array]:
        losses, right = _losses(w, buffers, data.features, data.labels, hyper.clip, shape)
        return jnp.where(here, losses, 0.0).sum() / data.n, (right & here).sum() / data.n

    before, _ = evaluate({name: jnp.asarray(w) for name, w in weights.items()})
    new, _ = _descend(weights, buffers, data, hyper, forces, shape)
    after, accuracy = evaluate(new)
    return new, jnp.stack([before, after, accuracy])


@partial(jax.jit, static_argnames=("shape",))
def _train_group(
    weights: Weights,
    buffers: Weights,
    features: Array,
    labels: Array,
    group: _Group,
    hyper: _Hyper,
    pull: float,
    *,
    shape: _Shape,
) -> tuple[Weights, Array]:
    """Edges of one padded size: the sum of their updates and of their losses, each times its share.

    On a CPU one after the other: one edge's weights stay in its cache, where a hundred copies side by side would stream through
    memory, four times slower for small models. On an accelerator side by side.
    """

    def one(first: Array, n: Array, order: Array, share: Array) -> tuple[Weights, Array]:
        zero = {name: jnp.zeros_like(w) for name, w in weights.items()}
        forces = _Forces(pull, {name: jnp.asarray(w) for name, w in weights.items()}, zero)
        new, lost = _descend(weights, buffers, _Rows(features, labels, first, n, order), hyper, forces, shape)
        return {name: share * (new[name] - weights[name]) for name in weights}, share * lost

    if jax.default_backend() != "cpu":
        moved, lost = jax.vmap(one)(*group)
        return {name: m.sum(axis=0) for name, m in moved.items()}, lost.sum()

    def member(total: tuple[Weights, Array], given: _Group) -> tuple[tuple[Weights, Array], None]:
        moved, lost = one(*given)
        return ({name: total[0][name] + moved[name] for name in moved}, total[1] + lost), None

    nothing = ({name: jnp.zeros_like(w) for name, w in weights.items()}, jnp.float32(0))
    return jax.lax.scan(member, nothing, group)[0]
