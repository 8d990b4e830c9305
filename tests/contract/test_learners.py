"""What every learner must do, whatever library trains it."""

from __future__ import annotations

import importlib.util

import msgspec
import numpy as np
import pytest

from wardround.errors import LearnError
from wardround.learn.learners import LEARNERS, Pull, make_learner
from wardround.learn.models import MemoryTensors, decode_model, encode_model, is_buffer, is_trained
from wardround.learn.scaling import with_scaling
from wardround.learn.strategies import Fold, WeightedUpdate, make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, TriageSettings
from wardround.learn.trees import check_trees
from wardround.learn.triage import check_update
from wardround.records import Examples

CHANNELS, STEPS, CLASSES = 2, 12, 3
FEATURES = CHANNELS * STEPS


def examples(n, seed=0, classes=CLASSES):
    """A wave whose frequency is its class, on two channels, at any phase."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n).astype(np.int32)
    t, phase = np.arange(STEPS) / STEPS, rng.uniform(0, 1, (n, 1))
    waves = [np.sin(2 * np.pi * ((labels[:, None] + 1) * t + phase + shift)) for shift in (0.0, 0.25)]
    features = 5 + 3 * (np.concatenate(waves, axis=1) + 0.1 * rng.normal(size=(n, FEATURES)))
    return Examples(
        features=features.astype(np.float32),
        labels=labels,
        subjects=np.full(n, "s"),
        t_us=np.arange(n, dtype=np.int64),
        feature_names=tuple(f"f{i}" for i in range(FEATURES)),
    )


def lines(n, seed=0):
    """Classes that a line divides."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n).astype(np.int32)
    features = rng.normal(size=(n, FEATURES)).astype(np.float32)
    features[np.arange(n), labels] += 3
    return msgspec.structs.replace(examples(n), features=features, labels=labels)


# what is tried: a kind, with a module of the user's own for torch
TRIED = ("mlp", "cnn", "tcn", "gru", "sklearn", "xgboost", "torch plain", "torch normed")
NEEDS = {"torch": "PyTorch (pip install torch==2.13.0)", "sklearn": "scikit-learn", "xgboost": "XGBoost"}


def settings(tried, **changes):
    kind, _, module = tried.partition(" ")
    rate = {"xgboost": 0.3, "sklearn": 0.01}.get(kind, 0.05)
    given = {"hidden": (16, 16), "channels": CHANNELS, "kernel": 3, "epochs": 10, "batch": 16, "learning_rate": rate, "trees": 4}
    return LearnerSettings(kind=kind, module=f"own_models:{module}" if module else "", **(given | changes))


def made(tried, classes=CLASSES, **changes):
    kind = tried.split(" ", maxsplit=1)[0]
    if kind in NEEDS and importlib.util.find_spec(kind) is None:
        pytest.skip(f"{NEEDS[kind]} is not installed here")
    return make_learner(settings(tried, **changes), FEATURES, classes)


@pytest.fixture(params=TRIED)
def tried(request):
    return request.param


@pytest.fixture
def learner(tried):
    return made(tried)


def test_every_learner_is_tried():
    assert {t.split(" ", maxsplit=1)[0] for t in TRIED} == set(LEARNERS)


def scaled(learner, given, seed=0, weighting="none"):
    return with_scaling(learner.initial(seed), learner.statistics(given), class_weighting=weighting)


def stepped(model, update):
    """The next model, by the strategy that takes such an update."""
    name = "bagging" if "trees.size" in update else "fedavg"
    strategy = make_strategy(StrategySettings(name=name), LearnerSettings())
    return strategy.fold(Fold(MemoryTensors(model), [WeightedUpdate(MemoryTensors(update), 10)])).model


def test_it_learns_what_can_be_learnt(tried, learner):
    given, unseen = examples(600), examples(300, seed=1)
    if tried == "sklearn":  # no line divides waves of any phase
        given, unseen = lines(600), lines(300, seed=1)
    model = scaled(learner, given)
    for number in range(1, 6):
        model = stepped(model, learner.train(model, given, seed=0, round=number).update)
    right = (learner.predict(model, unseen.features).argmax(axis=1) == unseen.labels).mean()
    assert right > 0.9


def test_its_bytes_follow_from_the_seed_and_survive_the_wire(tried, learner):
    first, again, other = (encode_model(learner.initial(seed)) for seed in (3, 3, 4))
    assert first == again
    assert (first == other) == (tried in ("sklearn", "xgboost"))  # these begin from nothing
    given = examples(80)
    model = scaled(learner, given)
    one, two = (learner.train(decode_model(encode_model(model)), given, seed=0, round=2) for _ in range(2))
    assert encode_model(one.update) == encode_model(two.update)


def test_an_update_passes_triage_and_moves_the_model(learner):
    given = examples(50)
    model = scaled(learner, given)
    trained = learner.train(model, given, seed=0, round=1)
    assert set(trained.update) == {n for n in model if not is_buffer(n)}
    assert all(t.dtype == model[n].dtype for n, t in trained.update.items())
    after = stepped(model, trained.update)
    assert {n: t.dtype for n, t in after.items()} == {n: t.dtype for n, t in model.items()}
    if "trees.size" in model:
        assert check_trees(MemoryTensors(trained.update), (FEATURES, CLASSES), settings("xgboost")) > 0
    else:
        triage = TriageSettings()
        assert check_update(MemoryTensors(trained.update), MemoryTensors(model), set(trained.update), [], triage) > 0
    assert trained.examples == 50
    assert trained.steps > 0
    assert trained.metrics["loss_after"] < trained.metrics["loss_before"]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_two_examples_are_enough(learner, n):
    given = examples(n)
    trained = learner.train(scaled(learner, examples(50)), given, seed=0, round=1)
    assert trained.examples == n
    assert all(np.isfinite(t).all() for t in trained.update.values())


def test_one_class_is_enough(learner):
    given = examples(40, classes=1)
    trained = learner.train(scaled(learner, examples(50)), given, seed=0, round=1)
    assert all(np.isfinite(t).all() for t in trained.update.values())


def test_with_two_classes_too(tried):
    learner, given = made(tried, classes=2), examples(200, classes=2)
    model = scaled(learner, given)
    model = stepped(model, learner.train(model, given, seed=0, round=1).update)
    probabilities = learner.predict(model, given.features)
    assert probabilities.shape == (200, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    if tried != "sklearn":  # no line divides waves
        assert (probabilities.argmax(axis=1) == given.labels).mean() > 0.7


def test_class_weights_lift_the_rare(tried):
    learner, given = made(tried, epochs=3), lines(400)
    rare = given.where((given.labels != 2) | (np.arange(400) % 20 == 0))
    recall = {}
    for weighting in ("none", "balanced"):
        model = scaled(learner, rare, weighting=weighting)
        model = stepped(model, learner.train(model, rare, seed=0, round=1).update)
        recall[weighting] = learner.predict(model, given.features)[given.labels == 2, 2].mean()
    assert recall["balanced"] > recall["none"]


def test_a_pull_holds_it_back_or_is_refused(tried, learner):
    given = examples(100)
    model = scaled(learner, given)
    strong = Pull(strength=2.0)
    if tried in ("sklearn", "xgboost"):
        with pytest.raises(LearnError, match="pull"):
            learner.train(model, given, seed=0, round=1, pull=strong)
        return
    free, held = (learner.train(model, given, seed=0, round=1, pull=p).update for p in (None, strong))
    moved = [sum(float(np.square(t).sum()) for n, t in u.items() if is_trained(n)) for u in (free, held)]
    assert moved[1] < 0.5 * moved[0]
    slope = {n: np.full_like(t, 0.01) for n, t in model.items() if is_trained(n)}
    down = learner.train(model, given, seed=0, round=1, pull=Pull(slope=slope)).update
    assert sum(float((down[n] - free[n]).sum()) for n in slope) < 0


def test_what_is_missing_or_broken_does_not_throw_it(learner):
    given = examples(60)
    features = given.features.copy()
    features[::3, 4], features[5, 6], features[:, 7] = np.nan, np.inf, 5.0
    broken = msgspec.structs.replace(given, features=features)
    model = scaled(learner, broken)
    trained = learner.train(model, broken, seed=0, round=1)
    assert all(np.isfinite(t).all() for t in trained.update.values())
    probabilities = learner.predict(stepped(model, trained.update), features)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_what_is_not_labelled_trains_nothing(learner):
    given = examples(60)
    half = msgspec.structs.replace(given, labels=np.where(np.arange(60) % 2, -1, given.labels).astype(np.int32))
    assert learner.train(scaled(learner, given), half, seed=0, round=1).examples == 30
    with pytest.raises(LearnError, match="labelled"):
        learner.train(learner.initial(0), half.where(half.labels < 0), seed=0, round=1)


def test_another_models_tensors_are_refused(learner):
    model = learner.initial(0)
    name = next(n for n in model if not is_buffer(n))
    if name == "trees.size":  # a model of no tree has nothing to cut
        model = stepped(model, learner.train(model, examples(50), seed=0, round=1).update)
        name = "trees.value"
    for wrong in ({**model, name: model[name][..., :1]}, {n: t for n, t in model.items() if n != name}):
        with pytest.raises(LearnError, match="does not fit"):
            learner.train(wrong, examples(20), seed=0, round=1)
    with pytest.raises(LearnError):
        learner.predict(model, np.ones((3, FEATURES + 1), np.float32))


def test_predictions_of_nothing_and_of_many(learner):
    model = learner.initial(0)
    assert learner.predict(model, np.empty((0, FEATURES), np.float32)).shape == (0, CLASSES)
    assert learner.predict(model, examples(300).features).shape == (300, CLASSES)
