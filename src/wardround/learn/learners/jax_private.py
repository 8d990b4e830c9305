"""DP-SGD of the networks in JAX: the gradients of single examples in one vectorised call (jax.vmap)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from wardround.learn.learners.dp_sgd import GRID, MARGIN, Rows, Sums, chunk_rows
from wardround.learn.learners.jax_nets import NETS, Weights
from wardround.learn.learners.rows import scaled
from wardround.learn.models import Parameters
from wardround.learn.study import LearnerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


def gradient_sums(
    settings: LearnerSettings, weights: Parameters, buffers: Parameters, features: NDArray[np.float32], labels: NDArray[np.int32]
) -> Sums:
    """The `sums` of dp_sgd.descend, over these examples; class weights count nothing, as they would be counts."""
    x, size = scaled(features, buffers, settings.clip), chunk_rows(weights, settings.batch)

    def sums(now: Parameters, rows: Rows) -> Mapping[str, NDArray[np.int64]]:
        total = {name: np.zeros(w.size, np.int64) for name, w in now.items()}
        for start in range(0, len(rows), size):
            own = rows[start : start + size]
            padded = np.zeros(size, np.int64)
            padded[: len(own)] = own
            each = _gradients(now, x[padded], labels[padded], settings.kind, settings.channels)
            with jax.enable_x64(True):  # lengths in float64: in float32 a long sum may come out too short, and the clip too weak
                made = _clipped_sums(each, len(own), settings.dp_sgd.clip)
            for name in total:
                total[name] += np.asarray(made[name], np.int64).reshape(-1)
        return total

    return sums


@partial(jax.jit, static_argnames=("kind", "channels"))
def _gradients(weights: Weights, x: Array, labels: Array, kind: str, channels: int) -> Weights:
    """Of each row by itself, shapes (rows, *shape of the tensor)."""

    def loss(w: Weights, row: Array, label: Array) -> Array:
        return -jax.nn.log_softmax(NETS[kind].logits(w, row[None], channels)[0])[label]

    each: Weights = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(weights, x, labels)
    return each


@jax.jit
def _clipped_sums(each: Weights, count: int, clip: float) -> Weights:
    """On the grid; rows from `count` on are filling."""
    exact = {name: g.reshape(len(g), -1).astype(jnp.float64) for name, g in each.items()}
    lengths = jnp.sqrt(jnp.sum(jnp.stack([jnp.sum(jnp.square(g), axis=1) for g in exact.values()]), axis=0))
    usable = (jnp.arange(len(lengths)) < count) & jnp.isfinite(lengths)  # one example that overflows counts as nothing
    by = jnp.where(usable, GRID * MARGIN / jnp.maximum(clip, lengths), 0.0)[:, None]
    cut = {name: jnp.where(by > 0, jnp.trunc(g * by), 0.0) for name, g in exact.items()}
    return {name: g.astype(jnp.int64).sum(axis=0) for name, g in cut.items()}
