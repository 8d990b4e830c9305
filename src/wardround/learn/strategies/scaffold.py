"""SCAFFOLD: control variates correct each edge's drift away from the others.

Source: Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, SCAFFOLD: Stochastic Controlled Averaging for Federated Learning,
ICML 2020, arXiv:1910.06378, algorithm 1 with option II. At the edge y <- y - eta (g(y) - c_i + c), and c_i+ = c_i - c + (x - y) /
(K eta). At the hub x <- x + eta_g mean(Delta y), c <- c + (|S| / N) mean(Delta c), both over the participants S of the N edges,
unweighted.

The hub's c travels in the model, as `control.NAME`, and so belongs to its digest and its lineage; an update carries Delta c
beside Delta y. c_i stays at the edge and moves only when the hub has said that the update counts.
"""

from __future__ import annotations

import numpy as np

from wardround.learn.models import CONTROL_PREFIX
from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import Block, Values, counted, move
from wardround.learn.strategies.fedavg import FedAvg
from wardround.learn.study import LocalRule


class Scaffold(FedAvg):
    """`strategy.server_learning_rate` is eta_g. Edges train without momentum, as the formula of c_i+ assumes."""

    means_only = False

    @property
    def rule(self) -> LocalRule:
        return LocalRule(controls=True)

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        mean = np.full(len(updates), 1.0 / len(updates))
        known = len(updates) / max(given.fleet, len(updates))

        def step(block: Block) -> Values:
            return block.weighted(mean * (known if block.name.startswith(CONTROL_PREFIX) else self._rate))

        return Folded(move(given.base, updates, step))
