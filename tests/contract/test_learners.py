"""What every learner must do, whatever library trains it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from wardround.errors import LearnError
from wardround.learn.learners import LEARNERS, make_learner
from wardround.learn.models import decode_model, encode_model, is_buffer
from wardround.learn.scaling import with_scaling
from wardround.learn.study import LearnerSettings
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


def settings(kind):
    return LearnerSettings(kind=kind, hidden=(16, 16), channels=CHANNELS, kernel=3, epochs=10, batch=16, learning_rate=0.05)


@pytest.fixture(params=LEARNERS)
def learner(request):
    return make_learner(settings(request.param), FEATURES, CLASSES)


def scaled(learner, given, seed=0):
    return with_scaling(learner.initial(seed), learner.statistics(given), class_weighting="none")


def stepped(model, update):
    return {name: tensor + update[name] if name in update else tensor for name, tensor in model.items()}


def test_it_learns_what_can_be_learnt(learner):
    given, unseen = examples(600), examples(300, seed=1)
    model = scaled(learner, given)
    for number in range(1, 6):
        model = stepped(model, learner.train(model, given, seed=0, round=number).update)
    right = (learner.predict(model, unseen.features).argmax(axis=1) == unseen.labels).mean()
    assert right > 0.9


def test_its_bytes_follow_from_the_seed_and_survive_the_wire(learner):
    first, again, other = (encode_model(learner.initial(seed)) for seed in (3, 3, 4))
    assert first == again != other
    given = examples(80)
    model = scaled(learner, given)
    one, two = (learner.train(decode_model(encode_model(model)), given, seed=0, round=2) for _ in range(2))
    assert encode_model(one.update) == encode_model(two.update)


def test_an_update_is_of_the_trainable_tensors_with_their_shapes_and_dtypes(learner):
    given = examples(50)
    model = scaled(learner, given)
    trained = learner.train(model, given, seed=0, round=1)
    assert set(trained.update) == {n for n in model if not is_buffer(n)}
    assert all(t.shape == model[n].shape and t.dtype == model[n].dtype for n, t in trained.update.items())
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
    for wrong in ({**model, name: model[name][..., :1]}, {n: t for n, t in model.items() if n != name}):
        with pytest.raises(LearnError, match="does not fit"):
            learner.train(wrong, examples(20), seed=0, round=1)
    with pytest.raises(LearnError):
        learner.predict(model, np.ones((3, FEATURES + 1), np.float32))


def test_predictions_of_nothing_and_of_many(learner):
    model = learner.initial(0)
    assert learner.predict(model, np.empty((0, FEATURES), np.float32)).shape == (0, CLASSES)
    assert learner.predict(model, examples(300).features).shape == (300, CLASSES)
