"""Robust folds against their papers' formulas, and against edges that lie."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from wardround.learn.models import MemoryTensors
from wardround.learn.strategies import STRATEGIES, WeightedUpdate, make_strategy
from wardround.learn.strategies.robust import MultiKrum, squared_distances

ROBUST = [name for name in STRATEGIES if name != "fedavg"]
BASE = {"w": np.zeros((40, 30), np.float32), "b": np.ones(5, np.float32), "scale.mean": np.ones(2, np.float32)}


def updates(n=9, seed=0, liars=0, lie=lambda u: -50 * u):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        tensors = {name: (1.0 + 0.3 * rng.normal(size=BASE[name].shape)).astype(np.float32) for name in ("w", "b")}
        if i < liars:
            tensors = {name: lie(t).astype(np.float32) for name, t in tensors.items()}
        made.append(WeightedUpdate(MemoryTensors(tensors), 10 + i))
    return made


def flat(update):
    return np.concatenate([update.tensors.block(n, 0, BASE[n].size).astype(np.float64) for n in ("b", "w")])


def folded(name, given, share=0.2):
    result = make_strategy(name, share).fold(BASE, given)
    np.testing.assert_array_equal(result["scale.mean"], BASE["scale.mean"])
    assert {n: t.dtype for n, t in result.items()} == {n: t.dtype for n, t in BASE.items()}
    return np.concatenate([(result[n] - BASE[n]).reshape(-1) for n in ("b", "w")])


def test_the_median_is_numpys():
    given = updates()
    np.testing.assert_allclose(folded("coordinate-median", given), np.median([flat(u) for u in given], axis=0), atol=1e-6)


def test_the_trimmed_mean_is_its_definition():
    given = updates(10)
    rows = np.sort([flat(u) for u in given], axis=0)
    np.testing.assert_allclose(folded("trimmed-mean", given, 0.2), rows[2:8].mean(axis=0), atol=1e-6)


def test_multi_krum_is_its_definition():
    given, f = updates(9, liars=2), 2
    vectors = [flat(u) for u in given]
    scores = []
    for i in range(9):
        others = sorted(np.square(vectors[i] - vectors[j]).sum() for j in range(9) if j != i)
        scores.append(sum(others[: 9 - f - 2]))
    chosen = np.argsort(scores)[: 9 - f]
    np.testing.assert_allclose(folded("multi-krum", given, 0.2), np.mean([vectors[i] for i in chosen], axis=0), atol=1e-5)
    assert not {0, 1} & set(MultiKrum(0.2).choose(squared_distances(BASE, given)))


def test_the_geometric_median_has_the_smallest_sum_of_distances():
    rng = np.random.default_rng(1)
    base = {"w": np.zeros(3, np.float32)}
    points = rng.normal(size=(7, 3)) * [1, 5, 2]
    given = [WeightedUpdate(MemoryTensors({"w": p.astype(np.float32)}), 1) for p in points]
    found = make_strategy("geometric-median").fold(base, given)["w"]

    def total(x):
        return np.linalg.norm(points - x, axis=1).sum()

    assert total(found) <= minimize(total, points.mean(axis=0)).fun * 1.001


LIES = {"turned round": lambda u: -50 * u, "enormous": lambda u: 1e6 * u, "nothing": lambda u: 0 * u}


@pytest.mark.parametrize(("name", "lie"), list(itertools.product(ROBUST, LIES.values())))
def test_a_few_liars_move_it_little_and_fedavg_much(name, lie):
    honest = np.mean([flat(u) for u in updates()], axis=0)
    given = updates(liars=2, lie=lie)
    moved = np.linalg.norm(folded(name, given, 0.25) - honest) / np.linalg.norm(honest)
    assert moved < 0.25


def test_fedavg_has_no_such_shield():
    honest = np.mean([flat(u) for u in updates()], axis=0)
    assert np.linalg.norm(folded("fedavg", updates(liars=2)) - honest) > 5 * np.linalg.norm(honest)


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_edges_are_enough_for_a_fold(name, n):
    given = updates(n)
    rows = np.array([flat(u) for u in given])
    result = folded(name, given)
    assert np.isfinite(result).all()
    assert (result >= rows.min(axis=0) - 1e-5).all()
    assert (result <= rows.max(axis=0) + 1e-5).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_order_and_the_blocks_make_no_difference(name, monkeypatch):
    given = updates()
    first = folded(name, given)
    monkeypatch.setattr("wardround.learn.strategies.blocks.BLOCK_ELEMENTS", 9 * 300)
    np.testing.assert_allclose(folded(name, given[::-1]), first, atol=1e-5)
