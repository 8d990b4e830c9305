"""Local fine-tuning: each round's shared model, trained on by every edge for itself and kept there.

Source: Wang, Mathews, Kiddon, Eichner, Beaufays, Ramage, Federated Evaluation of On-device Personalization, 2019,
arXiv:1910.10252; Cheng, Chadha, Duchi, Fine-tuning is Fine in Federated Learning, 2021, arXiv:2108.07313.
"""

from __future__ import annotations

from wardround.learn.strategies.fedavg import FedAvg
from wardround.learn.study import LocalRule


class FineTuning(FedAvg):
    """`strategy.personal_epochs` passes over the edge's own examples, from the shared model, every round anew."""

    @property
    def rule(self) -> LocalRule:
        return LocalRule(personal="fine-tuning", personal_epochs=self.settings.personal_epochs)
