"""q-FedAvg: edges on which the model does badly weigh more, so that scores spread less over the fleet.

Source: Li, Sanjabi, Beirami, Smith, Fair Resource Allocation in Federated Learning, ICLR 2020, arXiv:1905.10497, algorithm 2:
Delta_k = F_k^q L (w - w_k), h_k = q F_k^{q-1} ||L (w - w_k)||^2 + L F_k^q, w' = w - sum Delta_k / sum h_k, with L = 1 / eta.
"""

from __future__ import annotations

import numpy as np

from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import Floats, counted, each_block, measured, move
from wardround.learn.strategies.fedavg import FedAvg

LOSS_MIN = 1e-10  # F^(q-1) of a loss of zero has no value


class QFedAvg(FedAvg):
    """`strategy.fairness` is the paper's q: 0 is the unweighted mean, and the larger, the fairer. F_k is `loss_before`."""

    means_only = False

    needs = ("loss_before",)

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        q, lipschitz = self.settings.fairness, 1.0 / self.learner.learning_rate
        loss = np.maximum([u.facts["loss_before"] for u in updates], LOSS_MIN)
        squares = squared_norms(given) * lipschitz**2
        h = q * loss ** (q - 1) * squares + lipschitz * loss**q
        weights = loss**q * lipschitz / h.sum()
        return Folded(move(given.base, updates, lambda block: block.weighted(weights)))


def squared_norms(given: Fold) -> Floats:
    """||update||^2 of each, shape (n_updates,), float64."""
    updates = counted(given)
    parts = each_block(lambda b: np.square(b.stack(), dtype=np.float64).sum(axis=1), measured(given.base, updates))
    return np.asarray(np.sum(parts, axis=0))
