"""FedNova: an edge that took more steps does not pull the model towards its own optimum more than its examples warrant.

Source: Wang, Liu, Liang, Joshi, Poor, Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization,
NeurIPS 2020, arXiv:2007.07481, equation 10: w' = w + tau_eff sum_i p_i Delta_i / ||a_i||_1, tau_eff = sum_i p_i ||a_i||_1, with
p_i the share of examples. For tau steps with momentum rho, ||a||_1 = (tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)
(section 4.2).
"""

from __future__ import annotations

import math

import numpy as np

from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import by_examples, counted, move
from wardround.learn.strategies.fedavg import FedAvg


class FedNova(FedAvg):
    """The steps follow from the examples that count, the batch and the epochs: an edge that claimed few would gain weight."""

    means_only = False

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        shares = by_examples(updates)
        own = self.learner
        norms = np.array([accumulated(own.epochs * math.ceil(u.examples / own.batch), own.momentum) for u in updates])
        weights = shares / norms * float(shares @ norms) * self._rate
        return Folded(move(given.base, updates, lambda block: block.weighted(weights)))


def accumulated(steps: float, momentum: float) -> float:
    """||a||_1: by how many plain steps' worth an edge has moved."""
    if momentum == 0.0:
        return steps
    return float((steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum))
