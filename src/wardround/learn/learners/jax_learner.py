"""The default learner: small networks in JAX (jax_nets.py).

All local epochs of a round are one compiled call (a loop over mini-batches of momentum SGD, Polyak 1964), so a round
costs an edge one dispatch. Rows are padded to powers of two and the number of steps is a value, not a shape: growing
data compiles anew only when it doubles. `train_many` does the same for many edges of any sizes in one call, for rehearsals.

Features are scaled by the model's own buffers, then clipped, and missing values become the mean: a spike, a dead
sensor or a constant column cannot throw the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from wardround.errors import LearnError
from wardround.learn.learners import Pull, Trained
from wardround.learn.learners.dp_sgd import descend, steps_of
from wardround.learn.learners.jax_nets import NETS, Weights, initial, net_of
from wardround.learn.learners.jax_private import gradient_sums
from wardround.learn.learners.rows import GRADIENT_NORM_MAX, check_finite, check_fit, checked, no_scale, row_order
from wardround.learn.models import Parameters, is_buffer
from wardround.learn.scaling import feature_sums
from wardround.learn.study import LearnerSettings
from wardround.records import Examples

ROWS_MIN = 64  # the smallest padded size
MEMBERS_GRAIN = 8  # members of train_many are padded to a multiple
PREDICT_ROWS_MAX = 16_384  # rows in one call, so that memory is bounded

_Padded = TypeVar("_Padded", NDArray[np.float32], NDArray[np.int32])


class _Rows(NamedTuple):
    """Examples, scaled, and the steps over them: the rows of each mini-batch, and how many of them count."""

    x: Array  # (rows, n_features)
    labels: Array  # (rows,)
    batches: Array  # (steps at least, batch): rows; what is beyond `counted` is filling
    counted: Array  # (steps at least,)


class _Hyper(NamedTuple):
    learning_rate: float
    momentum: float
    l2: float
    clip: float


class _Shape(NamedTuple):
    """What a compiled call depends on beside the shapes of its arrays. What is off is left out: it would cost a pass a step."""

    kind: str
    channels: int
    momentum: bool
    l2: bool


class _Group(NamedTuple):
    """Members of a pool that are trained together; the first axis is theirs."""

    firsts: Array  # a member's steps are [first, first + steps)
    steps: Array  # 0: filling
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
        self._steps_room = 0  # of train_many; it only grows, so that a smaller round is no new shape
        self._hyper = _Hyper(settings.learning_rate, settings.momentum, settings.l2, settings.clip)
        self._shape = _Shape(settings.kind, settings.channels, settings.momentum > 0, settings.l2 > 0)

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
        epochs = epochs or self._settings.epochs
        if self._settings.dp_sgd.on:
            planned = steps_of(self._settings, n, epochs)
            sums = gradient_sums(self._settings, weights, buffers, features, labels)
            noisy = descend(weights, sums, planned, self._settings, pull)
            update = {name: noisy[name] - weights[name] for name in weights}
            check_finite(update)
            return Trained(update, n, planned.number)  # a loss would be without noise
        batches, counted = _steps(row_order(n, epochs, seed, round), self._settings.batch)
        steps = len(counted)
        room = epochs * -(-_padded_size(n) // self._settings.batch)
        rows = _Rows(
            jnp.asarray(_padded(features, n)), jnp.asarray(_padded(labels, n)), _filled(batches, room), _filled(counted, room)
        )
        new, metrics = _train_one(weights, buffers, rows, n, steps, self._hyper, _forces(weights, pull), shape=self._shape)
        update = {name: np.asarray(new[name]) - weights[name] for name in weights}
        check_finite(update)
        names = ("loss_before", "loss_after", "accuracy")
        return Trained(update, n, steps, dict(zip(names, np.asarray(metrics, np.float64).tolist(), strict=True)))

    def played(
        self,
        parameters: Parameters,
        labels: NDArray[np.int32],
        *,
        seed: int,
        round: int,  # noqa: A002
    ) -> Played:
        """A training of rows that are not known yet, for `play`; those who look for them have their labels."""
        weights, buffers = self._split(parameters)
        batches, counted = _steps(row_order(len(labels), self._settings.epochs, seed, round), self._settings.batch)
        arrays = (weights, buffers["scale.class_weights"], labels, batches, counted)
        return Played(arrays, (self._hyper, self._shape, len(counted)), self._hyper.clip)

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
        each: bool = False,
    ) -> Many:
        """Train members of a pool as `train` would each, in one compiled call.

        Args:
            members: indices of edges in the pool.
            pull: strength of FedProx's pull towards `parameters`.
            each: keep every update, not their mean alone; memory is that of as many models.

        Raises:
            LearnError: as train; a member without labelled examples.
        """
        weights, buffers = self._split(parameters)
        counts = pool.counts[list(members)]
        if (counts == 0).any():
            raise LearnError("an edge of the rehearsal has no labelled example", remedy="raise rounds.examples_min")
        x, labels = pool.scaled(buffers, self._hyper.clip)
        group, rows = self._group(pool, members, seed, round)
        forces = _forces(weights, Pull(pull))
        data = _Rows(x, labels, *rows)
        moved, losses = _train_group(weights, data, buffers, group, self._hyper, forces, shape=self._shape, each=each)
        own = {name: np.asarray(m)[: len(counts)] if each else np.asarray(m) for name, m in moved.items()}
        return Many(own, counts, np.asarray(losses, np.float64)[: len(counts)])

    def _group(
        self,
        pool: Pool,
        members: Sequence[int],
        seed: int,
        round: int,  # noqa: A002
    ) -> tuple[_Group, tuple[Array, Array]]:
        """The steps of all members one after the other; padded, so that a round of other edges is no other shape."""
        known: dict[int, tuple[NDArray[np.int32], NDArray[np.int32]]] = {}
        batches: list[NDArray[np.int32]] = []
        counted: list[NDArray[np.int32]] = []
        for member in members:
            n = int(pool.counts[member])
            if n not in known:
                known[n] = _steps(row_order(n, self._settings.epochs, seed, round), self._settings.batch)
            batches.append(known[n][0] + np.int32(pool.firsts[member]))
            counted.append(known[n][1])
        steps = np.array([len(c) for c in counted], np.int32)
        counts = pool.counts[list(members)]
        room = -(-len(members) // MEMBERS_GRAIN) * MEMBERS_GRAIN  # few shapes, and little filling: it costs a copy of the model
        total = self._steps_room = max(self._steps_room, _padded_size(int(steps.sum())))  # filling here is never looked at
        group = _Group(
            _filled((np.cumsum(steps) - steps).astype(np.int32), room),
            _filled(steps, room),
            _filled((counts / counts.sum()).astype(np.float32), room),
        )
        return group, (_filled(np.concatenate(batches), total), _filled(np.concatenate(counted), total))

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


class Played(NamedTuple):
    """All of a training but its rows: what is an array, and what a compiled call depends on."""

    arrays: tuple[Parameters, NDArray[np.float32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
    static: tuple[_Hyper, _Shape, int]
    clip: float


def play(x: Array, arrays: Any, static: tuple[_Hyper, _Shape, int]) -> Weights:
    """The update of scaled rows, as `train` makes it, in a form that can be differentiated by them."""
    (weights, class_weights, labels, batches, counted), (hyper, shape, steps) = arrays, static
    begin = {name: jnp.asarray(w) for name, w in weights.items()}
    new, _ = _descend(begin, class_weights, _Rows(x, labels, batches, counted), (0, steps), hyper, None, shape)
    return {name: new[name] - begin[name] for name in begin}


class Many(NamedTuple):
    """What `train_many` gives."""

    update: Parameters  # the mean by examples; or with `each` every member's, the first axis theirs
    counts: NDArray[np.int64]  # examples of each member
    losses: NDArray[np.float64]  # mean training loss of each member


class Pool:
    """The labelled examples of many edges as one array on the device, for `train_many`; scaled once, as the buffers stay."""

    def __init__(self, learner: JaxLearner, edges: Sequence[Examples]) -> None:
        self._parts = [learner.labelled(e) for e in edges]
        self.counts = np.array([len(labels) for _, labels in self._parts], np.int64)
        self.firsts = np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)
        self._labels: Array = jnp.asarray(np.concatenate([labels for _, labels in self._parts]))
        self._scaled: tuple[Parameters, Array] | None = None

    def scaled(self, buffers: Parameters, clip: float) -> tuple[Array, Array]:
        """Features by these buffers, and labels."""
        if self._scaled is None or any(not np.array_equal(self._scaled[0][name], b) for name, b in buffers.items()):
            features = jnp.asarray(np.concatenate([f for f, _ in self._parts]))
            self._scaled = dict(buffers), _scale(features, buffers["scale.mean"], buffers["scale.std"], clip)
        return self._scaled[1], self._labels


def _steps(order: NDArray[np.int32], batch: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Mini-batches of each epoch of `order`, shape (epochs, n): rows, shape (steps, batch), and how many of each count."""
    epochs, n = order.shape
    each = -(-n // batch)
    filled = np.zeros((epochs, each * batch), np.int32)
    filled[:, :n] = order
    counted = np.full((epochs, each), batch, np.int32)
    counted[:, -1] = n - (each - 1) * batch
    return filled.reshape(-1, batch), counted.reshape(-1)


def _filled(values: NDArray[Any], room: int) -> Array:
    """Zeros up to `room` on the first axis."""
    made = np.zeros((room, *values.shape[1:]), values.dtype)
    made[: len(values)] = values
    return jnp.asarray(made)


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


def _scaled(features: Array, mean: Array, std: Array, clip: float) -> Array:
    return jnp.clip(jnp.nan_to_num((features - mean) / std, nan=0.0, posinf=0.0, neginf=0.0), -clip, clip)


_scale = jax.jit(_scaled)


def _logits(weights: Weights, x: Array, shape: _Shape) -> Array:
    """Of scaled features."""
    return NETS[shape.kind].logits(weights, x, shape.channels)


@partial(jax.jit, static_argnames=("shape",))
def _predict(weights: Weights, buffers: Weights, features: Array, clip: float, *, shape: _Shape) -> Array:
    x = _scaled(features, buffers["scale.mean"], buffers["scale.std"], clip)
    return jax.nn.softmax(_logits(weights, x, shape))


def _losses(weights: Weights, class_weights: Array, x: Array, labels: Array, shape: _Shape) -> tuple[Array, Array]:
    """Weighted cross-entropy and correctness of each row of scaled features."""
    logits = _logits(weights, x, shape)
    chosen = labels[:, None] == jnp.arange(logits.shape[1])  # a mask: indexing would have a scatter for its gradient
    entropy = -jnp.where(chosen, jax.nn.log_softmax(logits), 0.0).sum(axis=1)
    return entropy * jnp.where(chosen, class_weights, 0.0).sum(axis=1), logits.argmax(axis=1) == labels


def _descend(
    weights: Weights,
    class_weights: Array,
    data: _Rows,
    steps: tuple[int | Array, int | Array],
    hyper: _Hyper,
    forces: _Forces | None,
    shape: _Shape,
) -> tuple[Weights, Array]:
    """Momentum SGD over `steps` (first, number): the new weights, and the mean loss of the mini-batches."""
    first, number = steps
    places = jnp.arange(data.batches.shape[1])

    def loss(w: Weights, rows: Array, counted: Array) -> tuple[Array, Array]:
        losses, _ = _losses(w, class_weights, data.x[rows], data.labels[rows], shape)
        own = jnp.where(places < counted, losses, 0.0).sum() / counted
        if not shape.l2:
            return own, own
        penalty = sum((jnp.sum(jnp.square(w[name])) for name in w if name.endswith(".weight")), jnp.float32(0))
        return own + 0.5 * hyper.l2 * penalty, own

    def step(i: Array, state: tuple[Weights, Weights, Array]) -> tuple[Weights, Weights, Array]:
        w, velocity, lost = state
        gradient, own = jax.grad(loss, has_aux=True)(w, data.batches[i], data.counted[i])
        norm = jnp.sqrt(sum((jnp.sum(jnp.square(g)) for g in gradient.values()), jnp.float32(0)))
        shorter = jnp.minimum(1.0, GRADIENT_NORM_MAX / jnp.maximum(norm, 1e-12))
        gradient = {name: shorter * g for name, g in gradient.items()}
        if forces is not None:  # beside the clipped gradient: they are the strategy's, not the data's
            gradient = {
                name: g + forces.strength * (w[name] - forces.towards[name]) + forces.slope[name] for name, g in gradient.items()
            }
        if shape.momentum:
            velocity = gradient = {name: hyper.momentum * velocity[name] + gradient[name] for name in w}
        return {name: w[name] - hyper.learning_rate * gradient[name] for name in w}, velocity, lost + own

    begin = {n: jnp.asarray(w) for n, w in weights.items()}
    still = {n: jnp.zeros_like(w) for n, w in begin.items()} if shape.momentum else {}
    new, _, lost = jax.lax.fori_loop(first, first + number, step, (begin, still, jnp.float32(0)))
    return new, lost / jnp.maximum(number, 1)


@partial(jax.jit, static_argnames=("shape",))
def _train_one(
    weights: Weights,
    buffers: Weights,
    data: _Rows,
    n: int,
    steps: int,
    hyper: _Hyper,
    forces: _Forces | None,
    *,
    shape: _Shape,
) -> tuple[Weights, Array]:
    """One edge of n rows, not yet scaled. Gives its new weights and [loss before, loss after, accuracy after], means of rows."""
    here = jnp.arange(len(data.labels)) < n
    data = data._replace(x=_scaled(data.x, buffers["scale.mean"], buffers["scale.std"], hyper.clip))

    def evaluate(w: Weights) -> tuple[Array, Array]:
        losses, right = _losses(w, buffers["scale.class_weights"], data.x, data.labels, shape)
        return jnp.where(here, losses, 0.0).sum() / n, (right & here).sum() / n

    before, _ = evaluate({name: jnp.asarray(w) for name, w in weights.items()})
    new, _ = _descend(weights, buffers["scale.class_weights"], data, (0, steps), hyper, forces, shape)
    after, accuracy = evaluate(new)
    return new, jnp.stack([before, after, accuracy])


@partial(jax.jit, static_argnames=("shape", "each"))
def _train_group(
    weights: Weights,
    data: _Rows,
    buffers: Weights,
    group: _Group,
    hyper: _Hyper,
    forces: _Forces | None,
    *,
    shape: _Shape,
    each: bool,
) -> tuple[Weights, Array]:
    """Members of a pool: the mean of their updates by their shares, or with `each` every update; and their losses.

    On a CPU one after the other: one edge's weights stay in its cache, where a hundred copies side by side would stream through
    memory, four times slower for small models. On an accelerator side by side.
    """
    begin = {name: jnp.asarray(w) for name, w in weights.items()}

    def one(first: Array, steps: Array) -> tuple[Weights, Array]:
        new, lost = _descend(begin, buffers["scale.class_weights"], data, (first, steps), hyper, forces, shape)
        return {name: new[name] - begin[name] for name in begin}, lost

    if jax.default_backend() != "cpu":
        moved, losses = jax.vmap(one)(group.firsts, group.steps)
        return moved if each else {n: jnp.tensordot(group.shares, m, axes=1) for n, m in moved.items()}, losses

    def member(total: Weights, given: _Group) -> tuple[Weights, tuple[Weights, Array]]:
        moved, lost = one(given.firsts, given.steps)
        if each:
            return total, (moved, lost)
        return {name: total[name] + given.shares * moved[name] for name in moved}, ({}, lost)

    nothing = {} if each else {name: jnp.zeros_like(w) for name, w in begin.items()}
    mean, (kept, losses) = jax.lax.scan(member, nothing, group)
    return kept if each else mean, losses
