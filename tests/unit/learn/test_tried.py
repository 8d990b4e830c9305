"""An update is tried on rows of its own edge, where that is asked for, and nowhere else."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest

from wardround.errors import LearnError
from wardround.learn.learners import make_learner
from wardround.learn.models import encode_model
from wardround.learn.study import LearnerSettings, ScoreSettings, TrainingSettings, encode_training
from wardround.learn.trainer import Source, Work, Worker
from wardround.learn.tried import AFTER, BEFORE, ROWS_MIN, tried
from wardround.records import Examples


class Line:
    """A model of one weight: the probability of class 1 is its value."""

    def predict(self, parameters, features):
        one = np.clip(np.full(len(features), float(parameters["w"][0])), 0, 1)
        return np.stack([1 - one, one], axis=1).astype(np.float32)


def rows(labels):
    n = len(labels)
    own = {"labels": np.array(labels, np.int32), "subjects": np.array(["p"] * n), "t_us": np.arange(n)}
    return Examples(features=np.zeros((n, 1), np.float32), feature_names=("x",), **own)


def test_an_update_is_tried_on_held_back_rows_where_there_are_any():
    base, update = {"w": np.array([0.5], np.float32)}, {"w": np.array([0.4], np.float32)}
    ones, zeros, few = rows([1] * ROWS_MIN), rows([0] * ROWS_MIN), rows([1] * (ROWS_MIN - 1))
    better, worse = tried(Line(), base, update, ones, zeros), tried(Line(), base, update, few, zeros)
    assert better[AFTER] == pytest.approx(-math.log(0.9), rel=1e-5)
    assert better[BEFORE] == pytest.approx(-math.log(0.5), rel=1e-5)
    assert worse[AFTER] == pytest.approx(-math.log(0.1), rel=1e-5)
    assert tried(Line(), base, update, few, few) == {}
    assert math.isnan(tried(Line(), base, {"w": np.array([np.nan], np.float32)}, ones, zeros)[AFTER])


def test_a_model_that_answers_nothing_is_not_tried():
    class Refuses:
        def predict(self, _parameters, _features):
            raise LearnError("of another shape")

    own = rows([1] * ROWS_MIN)
    assert tried(Refuses(), {"w": np.zeros(1, np.float32)}, {}, own, own) == {}


def test_a_training_that_is_asked_to_tries_its_update_and_an_honest_one_fits_better(monkeypatch):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 4)).astype(np.float32)
    own = Examples(
        features=features,
        labels=(features[:, 0] > 0).astype(np.int32),
        subjects=np.array([f"p{i % 20}" for i in range(200)]),
        t_us=np.arange(200, dtype=np.int64),
        feature_names=tuple("abcd"),
    )
    module = types.ModuleType("rows_to_try")
    module.examples = lambda _home, _task: own
    monkeypatch.setitem(sys.modules, "rows_to_try", module)
    learner = LearnerSettings(hidden=(), epochs=3, learning_rate=0.5)
    settings = TrainingSettings(task="t", learner=learner, score=ScoreSettings(), examples_min=1, features="f", classes=2)
    model = encode_model(make_learner(learner, 4, 2).initial(0))
    work = (Source("rows_to_try:examples", "", "e"), "train", encode_training(settings), model, 1)
    told = Worker().run(Work(*work, study="s", tried=True)).metrics
    assert told[AFTER] < told[BEFORE]
    assert not {AFTER, BEFORE} & set(Worker().run(Work(*work, study="s")).metrics)
