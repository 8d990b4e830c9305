"""The point with the smallest sum of distances to the updates: withstands just under half, whatever the dimension.

Source: Pillutla, Kakade, Harchaoui, Robust Aggregation for Federated Learning, IEEE Transactions on Signal Processing 70, 2022,
arXiv:1912.13445, algorithm 2 (smoothed Weiszfeld). Examples do not weigh.
"""

from __future__ import annotations

import numpy as np

from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import Block, Floats, counted, each_block, measured, move
from wardround.learn.strategies.fedavg import FedAvg

STEPS = 20
SMALL = 1e-6  # of the median distance: closer than that counts as so far


class GeometricMedian(FedAvg):
    """No setting. Two passes over the updates: their inner products, and the mean under the weights found from these."""

    means_only = False

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        weights = weiszfeld(inner_products(given))

        def step(block: Block) -> Floats:
            return block.weighted(weights)

        return Folded(move(given.base, updates, step, running=step))


def inner_products(given: Fold) -> Floats:
    """Of every two updates, shape (n, n), float64."""

    def work(block: Block) -> Floats:
        stack = block.stack().astype(np.float64)
        return np.asarray(stack @ stack.T)

    return np.asarray(np.sum(each_block(work, measured(given.base, counted(given))), axis=0))


def weiszfeld(products: Floats) -> Floats:
    """The weights, summing to 1, whose mean of the updates is their geometric median, from inner products alone."""
    n = len(products)
    own = np.diag(products)
    weights = np.full(n, 1.0 / n)
    for _ in range(STEPS):
        distance = np.sqrt(np.maximum(own - 2 * products @ weights + weights @ products @ weights, 0.0))
        small = SMALL * max(float(np.median(distance)), 1e-30)
        weights = 1.0 / np.maximum(distance, small)
        weights /= weights.sum()
    return weights
