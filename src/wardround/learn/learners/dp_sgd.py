"""DP-SGD: training at an edge whose every step hides each single example, whoever reads what comes of it, the hub included.

Abadi et al., Deep Learning with Differential Privacy, CCS 2016, arXiv:1607.00133. Each step draws its batch by a coin for each
example, clips each example's own gradient to a length, adds the clipped gradients up and noise to their sum, and divides by the
*expected* size of a batch. What is added to that does not look at examples: the l2 penalty, a strategy's pull, momentum.

Whole numbers are added: a clipped gradient is cut towards zero on a grid of clip / GRID, so that no rounding makes it longer and
the noise is an exact discrete Gaussian (privacy/noise.py). Coins and noise are the operating system's, never a seed's.

NumPy alone. A learner hands in `sums`, its gradients on the grid: jax_private.py, torch_private.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wardround.learn.learners import Pull
from wardround.learn.models import Parameters, Tensor
from wardround.learn.privacy.noise import Csprng, RandomBytes, discrete_gaussian
from wardround.learn.study import LearnerSettings

GRID = 2**16  # steps of the grid in the length that gradients are clipped to
MARGIN = 1 - 1e-6  # of that length: float64 takes a length of millions of parameters for shorter than it is by far less
RATE_STEPS = 16  # rates that a doubling holds: an edge whose data grows by little keeps its rate, and its accounting stays small
CHUNK_BYTES = 64_000_000  # of gradients of single examples that are held at a time
ROWS_MAX = 4_096  # of a chunk: their sums fit in 32 bits

Rows = NDArray[np.int64]
Sums = Callable[[Parameters, Rows], Mapping[str, NDArray[np.int64]]]


class Steps(NamedTuple):
    """What a training releases: `number` noisy sums, each of a batch that every one of `examples` is in with chance `rate`."""

    number: int
    rate: float
    examples: int

    @property
    def expected(self) -> float:
        """Examples of a batch on average; the sum is divided by it, never by how many came."""
        return self.rate * self.examples


def steps_of(settings: LearnerSettings, examples: int, epochs: int = 0) -> Steps:
    """The steps of one training: as many as without noise, of batches that are as large on average, or a little smaller."""
    wanted = min(1.0, settings.batch / examples)
    rate = 2.0 ** (np.floor(np.log2(wanted) * RATE_STEPS) / RATE_STEPS)
    return Steps((epochs or settings.epochs) * -(-examples // settings.batch), float(min(1.0, rate)), examples)


def drawn(steps: Steps, random_bytes: RandomBytes) -> Rows:
    """The rows of one batch: a coin for each example, of 53 random bits."""
    coins = np.frombuffer(random_bytes(8 * steps.examples), np.uint64) >> np.uint64(11)
    return np.flatnonzero(coins < np.uint64(int(steps.rate * 2**53)))


def chunk_rows(parameters: Parameters, batch: int) -> int:
    """Rows whose gradients are made in one call; the same in every step, so that a compiled one is compiled once."""
    size = max(1, sum(t.nbytes for t in parameters.values()))
    return int(max(1, min(ROWS_MAX, CHUNK_BYTES // size, 1 << (2 * batch - 1).bit_length())))


def descend(
    weights: Parameters,
    sums: Sums,
    steps: Steps,
    settings: LearnerSettings,
    pull: Pull | None = None,
    random_bytes: RandomBytes | None = None,
) -> Parameters:
    """The weights after all steps.

    Args:
        weights: the trainable tensors, float32.
        sums: of (weights, rows): the sum of the rows' gradients, each at most GRID long, in whole numbers, flat, by name.
        random_bytes: where coins and noise come from; the operating system's if left out.
    """
    source, own = random_bytes or Csprng(), settings.dp_sgd
    new = {name: np.array(w, np.float32) for name, w in weights.items()}
    towards = (pull.towards or weights) if pull is not None else {}
    velocity = {name: np.zeros_like(w) for name, w in new.items()}
    unit = own.clip / GRID / steps.expected
    for _ in range(steps.number):
        rows = drawn(steps, source)
        found = sums(new, rows)
        for name, w in new.items():
            noisy = found[name] + discrete_gaussian(own.noise * GRID, w.size, source)
            gradient = (noisy * unit).reshape(w.shape).astype(np.float32)
            if settings.l2 > 0 and name.endswith("weight") and w.ndim > 1:
                gradient += np.float32(settings.l2) * w
            if pull is not None:
                gradient += _pulled(pull, name, w, towards[name])
            velocity[name] = np.float32(settings.momentum) * velocity[name] + gradient
            np.subtract(w, np.float32(settings.learning_rate) * velocity[name], out=w)
    return new


def _pulled(pull: Pull, name: str, w: Tensor, towards: Tensor) -> Tensor:
    slope = pull.slope[name] if pull.slope is not None else 0.0
    return np.asarray(np.float32(pull.strength) * (w - towards) + slope, np.float32)
