"""Boosted trees by XGBoost: each round an edge grows a few trees from where the shared ensemble stands, on its own examples.

The ensemble reaches XGBoost as the margin that each example starts from, so the trees grown are those it would have grown
behind the ensemble; they leave as plain tensors (learn/trees.py), and no model file of another machine is ever parsed. Trees
ask for order alone: features are not scaled, and missing values go the way that lost least when the tree was grown.
learner.l2 is XGBoost's lambda, learner.learning_rate its eta; learner.trees and learner.depth are its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from wardround.errors import LearnError
from wardround.learn.learners import Pull, Trained
from wardround.learn.learners.rows import Fits, check_finite, check_fit, checked, labelled, loss_and_accuracy, no_scale
from wardround.learn.models import Parameters, Tensor
from wardround.learn.scaling import feature_sums
from wardround.learn.study import LearnerSettings
from wardround.learn.trees import LEAF_STEP_MAX, NAMES, append, margins, no_trees, outputs
from wardround.records import Examples


class XgboostLearner:
    """Binary logistic for two classes, softmax for more; the first ensemble is empty and gives every class the same chance."""

    def __init__(self, settings: LearnerSettings, n_features: int, n_classes: int) -> None:
        self._settings, self._features_n, self._classes = settings, n_features, n_classes
        self._outputs = outputs(n_classes)
        self._fits: Fits = {name: (t.shape, t.dtype) for name, t in no_scale(n_features, n_classes).items()}

    def initial(self, seed: int) -> Parameters:  # noqa: ARG002 - the protocol's
        return no_scale(self._features_n, self._classes) | no_trees()

    def statistics(self, examples: Examples) -> Parameters:
        return feature_sums(examples, self._classes)

    def train(
        self,
        parameters: Parameters,
        examples: Examples,
        *,
        seed: int,
        round: int,  # noqa: A002
        pull: Pull | None = None,
        epochs: int = 0,  # noqa: ARG002 - a round is learner.trees steps of boosting
    ) -> Trained:
        if pull is not None and (pull.strength != 0.0 or pull.slope is not None):
            raise LearnError("trees cannot be pulled", remedy='use strategy.name = "bagging"')
        ensemble = self._ensemble(parameters)
        features, labels = labelled(examples, self._features_n, self._classes)
        features = _finite(features)
        weights = parameters["scale.class_weights"]
        margin = margins(ensemble, features, self._outputs)
        data = xgboost.DMatrix(
            features, label=labels, weight=weights[labels], base_margin=margin[:, 0] if self._outputs == 1 else margin
        )
        booster = xgboost.train(self._parameters(seed, round), data, self._settings.trees)
        new = _as_tensors(json.loads(booster.save_raw("json")))
        check_finite(new)
        before = loss_and_accuracy(self._probabilities(margin), labels, weights)
        after = loss_and_accuracy(self._probabilities(margin + margins(new, features, self._outputs)), labels, weights)
        metrics = {"loss_before": before[0], "loss_after": after[0], "accuracy": after[1]}
        return Trained(new, len(labels), self._settings.trees, metrics)

    def predict(self, parameters: Parameters, features: NDArray[np.float32]) -> NDArray[np.float32]:
        ensemble = self._ensemble(parameters)
        rows = _finite(checked(features, self._features_n))
        return self._probabilities(margins(ensemble, rows, self._outputs)).astype(np.float32)

    def _parameters(self, seed: int, round_number: int) -> dict[str, Any]:
        own = self._settings
        kind = (
            {"objective": "binary:logistic"}
            if self._outputs == 1
            else {"objective": "multi:softprob", "num_class": self._classes}
        )
        return kind | {
            "eta": own.learning_rate,
            "max_depth": own.depth,
            "lambda": own.l2,
            "max_delta_step": LEAF_STEP_MAX,
            "tree_method": "hist",
            "seed": int(np.random.SeedSequence([seed, round_number]).generate_state(1, np.uint32)[0] >> 1),
            "verbosity": 0,
        }

    def _ensemble(self, parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The trees of a model, once its tensors are known to be some; what is in them was checked when they came."""
        nodes, trees = (parameters.get(n, np.zeros(0)).shape for n in ("trees.feature", "trees.size"))
        check_fit(
            parameters,
            {**self._fits, **{n: (trees if n in ("trees.size", "trees.output") else nodes, d) for n, d in NAMES.items()}},
        )
        return {name: parameters[name] for name in NAMES}

    def _probabilities(self, margin: NDArray[np.float64]) -> NDArray[np.float64]:
        full = np.concatenate([np.zeros_like(margin), margin], axis=1) if self._outputs == 1 else margin
        raised = np.exp(full - full.max(axis=1, initial=-np.inf, keepdims=True))
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _finite(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Infinity is a broken reading: missing."""
    return np.where(np.isinf(features), np.float32(np.nan), features)


def _as_tensors(model: Mapping[str, Any]) -> Parameters:
    """The trees of XGBoost's own model document (https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html)."""
    own = model["learner"]["gradient_booster"]["model"]
    return append([_tree(tree, output) for tree, output in zip(own["trees"], own["tree_info"], strict=True)])


def _tree(tree: Mapping[str, Any], output: int) -> Parameters:
    """One tree, its nodes numbered anew from the root downwards: XGBoost leaves gaps where it has pruned."""
    order, place = [0], 0
    while place < len(order):
        node = order[place]
        if tree["left_children"][node] >= 0:
            order += [tree["left_children"][node], tree["right_children"][node]]
        place += 1
    number = {node: i for i, node in enumerate(order)}
    leaf = [tree["left_children"][node] < 0 for node in order]
    columns: dict[str, list[Any]] = {
        "trees.size": [len(order)],
        "trees.output": [output],
        "trees.feature": [-1 if leaf[i] else tree["split_indices"][n] for i, n in enumerate(order)],
        "trees.value": [tree["split_conditions"][n] for n in order],
        "trees.left": [0 if leaf[i] else number[tree["left_children"][n]] for i, n in enumerate(order)],
        "trees.right": [0 if leaf[i] else number[tree["right_children"][n]] for i, n in enumerate(order)],
        "trees.missing_left": [0 if leaf[i] else tree["default_left"][n] for i, n in enumerate(order)],
    }
    return {name: np.array(columns[name], dtype) for name, dtype in NAMES.items()}
