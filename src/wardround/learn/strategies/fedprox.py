"""FedProx: edges are held near the model they started from, so that uneven data and uneven work pull less far apart.

Source: Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, Federated Optimization in Heterogeneous Networks, MLSys 2020,
arXiv:1812.06127, equation 2: min_w F_k(w) + (mu / 2) ||w - w_t||^2 at the edge; the hub averages as FedAvg does.
"""

from __future__ import annotations

from wardround.learn.strategies.fedavg import FedAvg
from wardround.learn.study import LocalRule


class FedProx(FedAvg):
    """`strategy.proximal` is the paper's mu."""

    @property
    def rule(self) -> LocalRule:
        return LocalRule(proximal=self.settings.proximal)
