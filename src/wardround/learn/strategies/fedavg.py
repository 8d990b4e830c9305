"""Federated averaging: the next model is the mean of the participants' models, weighted by their examples.

Source: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS 2017, arXiv:1602.05629, algorithm 1: w' = sum_k (n_k / n) w_k, here as
w' = w + sum_k (n_k / n) (w_k - w), with n over the participants of the round.
"""

from __future__ import annotations

from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import by_examples, counted, move
from wardround.learn.study import LearnerSettings, LocalRule, StrategySettings


class FedAvg:
    """Also the hub's half of every strategy whose own half is at the edge: they say a different `rule`.

    `server_learning_rate` (1 by default) scales the mean update.
    """

    needs: tuple[str, ...] = ()
    wants_reference = False
    means_only = True

    def __init__(self, settings: StrategySettings, learner: LearnerSettings) -> None:
        self.settings, self.learner = settings, learner
        self._rate = settings.server_learning_rate or 1.0

    @property
    def rule(self) -> LocalRule:
        return LocalRule()

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        weights = by_examples(updates) * self._rate
        return Folded(move(given.base, updates, lambda block: block.weighted(weights)))
