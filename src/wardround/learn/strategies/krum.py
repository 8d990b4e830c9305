"""Krum and Multi-Krum: the update, or the mean of the updates, closest to most others. Examples do not weigh.

Source: Blanchard, El Mhamdi, Guerraoui, Stainer, Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, NeurIPS
2017, arXiv:1703.02757, section 4: the score of an update is the sum of squared distances to its n - f - 2 nearest.
Distances are of updates, not of weights, summed in float64 as differences: they lose no digits to cancellation.
"""

from __future__ import annotations

import math

import numpy as np

from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import Block, Floats, counted, each_block, measured, move
from wardround.learn.strategies.fedavg import FedAvg

PART = 4096  # differences formed at a time


class MultiKrum(FedAvg):
    """`strategy.faulty_share` of a round's edges may be faulty; the n - f best are averaged."""

    means_only = False

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        squared = squared_distances(given)
        chosen = [updates[i] for i in best(squared, self.settings.faulty_share)[: self.taken(len(squared))]]
        mean = np.full(len(chosen), 1.0 / len(chosen))

        def step(block: Block) -> Floats:
            return block.weighted(mean)

        return Folded(move(given.base, chosen, step, running=step))

    def taken(self, n: int) -> int:
        """How many of n updates are averaged, from the best."""
        return n - faulty(n, self.settings.faulty_share)


class Krum(MultiKrum):
    """`strategy.faulty_share` of a round's edges may be faulty; the best update alone is taken."""

    def taken(self, n: int) -> int:
        return min(n, 1)


def faulty(n: int, share: float) -> int:
    """The f of n edges: at most what n >= 2 f + 3 allows."""
    return min(math.ceil(share * n), max(0, (n - 3) // 2))


def best(squared: Floats, share: float) -> list[int]:
    """Updates from the lowest score, from their squared distances, shape (n, n); with three or fewer, all score alike."""
    n = len(squared)
    neighbours = n - faulty(n, share) - 2
    if neighbours < 1:
        return list(range(n))
    others = np.sort(np.where(np.eye(n, dtype=bool), np.inf, squared), axis=1)
    return [int(i) for i in np.argsort(others[:, :neighbours].sum(axis=1), kind="stable")]


def squared_distances(given: Fold) -> Floats:
    """Between every two updates, shape (n, n), float64."""
    updates = counted(given)

    def work(block: Block) -> Floats:
        stack = block.stack()
        squared = np.zeros((len(stack), len(stack)))
        for start in range(0, stack.shape[1], PART):
            part = stack[:, start : start + PART].astype(np.float64)
            for i in range(len(part) - 1):
                difference = part[i + 1 :] - part[i]
                squared[i, i + 1 :] += np.einsum("ij,ij->i", difference, difference)
        return squared

    upper = np.sum(each_block(work, measured(given.base, updates)), axis=0)
    return np.asarray(upper + upper.T)
