"""An ensemble of decision trees as plain tensors: checked like other numbers, never parsed by a library that trusts its input.

`trees.size` (trees,) is how many nodes a tree has, `trees.output` (trees,) which class its leaves speak for; the nodes of all
trees follow each other in `trees.feature` (-1: a leaf), `trees.value` (the threshold, or the leaf's value), `trees.left` and
`trees.right` (a node's children, counted from its tree's root, after it) and `trees.missing_left` (where a missing value goes).
A row goes left where its feature is below the threshold, as in XGBoost. Its margin for an output is the sum of its leaves.

An update holds new trees alone, and the next model is the ensemble with them behind it (strategies/bagging.py). A model of
trees therefore grows, and what an update of one must look like is said here (`check_trees`), beside triage.py for all others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.errors import UpdateRefused
from wardround.learn.models import Parameters, Tensor, TensorSource
from wardround.learn.study import LearnerSettings

PREFIX = "trees."
BY_TREE: Mapping[str, np.dtype[Any]] = MappingProxyType({"trees.size": np.dtype("i4"), "trees.output": np.dtype("i4")})
BY_NODE: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "trees.feature": np.dtype("i4"),
        "trees.value": np.dtype("f4"),
        "trees.left": np.dtype("i4"),
        "trees.right": np.dtype("i4"),
        "trees.missing_left": np.dtype("u1"),
    }
)
NAMES: Mapping[str, np.dtype[Any]] = MappingProxyType({**BY_TREE, **BY_NODE})
LEAF_STEP_MAX = 5.0  # a leaf moves a margin by learning_rate times this at most: XGBoost is told so, and triage holds edges to it
CELLS_MAX = 2_000_000  # rows times trees looked at together


def outputs(n_classes: int) -> int:
    """Margins of a row: the second class of two, or every one of more."""
    return 1 if n_classes == 2 else n_classes


def no_trees() -> Parameters:
    """The first ensemble."""
    return {name: np.zeros(0, dtype) for name, dtype in NAMES.items()}


def append(parts: Sequence[Mapping[str, Tensor]]) -> Parameters:
    """Ensembles behind one another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in NAMES}


def scaled_leaves(trees: Mapping[str, Tensor], by: float) -> Parameters:
    """The same trees, with what their leaves say times `by`."""
    leaf = trees["trees.feature"] < 0
    value = np.where(leaf, trees["trees.value"] * np.float32(by), trees["trees.value"]).astype(np.float32)
    return {name: trees[name] for name in NAMES} | {"trees.value": value}


def margins(trees: Mapping[str, Tensor], features: NDArray[np.float32], n_outputs: int) -> NDArray[np.float64]:
    """The sum of the leaves that each row falls into, shape (n, n_outputs)."""
    sizes = trees["trees.size"].astype(np.int64)
    total = np.zeros((len(features), n_outputs))
    if len(sizes) == 0:
        return total
    roots = np.cumsum(sizes) - sizes
    speaks = (trees["trees.output"][:, None] == np.arange(n_outputs)).astype(np.float64)
    rows_max = max(1, CELLS_MAX // len(sizes))
    for start in range(0, len(features), rows_max):
        rows = features[start : start + rows_max]
        leaves = trees["trees.value"][_fall(trees, rows, roots)]
        total[start : start + rows_max] = leaves.astype(np.float64) @ speaks
    return total


def _fall(trees: Mapping[str, Tensor], rows: NDArray[np.float32], roots: NDArray[np.int64]) -> NDArray[np.int64]:
    """The leaf of every row in every tree, shape (rows, trees)."""
    node = np.broadcast_to(roots, (len(rows), len(roots))).copy()
    which = np.arange(len(rows))[:, None]
    while True:
        feature = trees["trees.feature"][node]
        inner = feature >= 0
        if not inner.any():
            return node
        value = rows[which, np.maximum(feature, 0)]
        below = np.where(np.isnan(value), trees["trees.missing_left"][node] != 0, value < trees["trees.value"][node])
        child = np.where(below, trees["trees.left"][node], trees["trees.right"][node])
        node = np.where(inner, roots + child, node)


def check_trees(update: TensorSource, shape: tuple[int, int], learner: LearnerSettings) -> float:
    """Whether an update holds the trees that one round of a study makes; the L2 norm of their leaves.

    Args:
        shape: (features, classes) of the task.

    Raises:
        UpdateRefused: "names", "shape", "dtype", "not-finite" or "trees"; nothing is read before its size is known to be fair.
    """
    n_features, n_classes = shape
    shapes = update.shapes()
    if set(shapes) != set(NAMES):
        raise UpdateRefused("names", f"tensor `{sorted(set(shapes) ^ set(NAMES))[0][:60]}` is missing or not asked for")
    for name, dtype in NAMES.items():
        if update.dtype(name) != dtype:
            raise UpdateRefused("dtype", f"tensor `{name}` is {update.dtype(name)}, trees have {dtype}")
    count, nodes = learner.trees * outputs(n_classes), shapes["trees.feature"][0] if shapes["trees.feature"] else 0
    if any(shapes[name] != (count,) for name in BY_TREE):
        raise UpdateRefused("shape", f"{shapes['trees.size']} trees, this study asks for {count} a round")
    if any(shapes[name] != (nodes,) for name in BY_NODE) or nodes > count * (2 ** (learner.depth + 1) - 1):
        raise UpdateRefused("shape", f"{nodes} nodes in {count} trees of depth {learner.depth}")
    trees = {name: update.block(name, 0, shapes[name][0]) for name in NAMES}
    _check_values(trees, n_features, outputs(n_classes), LEAF_STEP_MAX * learner.learning_rate)
    _check_structure(trees, learner.depth)
    return float(np.linalg.norm(trees["trees.value"][trees["trees.feature"] < 0].astype(np.float64)))


def _check_values(trees: Mapping[str, Tensor], n_features: int, n_outputs: int, leaf_max: float) -> None:
    feature, value, output = trees["trees.feature"], trees["trees.value"], trees["trees.output"]
    if not np.isfinite(value).all():
        raise UpdateRefused("not-finite", "a threshold or a leaf is NaN or infinite")
    if (feature < -1).any() or (feature >= n_features).any():
        raise UpdateRefused("trees", f"a tree asks for a feature that is none of the task's {n_features}")
    if (output < 0).any() or (output >= n_outputs).any():
        raise UpdateRefused("trees", f"a tree speaks for an output that is none of the task's {n_outputs}")
    if not np.array_equal(np.bincount(output, minlength=n_outputs), np.full(n_outputs, len(output) // n_outputs)):
        raise UpdateRefused("trees", "not as many trees for one class as for another")
    largest = float(np.abs(value[feature < 0]).max(initial=0.0))
    if largest > leaf_max * (1 + 1e-5):
        raise UpdateRefused(
            "trees", f"a leaf moves the margin by {largest:.3g}; this study's learning rate allows {leaf_max:.3g}"
        )


def _check_structure(trees: Mapping[str, Tensor], depth_max: int) -> None:
    """Every node but a root is the child of exactly one node before it, and none lies too deep."""
    sizes = trees["trees.size"].astype(np.int64)
    feature = trees["trees.feature"]
    if (sizes < 1).any() or sizes.sum() != len(feature):
        raise UpdateRefused("trees", "the trees' sizes do not add up to their nodes")
    roots = np.cumsum(sizes) - sizes
    root, size = np.repeat(roots, sizes), np.repeat(sizes, sizes)
    inner, place = np.flatnonzero(feature >= 0), np.arange(len(feature))
    children = np.concatenate([trees[side][inner].astype(np.int64) for side in ("trees.left", "trees.right")])
    parents = np.concatenate([inner, inner])
    if (children <= place[parents] - root[parents]).any() or (children >= size[parents]).any():
        raise UpdateRefused("trees", "a node's child lies outside its tree, or before the node")
    times = np.bincount(children + root[parents], minlength=len(feature))
    if not np.array_equal(times, (place != root).astype(times.dtype)):
        raise UpdateRefused("trees", "a node has no parent, or two")
    level = roots
    for _ in range(depth_max + 1):
        level = level[feature[level] >= 0]
        if len(level) == 0:
            return
        level = np.concatenate([root[level] + trees[side][level] for side in ("trees.left", "trees.right")])
    raise UpdateRefused("trees", f"a tree is deeper than the study's {depth_max}")
