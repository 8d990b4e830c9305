"""Federated bagging: the trees are XGBoost's, the step is the mean of the edges', and a hostile tree does not count."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.errors import StudyError, UpdateRefused
from wardround.learn.learners import make_learner
from wardround.learn.models import MemoryTensors
from wardround.learn.strategies import Fold, WeightedUpdate, make_strategy
from wardround.learn.study import LearnerSettings, RoundSettings, StrategySettings, Study
from wardround.learn.study_checks import check
from wardround.learn.trees import LEAF_STEP_MAX, check_trees, margins
from wardround.records import Examples

xgboost = pytest.importorskip("xgboost", reason="XGBoost is not installed here")
FEATURES = 6
SETTINGS = LearnerSettings(kind="xgboost", learning_rate=0.3, l2=1.0, trees=3, depth=3)


def edge(seed, n=150, classes=3):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, FEATURES)).astype(np.float32)
    labels = np.digitize(features[:, 0] * features[:, 1] + features[:, 2], [-0.5, 0.5] if classes == 3 else [0.0])
    features[rng.random((n, FEATURES)) < 0.05] = np.nan
    return Examples(
        features=features,
        labels=labels.astype(np.int32),
        subjects=np.full(n, "s"),
        t_us=np.arange(n, dtype=np.int64),
        feature_names=tuple(f"f{i}" for i in range(FEATURES)),
    )


def bagged(model, updates, **settings):
    given = [WeightedUpdate(MemoryTensors(u), n) for u, n in updates]
    return make_strategy(StrategySettings(name="bagging", **settings), SETTINGS).fold(Fold(MemoryTensors(model), given)).model


@pytest.mark.parametrize("classes", [2, 3])
def test_rounds_of_one_edge_are_xgboosts_own_boosting(classes):
    given, learner = edge(1, classes=classes), make_learner(SETTINGS, FEATURES, classes)
    model = learner.initial(0)
    for number in range(1, 4):
        model = bagged(model, [(learner.train(model, given, seed=0, round=number).update, 150)])
    own = {"objective": "binary:logistic"} if classes == 2 else {"objective": "multi:softprob", "num_class": classes}
    own |= {"eta": 0.3, "max_depth": 3, "lambda": 1.0, "max_delta_step": LEAF_STEP_MAX, "tree_method": "hist"}
    zero = np.zeros(150 if classes == 2 else (150, classes), np.float32)
    data = xgboost.DMatrix(given.features, label=given.labels, base_margin=zero)
    expected = xgboost.train(own, data, 9).predict(data)
    found = learner.predict(model, given.features)
    np.testing.assert_allclose(found[:, 1] if classes == 2 else found, expected, atol=2e-4)


def test_a_round_moves_the_margin_by_the_mean_of_what_its_edges_found():
    learner, edges = make_learner(SETTINGS, FEATURES, 3), [edge(1), edge(2, n=50), edge(3)]
    model, unseen = learner.initial(0), edge(9).features
    for number in (1, 2):
        updates = [(learner.train(model, e, seed=0, round=number).update, len(e)) for e in edges]
        parts = [margins(u, unseen, 3) for u, _ in updates]
        expected = margins(model, unseen, 3) + np.average(parts, axis=0, weights=[n for _, n in updates])
        model = bagged(model, updates)
        np.testing.assert_allclose(margins(model, unseen, 3), expected, atol=1e-5)
    assert len(model["trees.size"]) == 2 * 3 * 3 * 3  # rounds, edges, steps, classes


def test_it_comes_near_the_pooled_data():
    learner, edges = make_learner(SETTINGS, FEATURES, 3), [edge(i, n=300) for i in range(1, 5)]
    model, unseen = learner.initial(0), edge(9, n=1000)
    for number in range(1, 16):
        model = bagged(model, [(learner.train(model, e, seed=0, round=number).update, 300) for e in edges])
    own = {"objective": "multi:softprob", "num_class": 3, "eta": 0.3, "max_depth": 3}
    x, y = np.concatenate([e.features for e in edges]), np.concatenate([e.labels for e in edges])
    pooled = xgboost.train(own, xgboost.DMatrix(x, label=y), 45).predict(xgboost.DMatrix(unseen.features)).argmax(axis=1)
    found = learner.predict(model, unseen.features).argmax(axis=1)
    assert (found == unseen.labels).mean() > (pooled == unseen.labels).mean() - 0.04


def grown():
    learner = make_learner(SETTINGS, FEATURES, 3)
    return learner.train(learner.initial(0), edge(1), seed=0, round=1).update


def spoilt(name, where, value):
    update = {n: t.copy() for n, t in grown().items()}
    place = {"inner": np.flatnonzero(update["trees.feature"] >= 0), "leaf": np.flatnonzero(update["trees.feature"] < 0)}
    update[name][place[where][0] if where in place else where] = value
    return update


@pytest.mark.parametrize(
    ("name", "where", "value", "reason"),
    [
        ("trees.feature", "inner", FEATURES, "trees"),
        ("trees.feature", "inner", -2, "trees"),
        ("trees.value", "leaf", np.nan, "not-finite"),
        ("trees.value", "inner", np.inf, "not-finite"),
        ("trees.value", "leaf", 100.0, "trees"),
        ("trees.left", "inner", 0, "trees"),  # a circle
        ("trees.left", "inner", -7, "trees"),
        ("trees.right", "inner", 10_000, "trees"),
        ("trees.right", "inner", 1, "trees"),  # one node twice, another never
        ("trees.size", 0, 1, "trees"),
        ("trees.size", 0, -1, "trees"),
        ("trees.output", 0, 3, "trees"),
        ("trees.output", 0, 1, "trees"),  # one class more often than another
    ],
)
def test_a_tree_that_cannot_be_does_not_count(name, where, value, reason):
    with pytest.raises(UpdateRefused) as refused:
        check_trees(MemoryTensors(spoilt(name, where, value)), (FEATURES, 3), SETTINGS)
    assert refused.value.reason == reason


def test_names_numbers_and_depth_are_the_studys():
    update = grown()
    assert check_trees(MemoryTensors(update), (FEATURES, 3), SETTINGS) > 0
    for changed, reason in (
        ({n: t for n, t in update.items() if n != "trees.left"}, "names"),
        (update | {"extra": np.zeros(1)}, "names"),
        (update | {"trees.left": update["trees.left"].astype(np.int64)}, "dtype"),
        (update | {"trees.left": update["trees.left"][:-1]}, "shape"),
        ({n: np.concatenate([t, t]) for n, t in update.items()}, "shape"),
    ):
        with pytest.raises(UpdateRefused) as refused:
            check_trees(MemoryTensors(changed), (FEATURES, 3), SETTINGS)
        assert refused.value.reason == reason
    shallow = LearnerSettings(kind="xgboost", learning_rate=0.3, trees=3, depth=2)
    with pytest.raises(UpdateRefused):
        check_trees(MemoryTensors(update), (FEATURES, 3), shallow)


class Shape:
    classes, feature_names, metric = ("a", "b"), ("f", "g"), "accuracy"


@pytest.mark.parametrize(
    ("learner", "strategy", "message"),
    [
        ({"kind": "xgboost"}, "fedavg", "appended"),
        ({"kind": "mlp"}, "bagging", "appended"),
        ({"kind": "sklearn"}, "fedprox", "pulls"),
        ({"kind": "sklearn"}, "ditto", "pulls"),
        ({"kind": "torch"}, "fedavg", "learner.module"),
        ({"kind": "mlp", "module": "a:b"}, "fedavg", "learner.module"),
        ({"kind": "xgboost", "trees": 1000}, "bagging", "ensemble"),
    ],
)
def test_what_a_learner_cannot_do_is_said_before_anything_starts(learner, strategy, message):
    study = Study(
        name="s",
        task="t",
        learner=LearnerSettings(**learner),
        strategy=StrategySettings(name=strategy),
        rounds=RoundSettings(count=100),
    )
    with pytest.raises(StudyError, match=message):
        check(study, {"t": Shape()})
