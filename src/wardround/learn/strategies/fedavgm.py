"""FedAvgM: the hub adds momentum to the mean update, which evens out rounds with few or uneven participants.

Source: Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification, 2019,
arXiv:1909.06335, section 4.1: v <- beta v + Delta w; w <- w + eta v (with the update as new minus old).
"""

from __future__ import annotations

import math

import numpy as np

from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import Block, Values, by_examples, counted, move
from wardround.learn.strategies.fedavg import FedAvg


class FedAvgM(FedAvg):
    """`strategy.beta1` is the paper's beta. Memory: `momentum.NAME`, flat."""

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        weights = by_examples(updates)
        rate = self.settings.server_learning_rate or 1.0
        momentum: dict[str, Values] = {}
        for name, shape in updates[0].tensors.shapes().items():
            held = given.memory.get(f"momentum.{name}")
            momentum[name] = np.zeros(math.prod(shape), np.float32) if held is None else np.array(held).reshape(-1)

        def step(block: Block) -> Values:
            v = block.of(momentum)
            v[:] = self.settings.beta1 * v + block.weighted(weights)
            return np.asarray(rate * v)

        model = move(given.base, updates, step)
        return Folded(model, {f"momentum.{name}": v for name, v in momentum.items()})
