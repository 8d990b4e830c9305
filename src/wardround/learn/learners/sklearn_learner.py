"""Logistic regression by scikit-learn: SGDClassifier with log loss, one against the rest, one example a step.

Tensors: `coef` (rows, n_features) and `intercept` (rows,), float64 as scikit-learn has them; one row for two classes, else one
a class. The classes are the study's, so an edge that has seen one of them alone still moves the right rows. SGDClassifier has
no place for a pull in its steps: strategies that pull are refused before a study starts (learn/study.py), and momentum and
batch say nothing here. The same model with all of them is kind `mlp` with `hidden = []`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import SGDClassifier

from wardround.errors import LearnError
from wardround.learn.learners import Pull, Trained
from wardround.learn.learners.rows import (
    Fits,
    check_finite,
    check_fit,
    checked,
    labelled,
    loss_and_accuracy,
    no_scale,
    row_order,
    scaled,
)
from wardround.learn.models import Parameters
from wardround.learn.scaling import feature_sums
from wardround.learn.study import LearnerSettings
from wardround.records import Examples


class SklearnLearner:
    """Starts from zero: the loss is convex, so the seed decides the order of the examples alone."""

    def __init__(self, settings: LearnerSettings, n_features: int, n_classes: int) -> None:
        self._settings, self._features_n, self._classes = settings, n_features, n_classes
        self._fits: Fits = {name: (t.shape, t.dtype) for name, t in self.initial(0).items()}

    def initial(self, seed: int) -> Parameters:  # noqa: ARG002 - the protocol's
        rows = 1 if self._classes == 2 else self._classes
        own = {"coef": np.zeros((rows, self._features_n)), "intercept": np.zeros(rows)}
        return no_scale(self._features_n, self._classes) | own

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
        epochs: int = 0,
    ) -> Trained:
        if pull is not None and (pull.strength != 0.0 or pull.slope is not None):
            raise LearnError("scikit-learn's steps have no place for a pull", remedy='use learner.kind = "mlp" with hidden = []')
        model = self._model(parameters)
        features, labels = labelled(examples, self._features_n, self._classes)
        x = scaled(features, parameters, self._settings.clip).astype(np.float64)
        weights = parameters["scale.class_weights"]
        order = row_order(len(labels), epochs or self._settings.epochs, seed, round)
        before = loss_and_accuracy(model.predict_proba(x), labels, weights)
        for rows in order:
            model.partial_fit(x[rows], labels[rows], classes=model.classes_, sample_weight=weights[labels[rows]])
        update = {"coef": model.coef_ - parameters["coef"], "intercept": model.intercept_ - parameters["intercept"]}
        check_finite(update)
        after = loss_and_accuracy(model.predict_proba(x), labels, weights)
        metrics = {"loss_before": before[0], "loss_after": after[0], "accuracy": after[1]}
        return Trained(update, len(labels), order.size, metrics)

    def predict(self, parameters: Parameters, features: NDArray[np.float32]) -> NDArray[np.float32]:
        model = self._model(parameters)
        features = checked(features, self._features_n)
        if len(features) == 0:  # scikit-learn refuses none
            return np.empty((0, self._classes), np.float32)
        return np.asarray(model.predict_proba(scaled(features, parameters, self._settings.clip)), np.float32)

    def _model(self, parameters: Parameters) -> SGDClassifier:
        """As it stood after the round before: scikit-learn goes on from these three attributes."""
        check_fit(parameters, self._fits)
        own = self._settings
        model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=own.learning_rate, alpha=own.l2, shuffle=False)
        model.classes_ = np.arange(self._classes)
        model.coef_, model.intercept_ = parameters["coef"].copy(), parameters["intercept"].copy()
        return model
