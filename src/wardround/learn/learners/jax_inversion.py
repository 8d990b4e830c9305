"""Gradient inversion: examples whose local training would have made the update that was seen.

The attacker plays the training itself, every step of it, and moves its guess at the examples until the update fits: deep leakage
from gradients (Zhu, Liu, Han, NeurIPS 2019, arXiv:1906.08935), carried over to several local steps as in Geiping et al. (NeurIPS
2020, arXiv:2003.14053), with L-BFGS. It is told the labels, the number of rows and the order of the mini-batches, which is more
than a hub knows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray
from scipy.optimize import minimize

from wardround.learn.learners.jax_learner import JaxLearner, play
from wardround.learn.models import Parameters

STEPS_MAX = 200  # local steps that are played: each is differentiated through
ROWS_MAX = 64
WORST = 1e12  # in place of a distance that is not finite
START_SPREAD = 0.1  # of the first guess, in standard deviations


def small_enough(rows: int, epochs: int, batch: int) -> bool:
    """Whether a training is small enough to be played."""
    return rows <= ROWS_MAX and epochs * -(-rows // batch) <= STEPS_MAX


def invert(
    learner: JaxLearner,
    base: Parameters,
    seen: Parameters,
    labels: NDArray[np.int32],
    *,
    seed: int,
    round: int,  # noqa: A002
    steps: int,
    guess_seed: int,
    start: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """A guess at the examples, scaled, shape (len(labels), n_features).

    Args:
        seen: what is taken for the update of a training from `base`.
        seed, round: what decided the order of the rows.
        steps: of L-BFGS at most.
        start: the first guess; None: near the mean of all.
    """
    played = learner.played(base, labels, seed=seed, round=round)
    goal = {name: np.asarray(seen[name], np.float32) for name in sorted(seen)}
    size = float(sum(np.sum(np.square(t, dtype=np.float64)) for t in goal.values())) or 1.0
    shape = (len(labels), len(base["scale.mean"]))
    first = START_SPREAD * np.random.default_rng(guess_seed).normal(size=shape)
    if start is not None:
        first = np.clip(start, -played.clip, played.clip) + 0.1 * first

    def distance(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, slope = _distance(flat.reshape(shape).astype(np.float32), goal, size, played.arrays, played.static)
        return (float(value) if np.isfinite(value) else WORST), np.nan_to_num(np.asarray(slope, np.float64).ravel())

    bounds = [(-played.clip, played.clip)] * first.size
    options = {"maxiter": steps, "ftol": 1e-12, "gtol": 1e-12}
    found = minimize(distance, first.ravel(), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    best: NDArray[np.float64] = np.asarray(found.x, np.float64).reshape(shape)
    return best


@partial(jax.jit, static_argnames=("static",))
def _distance(x: Any, goal: Any, size: float, arrays: Any, static: Any) -> Any:
    """How far the update of these rows is from the one that was seen, over its size, squared; and the slope of that."""

    def distance(rows: Array) -> Array:
        made = play(rows, arrays, static)
        return sum((jnp.sum(jnp.square(made[name] - goal[name])) for name in goal), jnp.float32(0)) / size

    return jax.value_and_grad(distance)(x)
