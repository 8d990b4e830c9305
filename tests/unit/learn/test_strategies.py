"""Every strategy against its paper's formula written out in plain NumPy, and the robust ones against edges that lie."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize

from wardround.errors import StudyError, UpdateRefused
from wardround.learn.models import MemoryTensors
from wardround.learn.strategies import STRATEGIES, Fold, WeightedUpdate, make_strategy
from wardround.learn.strategies.fednova import accumulated
from wardround.learn.strategies.krum import best, squared_distances
from wardround.learn.study import LearnerSettings, StrategySettings
from wardround.learn.study_checks import STRATEGY_NAMES

ROBUST = ["coordinate-median", "trimmed-mean", "krum", "multi-krum", "geometric-median", "centered-clipping"]
LEARNER = LearnerSettings(learning_rate=0.1, momentum=0.0, batch=8, epochs=2)
BASE = {"w": np.zeros((40, 30), np.float32), "b": np.ones(5, np.float32), "scale.mean": np.ones(2, np.float32)}
NAMES = ("b", "w")
TOTAL = sum(BASE[n].size for n in NAMES)


def updates(n=9, seed=0, liars=0, lie=lambda u: -50 * u, names=NAMES, centre=1.0):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        tensors = {m: (centre + 0.3 * rng.normal(size=BASE[m.removeprefix("control.")].shape)).astype(np.float32) for m in names}
        if i < liars:
            tensors = {name: lie(t).astype(np.float32) for name, t in tensors.items()}
        made.append(WeightedUpdate(MemoryTensors(tensors), 10 + i, {"loss_before": 0.5 + i}))
    return made


def flat(update, prefix=""):
    return np.concatenate([update.tensors.block(prefix + n, 0, BASE[n].size).astype(np.float64) for n in NAMES])


def rows_of(given):
    return np.array([flat(u) for u in given])


def fold(name, given, memory=None, base=None, fleet=0, reference=None, **settings):
    """The strategy's step, flat, and what it remembers."""
    base = BASE if base is None else base
    strategy = make_strategy(StrategySettings(name=name, **settings), LEARNER)
    done = strategy.fold(Fold(MemoryTensors(base), given, memory or {}, fleet, reference))
    np.testing.assert_array_equal(done.model["scale.mean"], base["scale.mean"])
    assert {n: t.dtype for n, t in done.model.items()} == {n: t.dtype for n, t in base.items()}
    return np.concatenate([(done.model[n] - base[n]).reshape(-1) for n in NAMES]).astype(np.float64), done


def shares(given):
    examples = np.array([u.examples for u in given], float)
    return examples / examples.sum()


def test_the_list_for_people_is_the_list_there_is():
    assert tuple(STRATEGIES) == STRATEGY_NAMES
    with pytest.raises(StudyError, match="unknown strategy"):
        make_strategy(StrategySettings(name="fedbest"), LEARNER)


# -- means and the hub's optimisers


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedbn", "ditto", "fine-tuning"])
def test_the_hubs_half_is_the_weighted_mean(name):
    given = updates()
    np.testing.assert_allclose(fold(name, given)[0], shares(given) @ rows_of(given), rtol=1e-5)


def test_what_is_stale_counts_less_and_nobody_gains_by_it():
    given = updates(4)
    stale = [*given[:3], WeightedUpdate(given[3].tensors, given[3].examples, given[3].facts, staleness=3)]
    weights = shares(given) * [1, 1, 1, 0.5]
    np.testing.assert_allclose(fold("fedavg", stale)[0], weights @ rows_of(given), rtol=1e-5)


def test_fedavgm_adds_momentum():
    velocity, memory = 0.0, None
    for number in range(3):
        given = updates(seed=number)
        velocity = 0.9 * velocity + shares(given) @ rows_of(given)
        step, done = fold("fedavgm", given, memory)
        memory = done.memory
        np.testing.assert_allclose(step, velocity, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("fedadagrad", lambda v, d: v + d**2),
        ("fedadam", lambda v, d: 0.99 * v + 0.01 * d**2),
        ("fedyogi", lambda v, d: v - 0.01 * d**2 * np.sign(v - d**2)),
    ],
)
def test_the_adaptive_ones_are_algorithm_2_of_reddi(name, second):
    m, v, memory = 0.0, 1e-6, None
    for number in range(4):
        given = updates(seed=number, centre=0.1)
        delta = shares(given) @ rows_of(given)
        m, v = 0.9 * m + 0.1 * delta, second(v, delta)
        step, done = fold(name, given, memory, server_learning_rate=0.05)
        memory = done.memory
        np.testing.assert_allclose(step, 0.05 * m / (np.sqrt(v) + 1e-3), rtol=2e-4, atol=1e-7)
        assert all(t.dtype == np.float32 for t in memory.values())


def test_fednova_takes_the_steps_out_of_the_weights():
    given = updates()
    steps = np.array([2 * np.ceil(u.examples / 8) for u in given])
    expected = (shares(given) @ steps) * ((shares(given) / steps) @ rows_of(given))
    np.testing.assert_allclose(fold("fednova", given)[0], expected, rtol=1e-5)
    # ||a||_1 is by how much tau steps of momentum SGD move under a constant gradient of one.
    moved = velocity = 0.0
    for _ in range(7):
        velocity = 0.9 * velocity + 1.0
        moved += velocity
    assert accumulated(7, 0.9) == pytest.approx(moved)


def test_scaffold_moves_model_and_control():
    base = {**BASE, **{f"control.{n}": np.zeros_like(BASE[n]) for n in NAMES}}
    given = updates(4, names=(*NAMES, *(f"control.{n}" for n in NAMES)))
    step, done = fold("scaffold", given, base=base, fleet=10)
    np.testing.assert_allclose(step, rows_of(given).mean(axis=0), rtol=1e-5)
    control = np.concatenate([done.model[f"control.{n}"].reshape(-1) for n in NAMES])
    np.testing.assert_allclose(control, 0.4 * np.mean([flat(u, "control.") for u in given], axis=0), rtol=1e-5)


def test_feddyn_is_its_algorithm():
    h, memory, alpha, fleet = 0.0, None, 0.1, 12
    for number in range(3):
        given = updates(4, seed=number)
        rows = rows_of(given)
        h = h - alpha / fleet * rows.sum(axis=0)
        step, done = fold("feddyn", given, memory, fleet=fleet, regularisation=alpha)
        memory = done.memory
        np.testing.assert_allclose(step, rows.mean(axis=0) - h / alpha, rtol=1e-4)


@pytest.mark.parametrize("q", [0.0, 0.5, 2.0])
def test_qfedavg_is_its_algorithm(q):
    given = updates()
    loss, lipschitz = np.array([u.facts["loss_before"] for u in given]), 10.0
    deltas = -lipschitz * rows_of(given)  # L (w - w_k)
    h = q * loss ** (q - 1) * np.square(deltas).sum(axis=1) + lipschitz * loss**q
    np.testing.assert_allclose(fold("qfedavg", given, fairness=q)[0], -(loss**q @ deltas) / h.sum(), rtol=1e-5, atol=1e-6)
    if q == 0:
        np.testing.assert_allclose(fold("qfedavg", given, fairness=q)[0], rows_of(given).mean(axis=0), rtol=1e-5)


# -- robust folds


def test_the_median_is_numpys():
    for n in (8, 9):
        given = updates(n)
        np.testing.assert_allclose(fold("coordinate-median", given)[0], np.median(rows_of(given), axis=0), atol=1e-6)


def test_the_trimmed_mean_is_its_definition():
    given = updates(10)
    rows = np.sort(rows_of(given), axis=0)
    np.testing.assert_allclose(fold("trimmed-mean", given, faulty_share=0.2)[0], rows[2:8].mean(axis=0), atol=1e-6)


def test_krum_and_multi_krum_are_their_definition():
    given, f = updates(9, liars=2), 2
    vectors = rows_of(given)
    scores = []
    for i in range(9):
        others = sorted(np.square(vectors[i] - vectors[j]).sum() for j in range(9) if j != i)
        scores.append(sum(others[: 9 - f - 2]))
    chosen = np.argsort(scores)[: 9 - f]
    np.testing.assert_allclose(fold("multi-krum", given)[0], vectors[chosen].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(fold("krum", given)[0], vectors[chosen[0]], atol=1e-5)
    assert {0, 1} == set(best(squared_distances(Fold(MemoryTensors(BASE), given)), 0.2)[-2:])


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4])
def test_krums_distances_keep_their_digits_when_edges_nearly_agree(spread):
    rng = np.random.default_rng(0)
    base = {"w": np.zeros(100_000, np.float32)}
    shared = rng.normal(size=100_000)
    rows = np.array([(shared + spread * rng.normal(size=100_000)).astype(np.float32) for _ in range(8)], np.float64)
    given = [WeightedUpdate(MemoryTensors({"w": r.astype(np.float32)}), 1) for r in rows]
    exact = np.square(rows[:, None] - rows[None]).sum(axis=2)
    np.testing.assert_allclose(squared_distances(Fold(MemoryTensors(base), given)), exact, rtol=1e-9)


def test_the_geometric_median_has_the_smallest_sum_of_distances():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(7, 3)) * [1, 5, 2]
    given = [WeightedUpdate(MemoryTensors({"w": p.astype(np.float32)}), 1) for p in points]
    strategy = make_strategy(StrategySettings(name="geometric-median"), LEARNER)
    found = strategy.fold(Fold(MemoryTensors({"w": np.zeros(3, np.float32)}), given)).model["w"]

    def total(x):
        return np.linalg.norm(points - x, axis=1).sum()

    assert total(found) <= minimize(total, points.mean(axis=0)).fun * 1.001


def test_centered_clipping_is_its_algorithm():
    v, memory = np.zeros(TOTAL), None
    for number in range(3):
        given = updates(seed=number, liars=2)
        rows = rows_of(given)
        for _ in range(3):
            off = rows - v
            v = v + (off * np.minimum(1, 15.0 / np.linalg.norm(off, axis=1))[:, None]).mean(axis=0)
        step, done = fold("centered-clipping", given, memory, radius=15.0)
        memory = done.memory
        np.testing.assert_allclose(step, v, atol=1e-4)


def test_fltrust_is_its_formula():
    given = updates(6, liars=2)
    rows = rows_of(given)
    own = {n: (0.9 * np.ones_like(BASE[n])) for n in NAMES}
    g0 = np.concatenate([own[n].reshape(-1) for n in NAMES])
    trust = np.maximum(0, rows @ g0 / np.linalg.norm(rows, axis=1) / np.linalg.norm(g0))
    assert trust[:2].tolist() == [0, 0]
    expected = (trust / np.linalg.norm(rows, axis=1) * np.linalg.norm(g0)) @ rows / trust.sum()
    np.testing.assert_allclose(fold("fltrust", given, reference=own)[0], expected, rtol=1e-5)
    with pytest.raises(UpdateRefused, match="no consented examples"):
        fold("fltrust", given)
    with pytest.raises(UpdateRefused, match="no update points"):
        fold("fltrust", updates(3, liars=3), reference=own)


LIES = {"turned round": lambda u: -50 * u, "enormous": lambda u: 1e6 * u, "nothing": lambda u: 0 * u}


@pytest.mark.parametrize(("name", "lie"), list(itertools.product(ROBUST, LIES.values())))
def test_a_few_liars_move_it_little(name, lie):
    honest = rows_of(updates()).mean(axis=0)
    given = updates(liars=2, lie=lie)
    step, done = fold(name, given, faulty_share=0.25)
    if name == "centered-clipping":  # needs the history that its paper is named after
        for _ in range(8):
            step, done = fold(name, given, done.memory, faulty_share=0.25)
    assert np.linalg.norm(step - honest) / np.linalg.norm(honest) < (0.4 if name == "krum" or "clip" in name else 0.25)


def test_fedavg_has_no_such_shield():
    honest = rows_of(updates()).mean(axis=0)
    assert np.linalg.norm(fold("fedavg", updates(liars=2))[0] - honest) > 5 * np.linalg.norm(honest)


# -- all of them

PLAIN = [n for n in STRATEGIES if n not in {"scaffold", "fltrust", "bagging"}]


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_edges_are_enough_for_a_fold(name, n):
    given = updates(n)
    rows = rows_of(given)
    step, _ = fold(name, given)
    assert np.isfinite(step).all()
    assert (step >= np.minimum(0, rows.min(axis=0)) - 1e-5).all()
    assert (step <= rows.max(axis=0) + 1e-5).all()


@pytest.mark.parametrize("name", PLAIN)
def test_the_order_and_the_blocks_make_no_difference(name, monkeypatch):
    given = updates()
    first, _ = fold(name, given)
    monkeypatch.setattr("wardround.learn.strategies.blocks.BLOCK", 77)
    np.testing.assert_allclose(fold(name, given[::-1])[0], first, atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_what_does_not_fit_is_refused(name):
    good = updates(3)
    for wrong in ({"w": np.ones((30, 40), np.float32)}, {"w": np.ones((40, 30))}, {"v": np.ones(2, np.float32)}):
        bad = WeightedUpdate(MemoryTensors({"b": np.ones(5, np.float32), **wrong}), 5, {"loss_before": 1.0})
        with pytest.raises(UpdateRefused):
            fold(name, [bad, *good])
    with pytest.raises(UpdateRefused):
        fold(name, [])


@pytest.mark.parametrize("name", PLAIN)
def test_integers_are_rounded_and_dtypes_kept(name):
    base = {"w": np.zeros(4, np.float32), "half": np.zeros(4, np.float16), "steps": np.array([10, 20])}
    given = [
        WeightedUpdate(
            MemoryTensors({"w": np.ones(4, np.float32), "half": np.ones(4, np.float16), "steps": np.array([1, 2])}),
            8,
            {"loss_before": 1.0},
        )
        for _ in range(4)
    ]
    strategy = make_strategy(StrategySettings(name=name), LEARNER)
    model = strategy.fold(Fold(MemoryTensors(base), given)).model
    assert {n: t.dtype for n, t in model.items()} == {n: t.dtype for n, t in base.items()}
    if name in {"fedavg", "coordinate-median", "krum", "trimmed-mean"}:
        np.testing.assert_array_equal(model["steps"], [11, 22])
