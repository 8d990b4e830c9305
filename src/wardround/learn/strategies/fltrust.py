"""FLTrust: the hub trains an update on consented data of its own, and trusts each edge as far as it points the same way.

Source: Cao, Fang, Liu, Gong, FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping, NDSS 2021, arXiv:2012.13995,
equation 3: w' = w + sum_i ReLU(cos(g_i, g_0)) (||g_0|| / ||g_i||) g_i / sum_j ReLU(cos(g_j, g_0)). Examples do not weigh.
"""

from __future__ import annotations

import numpy as np

from wardround.errors import UpdateRefused
from wardround.learn.models import MemoryTensors
from wardround.learn.strategies import Fold, Folded, WeightedUpdate
from wardround.learn.strategies.blocks import Block, Floats, counted, each_block, measured, move
from wardround.learn.strategies.fedavg import FedAvg


class FLTrust(FedAvg):
    """A round in which nobody is trusted is refused, and the model stays."""

    means_only = False

    wants_reference = True

    def fold(self, given: Fold) -> Folded:
        if given.reference is None:
            raise UpdateRefused("reference", "the hub has no consented examples of its own to train the reference update on")
        updates = counted(given)
        own = WeightedUpdate(MemoryTensors(given.reference), 1)

        def work(block: Block) -> Floats:
            rows = block.stack().astype(np.float64)
            return np.stack([rows @ rows[-1], np.square(rows).sum(axis=1)])

        along, squares = np.sum(each_block(work, measured(given.base, [*updates, own])), axis=0)
        norms = np.sqrt(np.maximum(squares, 1e-60))
        trust = np.maximum(along[:-1] / (norms[:-1] * norms[-1]), 0.0)
        if trust.sum() <= 0:
            raise UpdateRefused("untrusted", "no update points the way of the hub's own")
        weights = trust * norms[-1] / norms[:-1] / trust.sum()
        shares = trust / trust.sum()
        return Folded(
            move(given.base, updates, lambda block: block.weighted(weights), running=lambda block: block.weighted(shares))
        )
