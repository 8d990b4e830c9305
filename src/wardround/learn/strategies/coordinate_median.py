"""The median of each coordinate: withstands just under half of the edges. Examples do not weigh, so none can claim its way in.

Source: Yin, Chen, Kannan, Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018,
arXiv:1803.01498, definition 1.
"""

from __future__ import annotations

import numpy as np

from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import Block, Values, counted, move
from wardround.learn.strategies.fedavg import FedAvg

COLUMNS = 1024  # coordinates sorted together: their rows stay in a core's cache


class CoordinateMedian(FedAvg):
    """No setting."""

    means_only = False

    def fold(self, given: Fold) -> Folded:
        def step(block: Block) -> Values:
            return middle_mean(block.stack(), (len(block.updates) - 1) // 2)

        return Folded(move(given.base, counted(given), step, running=step))


def middle_mean(stack: Values, cut: int) -> Values:
    """The mean of each column without its `cut` smallest and largest values, of an array of shape (n, columns).

    Columns become rows first: a row of a hundred values is sorted where it lies, in vector registers (x86-simd-sort in NumPy).
    """
    n, columns = stack.shape
    result = np.empty(columns, stack.dtype)
    for start in range(0, columns, COLUMNS):
        rows = np.ascontiguousarray(stack[:, start : start + COLUMNS].T)
        rows.sort(axis=1)
        result[start : start + len(rows)] = rows[:, cut : n - cut].mean(axis=1)
    return result
