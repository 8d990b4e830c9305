"""A study is checked before anything starts; the learner learns, in the same way each time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from wardround.errors import LearnError, SettingsError, StudyError
from wardround.learn.learners import make_learner
from wardround.learn.scaling import with_scaling
from wardround.learn.study import LearnerSettings, ScoreSettings, is_held_back, parse_study
from wardround.learn.study_checks import check
from wardround.process.transforms import TASKS
from wardround.records import Examples

GOOD = 'name = "s"\ntask = "activity"\n'


def test_a_good_study_passes():
    check(parse_study(GOOD, where="x"), TASKS)


BAD = {
    'name = "S p a c e"\ntask = "activity"': "name",
    'name = "s"\ntask = "actvity"': "task",
    GOOD + '[learner]\nkind = "oracle"': "learner.kind",
    GOOD + '[learner]\nkind = "cnn"\nhidden = []': "cnn",
    GOOD + '[learner]\nkind = "gru"\nchannels = 7': "channels",
    GOOD + "[learner]\nhidden = [0]": "hidden",
    GOOD + "[learner]\nhidden = [100000, 100000]": "parameters",
    GOOD + "[learner]\nlearning_rate = 0.0": "learning_rate",
    GOOD + "[rounds]\ncount = 0": "rounds.count",
    GOOD + "[rounds]\nedges_min = 0": "edges_min",
    GOOD + "[rounds]\nedges_min = 5\nedges_max = 4": "edges_max",
    GOOD + '[strategy]\nname = "best"': "strategy",
    GOOD + '[privacy]\nmode = "hidden"': "privacy.mode",
    GOOD + '[score]\nmetric = "luck"': "score.metric",
    GOOD + "[score]\nheld_back = 0.99": "held_back",
}


@pytest.mark.parametrize(("text", "named"), BAD.items())
def test_a_study_that_cannot_run_names_what_and_what_to_do(text, named):
    with pytest.raises(StudyError) as refused:
        check(parse_study(text, where="x"), TASKS)
    assert named in str(refused.value) + refused.value.remedy
    assert refused.value.remedy


def test_a_quorum_above_the_edges_there_are_is_refused():
    study = parse_study(GOOD + '[rounds]\nedges_min = 3\n[score]\nheld_back_edges = ["c"]', where="x")
    with pytest.raises(StudyError, match="2 edges may train"):
        check(study, TASKS, edges=["a", "b", "c"])
    with pytest.raises(StudyError, match="has not joined"):
        check(study, TASKS, edges=["a", "b"])


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(SettingsError, match=r"rounds.cuont") as refused:
        parse_study(GOOD + "[rounds]\ncuont = 3", where="x")
    assert "count" in refused.value.remedy


def test_who_is_held_back_is_held_back_everywhere():
    score = ScoreSettings(held_back=0.3, held_back_edges=("e9",))
    share = np.mean([is_held_back(score, f"subject-{i}", "e1") for i in range(2_000)])
    assert 0.26 < share < 0.34
    assert all(is_held_back(score, f"s{i}", "e9") for i in range(10))
    assert is_held_back(ScoreSettings(held_back=0.0, held_back_subjects=("x",)), "x", "e1")


# -- the learner


def blobs(seed=0, n=400, features=5, classes=3):
    """Classes around centres that do not depend on the seed, on very different scales."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(classes, features)) * 2
    labels = rng.integers(0, classes, n).astype(np.int32)
    x = (centres[labels] + rng.normal(size=(n, features))) * (10.0 ** np.arange(features))
    return Examples(
        features=x.astype(np.float32),
        labels=labels,
        subjects=np.full(n, "s"),
        t_us=np.arange(n),
        feature_names=tuple(f"f{i}" for i in range(features)),
    )


def trained(learner, examples, rounds=5):
    model = with_scaling(learner.initial(0), learner.statistics(examples), class_weighting="none")
    for number in range(1, rounds + 1):
        update = learner.train(model, examples, seed=0, round=number).update
        model = {n: t + update[n] if n in update else t for n, t in model.items()}
    return model


@pytest.mark.parametrize("hidden", [(), (16,)])
def test_it_learns_what_logistic_regression_learns(hidden):
    learner = make_learner(LearnerSettings(hidden=hidden, epochs=5), 5, 3)
    train, test = blobs(0), blobs(1)
    accuracy = (learner.predict(trained(learner, train), test.features).argmax(axis=1) == test.labels).mean()
    mean, std = train.features.mean(axis=0), train.features.std(axis=0)
    rival = LogisticRegression(max_iter=500).fit((train.features - mean) / std, train.labels)
    assert accuracy > rival.score((test.features - mean) / std, test.labels) - 0.03


def test_the_same_seed_gives_the_same_update_and_another_round_another():
    learner, examples = make_learner(LearnerSettings(), 5, 3), blobs()
    model = with_scaling(learner.initial(0), learner.statistics(examples), class_weighting="none")
    first, second, other = (learner.train(model, examples, seed=0, round=n).update for n in (1, 1, 2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert any(not np.array_equal(first[n], other[n]) for n in first)
    assert not any(n.startswith("scale.") for n in first)


def test_probabilities_are_probabilities_even_for_absurd_features():
    learner, examples = make_learner(LearnerSettings(), 5, 3), blobs()
    model = trained(learner, examples, 1)
    absurd = np.array([[1e30] * 5, [-1e30] * 5, [0.0] * 5], np.float32)
    probabilities = learner.predict(model, absurd)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-4)


def test_nothing_labelled_and_wrong_shapes_are_said():
    learner, examples = make_learner(LearnerSettings(), 5, 3), blobs()
    model = trained(learner, examples, 1)
    unlabelled = Examples(
        features=examples.features,
        labels=np.full(len(examples), -1, np.int32),
        subjects=examples.subjects,
        t_us=examples.t_us,
        feature_names=examples.feature_names,
    )
    with pytest.raises(LearnError):
        learner.train(model, unlabelled, seed=0, round=1)
    with pytest.raises(LearnError):
        learner.predict(model, examples.features[:, :3])
