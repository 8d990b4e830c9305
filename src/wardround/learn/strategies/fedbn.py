"""FedBN: normalisation layers stay at their edge, so that each keeps the statistics of its own sensors.

Source: Li, Jiang, Zhang, Kamp, Dou, FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021,
arXiv:2102.07623, algorithm 1. As a filter of names it is also FedPer (arXiv:1912.00818), with the last layers kept.
"""

from __future__ import annotations

from wardround.learn.strategies.fedavg import FedAvg
from wardround.learn.study import LocalRule


class FedBN(FedAvg):
    """`strategy.private` are the patterns of the names that stay; the shared model has their first values."""

    @property
    def rule(self) -> LocalRule:
        return LocalRule(private=self.settings.private)
