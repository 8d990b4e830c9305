"""Federated scaling: mean and standard deviation of every feature from sums, without a row leaving its edge.

Each edge sends counts, sums and sums of squares (float64: the variance is a difference of large numbers); the hub adds
them, and the result equals the scaling of the pooled data. On the heart-disease hospitals this is what brings FedAvg
level with pooled data, where each hospital's own scaling loses twelve points on the smallest.

The scaling stands in the model as the buffers `scale.mean`, `scale.std` and `scale.class_weights`.
Missing values (NaN, infinity) are counted by feature, so one dead sensor does not spoil the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from wardround.errors import UpdateRefused
from wardround.learn.models import Parameters, Tensor
from wardround.records import Examples

MAGNITUDE_MAX = 1e15  # beyond it a reading is broken, and its square would drown every other
CLASS_WEIGHT_MAX = 10.0


def feature_sums(examples: Examples, n_classes: int) -> Parameters:
    """What an edge sends: `count`, `sum`, `sum_squares` by feature, shape (n_features,), and `classes`, shape (n_classes,).

    All float64. Rows without a label add to the features; labels beyond the classes are not counted.
    """
    x = examples.features.astype(np.float64)
    usable = np.isfinite(x) & (np.abs(x) < MAGNITUDE_MAX)
    x = np.where(usable, x, 0.0)
    labels = examples.labels[(examples.labels >= 0) & (examples.labels < n_classes)]
    return {
        "count": usable.sum(axis=0).astype(np.float64),
        "sum": x.sum(axis=0),
        "sum_squares": np.square(x).sum(axis=0),
        "classes": np.bincount(labels, minlength=n_classes).astype(np.float64),
    }


def check_sums(sums: Mapping[str, Tensor], n_features: int, n_classes: int) -> None:
    """Whether sums from an edge can be what they claim to be.

    Raises:
        UpdateRefused: `shape`, `non-finite` or `impossible`.
    """
    features = (n_features,)
    check_tensors(sums, {"count": features, "sum": features, "sum_squares": features, "classes": (n_classes,)})
    if (sums["count"] < 0).any() or (sums["classes"] < 0).any():
        raise UpdateRefused("impossible", "statistics: a count is negative")
    check_moments(sums["count"], sums["sum"], sums["sum_squares"])


def check_tensors(sums: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Whether sums have exactly these names and shapes, as finite float64.

    Raises:
        UpdateRefused: `shape` or `non-finite`.
    """
    for name, shape in shapes.items():
        tensor = sums.get(name)
        if tensor is None or tensor.shape != shape or tensor.dtype != np.float64:
            raise UpdateRefused("shape", f"statistics: `{name}` must be float64 of shape {shape}")
        if not np.isfinite(tensor).all():
            raise UpdateRefused("non-finite", f"statistics: `{name}` holds a value that is not a number")
    if extra := set(sums) - set(shapes):
        raise UpdateRefused("shape", f"statistics: unknown tensor `{min(extra)[:60]}`")


def check_moments(count: Tensor, total: Tensor, squares: Tensor) -> None:
    """Whether there can be numbers with this count, sum and sum of squares (Cauchy and Schwarz), shape (n,) each.

    Raises:
        UpdateRefused: `impossible`.
    """
    if (squares < 0).any():
        raise UpdateRefused("impossible", "statistics: a sum of squares is negative")
    if (np.square(total) > count * squares * (1 + 1e-9) + 1e-9).any():
        raise UpdateRefused("impossible", "statistics: a sum is larger than its count and sum of squares allow")


def fold_sums(parts: Iterable[Mapping[str, Tensor]]) -> Parameters:
    """Add the sums of the edges; the order changes the last bits alone.

    Raises:
        UpdateRefused: `missing`, there is nothing to add.
    """
    total: Parameters = {}
    for part in parts:
        for name, tensor in part.items():
            total[name] = total[name] + tensor if name in total else np.array(tensor, np.float64)
    if not total:
        raise UpdateRefused("missing", "statistics: no edge has sent any")
    return total


def mean_std(sums: Mapping[str, Tensor]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and (population) standard deviation by feature, shape (n_features,) each.

    A constant feature, or one that nobody has, gets a standard deviation of 1: it scales to zero and says nothing.
    """
    count = np.maximum(sums["count"], 1.0)
    mean = sums["sum"] / count
    variance = np.maximum(sums["sum_squares"] / count - np.square(mean), 0.0)
    noise = 1e-12 * np.square(mean) + 1e-24  # what rounding leaves of a constant
    std = np.where(variance > noise, np.sqrt(variance), 1.0)
    return mean.astype(np.float32), np.maximum(std, np.finfo(np.float32).tiny).astype(np.float32)


def balanced_weights(classes: Tensor) -> NDArray[np.float32]:
    """Weights that let every class count alike over all edges, mean 1 over the examples, at most 10 before that.

    A class that no edge has gets weight 1. Local counts would not do: an edge with one class would undo the others.
    """
    present = classes > 0
    total = float(classes.sum())
    if not present.any():
        return np.ones(len(classes), np.float32)
    weights = np.where(present, total / (present.sum() * np.maximum(classes, 1.0)), 1.0)
    weights = np.minimum(weights, CLASS_WEIGHT_MAX)
    return np.asarray(weights / (float((weights * classes).sum()) / total), np.float32)


def with_scaling(parameters: Mapping[str, Tensor], sums: Mapping[str, Tensor], *, class_weighting: str) -> Parameters:
    """The model with its scaling put in from the folded sums; `class_weighting` is `none` or `balanced`."""
    mean, std = mean_std(sums)
    model = dict(parameters)
    model["scale.mean"], model["scale.std"] = mean, std
    if class_weighting == "balanced":
        model["scale.class_weights"] = balanced_weights(sums["classes"])
    return model
