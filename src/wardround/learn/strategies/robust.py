"""Folds that withstand some faulty or hostile edges: an edge's examples do not weigh, so that none can claim its way in.

`faulty_share` is the share of a round's edges that may be faulty. A fold with too few edges for it withstands fewer.

Sources: Yin, Chen, Kannan and Bartlett, Byzantine-Robust Distributed Learning, ICML 2018, arXiv:1803.01498 (coordinate-wise
median and trimmed mean, definitions 1 and 2); Blanchard, El Mhamdi, Guerraoui and Stainer, Machine Learning with Adversaries,
NeurIPS 2017, arXiv:1703.02757 (Krum and Multi-Krum, section 4); Pillutla, Kakade and Harchaoui, Robust Aggregation for Federated
Learning, IEEE TSP 70, 2022, arXiv:1912.13445 (geometric median by the smoothed Weiszfeld algorithm, algorithm 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.learn.models import Parameters
from wardround.learn.strategies import WeightedUpdate
from wardround.learn.strategies.blocks import Stack, counted, fold_blocks, stacks

WEISZFELD_STEPS = 20
WEISZFELD_SMALL = 1e-6  # of the median distance: closer than that counts as so far


class CoordinateMedian:
    """Each coordinate's median: withstands just under half of the edges."""

    def fold(self, base: Parameters, updates: Sequence[WeightedUpdate]) -> Parameters:
        return fold_blocks(base, counted(updates), lambda stack: np.asarray(np.median(stack, axis=0)))


@dataclass(frozen=True, slots=True)
class TrimmedMean:
    """Each coordinate's mean without the `faulty_share` largest and smallest values."""

    faulty_share: float

    def fold(self, base: Parameters, updates: Sequence[WeightedUpdate]) -> Parameters:
        taken = counted(updates)
        cut = min(int(np.ceil(self.faulty_share * len(taken))), (len(taken) - 1) // 2)

        def trimmed(stack: Stack) -> NDArray[np.float64]:
            return np.asarray(np.sort(stack, axis=0)[cut : len(taken) - cut].mean(axis=0))

        return fold_blocks(base, taken, trimmed)


@dataclass(frozen=True, slots=True)
class MultiKrum:
    """The mean of the updates that lie closest to most others; float64 distances, one pass over the updates."""

    faulty_share: float

    def fold(self, base: Parameters, updates: Sequence[WeightedUpdate]) -> Parameters:
        taken = counted(updates)
        chosen = self.choose(squared_distances(base, taken))
        return fold_blocks(base, [taken[i] for i in chosen], lambda stack: np.asarray(stack.mean(axis=0)))

    def choose(self, squared: NDArray[np.float64]) -> list[int]:
        """Who is folded, from the squared distances, shape (n, n): n - f with the smallest sum to their n - f - 2 nearest."""
        n = len(squared)
        faulty = min(int(np.ceil(self.faulty_share * n)), max(0, (n - 3) // 2))
        neighbours = n - faulty - 2
        if neighbours < 1:
            return list(range(n))
        others = np.sort(np.where(np.eye(n, dtype=bool), np.inf, squared), axis=1)
        scores = others[:, :neighbours].sum(axis=1)
        return sorted(np.argsort(scores, kind="stable")[: n - faulty].tolist())


class GeometricMedian:
    """The point with the smallest sum of distances to the updates: withstands just under half, whatever the dimension."""

    def fold(self, base: Parameters, updates: Sequence[WeightedUpdate]) -> Parameters:
        taken = counted(updates)
        weights = weiszfeld(gram(base, taken))
        return fold_blocks(base, taken, lambda stack: np.asarray(weights @ stack))


def gram(base: Parameters, updates: Sequence[WeightedUpdate]) -> NDArray[np.float64]:
    """The inner products of the updates, shape (n, n), in one pass."""
    products = np.zeros((len(updates), len(updates)))
    for _, _, _, stack in stacks(base, updates):
        products += stack @ stack.T
    return products


def squared_distances(base: Parameters, updates: Sequence[WeightedUpdate]) -> NDArray[np.float64]:
    """Between every two updates, shape (n, n); summed as differences, which lose no digits to cancellation."""
    squared = np.zeros((len(updates), len(updates)))
    for _, _, _, stack in stacks(base, updates):
        for i in range(len(updates)):
            squared[i] += np.square(stack - stack[i]).sum(axis=1)
    return squared


def weiszfeld(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights, summing to 1, whose mean of the updates is their geometric median, from inner products alone."""
    n = len(products)
    own = np.diag(products)
    weights = np.full(n, 1.0 / n)
    for _ in range(WEISZFELD_STEPS):
        distance = np.sqrt(np.maximum(own - 2 * products @ weights + weights @ products @ weights, 0.0))
        small = WEISZFELD_SMALL * max(float(np.median(distance)), 1e-30)
        weights = 1.0 / np.maximum(distance, small)
        weights /= weights.sum()
    return weights
