"""FedDyn: each edge's objective is bent so that, at the end, its own optimum is the fleet's.

Source: Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, Federated Learning Based on Dynamic Regularization, ICLR 2021,
arXiv:2111.04263, algorithm 1. At the edge min F_k(w) - <g_k, w> + (alpha / 2) ||w - w_t||^2, then g_k <- g_k - alpha (w_k - w_t).
At the hub h <- h - (alpha / m) sum_{k in P} (w_k - w_t); w <- mean_{k in P} w_k - h / alpha, with m the edges of the fleet.
"""

from __future__ import annotations

import math

import numpy as np

from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import Block, Values, counted, move
from wardround.learn.strategies.fedavg import FedAvg
from wardround.learn.study import LocalRule


class FedDyn(FedAvg):
    """`strategy.regularisation` is the paper's alpha. Memory: `drift.NAME`, which is h / alpha, flat."""

    means_only = False

    @property
    def rule(self) -> LocalRule:
        return LocalRule(dynamic=self.settings.regularisation)

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        mean = np.full(len(updates), 1.0 / len(updates))
        known = len(updates) / max(given.fleet, len(updates))
        drift: dict[str, Values] = {}
        for name, shape in updates[0].tensors.shapes().items():
            held = given.memory.get(f"drift.{name}")
            drift[name] = np.zeros(math.prod(shape), np.float32) if held is None else np.array(held).reshape(-1)

        def step(block: Block) -> Values:
            delta, h = block.weighted(mean), block.of(drift)
            h -= (known * delta).astype(h.dtype)
            return np.asarray(delta - h)

        model = move(given.base, updates, step)
        return Folded(model, {f"drift.{name}": h for name, h in drift.items()})
