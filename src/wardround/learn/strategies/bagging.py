"""Federated bagging: the trees that all edges grew in a round are appended to the ensemble as one step of boosting.

Source: Flower's FedXgbBagging (flwr 1.42, serverapp/strategy) for the protocol; Chen and Guestrin, XGBoost, KDD 2016,
arXiv:1603.02754, for the step. Flower appends trees as they are, so that a round with twice the edges takes twice the step. Here
each edge's leaves count by its share of the examples, as XGBoost divides by num_parallel_tree: the ensemble's margin moves by
the mean of what the edges found, which is FedAvg in the space of functions.
"""

from __future__ import annotations

import math

from wardround.errors import UpdateRefused
from wardround.learn.models import Parameters, Tensor, TensorSource
from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import by_examples, counted
from wardround.learn.strategies.fedavg import FedAvg
from wardround.learn.study import LocalRule
from wardround.learn.study_checks import TREES_MAX
from wardround.learn.trees import NAMES, append, scaled_leaves


class Bagging(FedAvg):
    """`strategy.server_learning_rate` (1 by default) scales the round's step. The model grows by every update's trees."""

    means_only = False

    @property
    def rule(self) -> LocalRule:
        return LocalRule(trees=True)

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        shares = by_examples(updates) * self._rate
        parts = [_trees(given.base)]
        parts += [scaled_leaves(_trees(u.tensors), float(share)) for u, share in zip(updates, shares, strict=True)]
        grown = append(parts)
        if len(grown["trees.size"]) > TREES_MAX:
            raise UpdateRefused("trees", f"the ensemble would have more than {TREES_MAX} trees")
        others = [name for name in given.base.shapes() if name not in NAMES]
        return Folded({name: _whole(given.base, name) for name in others} | grown)


def _trees(tensors: TensorSource) -> Parameters:
    if missing := sorted(set(NAMES) - set(tensors.shapes())):
        raise UpdateRefused("names", f"there is no tensor `{missing[0]}`: these are no trees")
    return {name: _whole(tensors, name) for name in NAMES}


def _whole(tensors: TensorSource, name: str) -> Tensor:
    shape = tensors.shapes()[name]
    return tensors.block(name, 0, math.prod(shape)).reshape(shape)
