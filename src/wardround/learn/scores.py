"""How good a model is, in NumPy: the same numbers as scikit-learn's functions of these names.

Labels are integers from 0, shape (n,), -1 for not labelled (left out); probabilities have shape (n, n_classes).
Binary scores are about class 1. A score that is not defined (nothing labelled, one class for a ranking) is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]
Probabilities = NDArray[Any]  # float32 from a learner, float64 elsewhere


def accuracy(labels: Labels, probabilities: Probabilities) -> float:
    """Share of examples whose most probable class is right."""
    labels, probabilities = _labelled(labels, probabilities)
    return float(np.mean(probabilities.argmax(axis=1) == labels)) if len(labels) else float("nan")


def macro_f1(labels: Labels, probabilities: Probabilities) -> float:
    """Mean over the classes that occur, or are predicted, of 2 TP / (2 TP + FP + FN)."""
    labels, probabilities = _labelled(labels, probabilities)
    if not len(labels):
        return float("nan")
    predicted = probabilities.argmax(axis=1)
    classes = np.union1d(labels, predicted)
    hits = np.array([np.sum((labels == c) & (predicted == c)) for c in classes])
    claims = np.array([np.sum(labels == c) + np.sum(predicted == c) for c in classes])
    return float(np.mean(2 * hits / claims))


def average_precision(labels: Labels, probabilities: Probabilities) -> float:
    """Sum over thresholds of (R_n - R_{n-1}) P_n, ties taken together; not interpolated."""
    labels, probabilities = _labelled(labels, probabilities)
    hits, claims = _cumulative(labels, probabilities)
    if not len(hits) or hits[-1] == 0:
        return float("nan")
    recall_steps = np.diff(np.concatenate([[0], hits])) / hits[-1]
    return float(np.sum(recall_steps * hits / claims))


def auroc(labels: Labels, probabilities: Probabilities) -> float:
    """Area under the ROC curve: how often a positive ranks above a negative, ties counting half (Hanley & McNeil 1982)."""
    labels, probabilities = _labelled(labels, probabilities)
    hits, claims = _cumulative(labels, probabilities)
    positives = hits[-1] if len(hits) else 0
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    true_rate = np.concatenate([[0], hits / positives])
    false_rate = np.concatenate([[0], (claims - hits) / negatives])
    return float(np.trapezoid(true_rate, false_rate))


METRICS: Mapping[str, Callable[[Labels, Probabilities], float]] = {
    "accuracy": accuracy,
    "macro-f1": macro_f1,
    "average-precision": average_precision,
    "auroc": auroc,
}


def by_group(metric: str, labels: Labels, probabilities: Probabilities, groups: NDArray[np.str_]) -> dict[str, float]:
    """The score of each group (edge or subject) by itself; groups where it is not defined are left out."""
    scores = {str(g): METRICS[metric](labels[groups == g], probabilities[groups == g]) for g in np.unique(groups)}
    return {group: value for group, value in scores.items() if not np.isnan(value)}


def worst(scores: Mapping[str, float]) -> tuple[str, float] | None:
    """The group with the lowest score, the first by name among equals; None when there is none."""
    return min(scores.items(), key=lambda item: (item[1], item[0]), default=None)


def gap_closed(local_only: float, federated: float, pooled: float) -> float:
    """(federated - local only) / (pooled - local only); NaN where pooled data brings nothing."""
    gap = pooled - local_only
    return (federated - local_only) / gap if gap > 0 else float("nan")


def _labelled(labels: Labels, probabilities: Probabilities) -> tuple[Labels, Probabilities]:
    if probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise ValueError(f"{len(labels)} labels do not fit probabilities of shape {probabilities.shape}")
    known = labels >= 0
    return labels[known], probabilities[known]


def _cumulative(labels: Labels, probabilities: Probabilities) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positives found and examples claimed at each distinct threshold, from the highest down; shape (n_thresholds,) each."""
    if probabilities.shape[1] != 2:
        raise ValueError("a ranking score is for two classes")
    order = np.argsort(-probabilities[:, 1], kind="stable")
    ranked = probabilities[order, 1]
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True)) if len(ranked) else np.empty(0, np.int64)
    return np.cumsum(labels[order] == 1)[last], last + 1
