"""Ditto: beside the shared model, every edge keeps one of its own that is drawn towards the shared one.

Source: Li, Hu, Beirami, Smith, Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021,
arXiv:2012.04221, algorithm 1: v_k <- v_k - eta (grad F_k(v_k) + lambda (v_k - w_t)); w is FedAvg's.
"""

from __future__ import annotations

from wardround.learn.strategies.fedavg import FedAvg
from wardround.learn.study import LocalRule


class Ditto(FedAvg):
    """`strategy.personal_pull` is the paper's lambda; `strategy.personal_epochs` passes train the personal model each round."""

    @property
    def rule(self) -> LocalRule:
        return LocalRule(
            personal="ditto", personal_pull=self.settings.personal_pull, personal_epochs=self.settings.personal_epochs
        )
