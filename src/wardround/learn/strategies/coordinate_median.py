"""The median of each coordinate: withstands just under half of the edges. Examples do not weigh, so none can claim its way in.

Source: Yin, Chen, Kannan, Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018,
arXiv:1803.01498, definition 1.
"""

from __future__ import annotations

import numpy as np

from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import Block, Values, counted, move
from wardround.learn.strategies.fedavg import FedAvg

READ, SORTED = 800_000, 100_000  # values that are read, and sorted, together: what a core's caches hold


class CoordinateMedian(FedAvg):
    """No setting."""

    means_only = False

    def fold(self, given: Fold) -> Folded:
        def step(block: Block) -> Values:
            return middle_mean(block, (len(block.updates) - 1) // 2)

        return Folded(move(given.base, counted(given), step, running=step))


def middle_mean(block: Block, cut: int) -> Values:
    """The mean of each coordinate without its `cut` smallest and largest values, shape (stop - start,).

    A few coordinates at a time: a whole block of all updates would pass through memory, where these stay in the cache. Columns
    become rows first: a row of a hundred values is sorted where it lies, in vector registers (x86-simd-sort in NumPy).
    """
    n = len(block.updates)
    dtype = np.dtype(np.float32 if block.base.dtype(block.name) == np.float32 else np.float64)
    columns, together = max(READ // n, 1), max(SORTED // n, 1)
    read, rows = np.empty(n * columns, dtype), np.empty((together, n), dtype)
    middle = np.empty(block.stop - block.start, dtype)
    for start in range(block.start, block.stop, columns):
        stop = min(start + columns, block.stop)
        stack = read[: n * (stop - start)]
        np.concatenate([u.tensors.block(block.name, start, stop) for u in block.updates], out=stack)
        stack = stack.reshape(n, stop - start)
        for first in range(0, stop - start, together):
            ranked = rows[: min(together, stop - start - first)]
            np.copyto(ranked, stack[:, first : first + len(ranked)].T)
            ranked.sort(axis=1)
            at = start - block.start + first
            np.einsum("ij->i", ranked[:, cut : n - cut], out=middle[at : at + len(ranked)])  # `mean` takes four times as long
    middle /= n - 2 * cut
    return middle
