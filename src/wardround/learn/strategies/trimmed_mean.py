"""The mean of each coordinate without its largest and smallest values. Examples do not weigh.

Source: Yin, Chen, Kannan, Bartlett, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018,
arXiv:1803.01498, definition 2.
"""

from __future__ import annotations

import math

from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import Block, Values, counted, move
from wardround.learn.strategies.coordinate_median import middle_mean
from wardround.learn.strategies.fedavg import FedAvg


class TrimmedMean(FedAvg):
    """`strategy.faulty_share` of the edges is cut at either end; withstands so many."""

    means_only = False

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        cut = min(math.ceil(self.settings.faulty_share * len(updates)), (len(updates) - 1) // 2)

        def step(block: Block) -> Values:
            return middle_mean(block, cut)

        return Folded(move(given.base, updates, step, running=step))
