"""Centered clipping: updates are clipped around where the last round moved, so that none can pull far, and time does the rest.

Source: Karimireddy, He, Jaggi, Learning from History for Byzantine Robust Optimization, ICML 2021, arXiv:2012.10333, algorithm 2:
v <- v + (1/n) sum_i (m_i - v) min(1, radius / ||m_i - v||), a few times, from the v of the round before. Examples do not weigh.
"""

from __future__ import annotations

import math

import numpy as np

from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import Block, Floats, Values, blocks, counted, each_block, measured, move
from wardround.learn.strategies.coordinate_median import middle_mean
from wardround.learn.strategies.fedavg import FedAvg

STEPS = 3


class CenteredClipping(FedAvg):
    """`strategy.radius` is the paper's; 0 takes the median distance of the round's updates. Memory: `centre.NAME`, flat."""

    means_only = False

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        centre: dict[str, Values] = {}
        for name, shape in updates[0].tensors.shapes().items():
            held = given.memory.get(f"centre.{name}")
            centre[name] = np.zeros(math.prod(shape), np.float32) if held is None else np.array(held).reshape(-1)

        def distances(block: Block) -> Floats:
            return np.asarray(np.square(block.stack() - block.of(centre), dtype=np.float64).sum(axis=1))

        for _ in range(STEPS):
            distance = np.sqrt(np.sum(each_block(distances, measured(given.base, updates)), axis=0))
            radius = self.settings.radius or float(np.median(distance))
            scale = np.minimum(1.0, radius / np.maximum(distance, 1e-30)) / len(updates)

            def shift(block: Block, scale: Floats = scale) -> None:
                v = block.of(centre)
                v[:] = v * (1.0 - scale.sum()) + block.weighted(scale)

            each_block(shift, blocks(given.base, updates))
        median = (len(updates) - 1) // 2
        model = move(given.base, updates, lambda block: block.of(centre), running=lambda b: middle_mean(b, median))
        return Folded(model, {f"centre.{name}": v for name, v in centre.items()})
