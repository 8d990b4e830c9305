"""One patient is one clipped term of an edge's update, whoever the others are."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.errors import LearnError
from wardround.learn import by_patient
from wardround.learn.by_patient import train_by_patient
from wardround.learn.learners import make_learner
from wardround.learn.privacy.central import BY_PATIENT
from wardround.learn.study import LearnerSettings, LocalRule
from wardround.records import Examples

FEATURES, CLASSES = 5, 3


def examples(patients: int, rows: int = 4, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    n = patients * rows
    return Examples(
        features=rng.normal(size=(n, FEATURES)).astype(np.float32),
        labels=rng.integers(0, CLASSES, n).astype(np.int32),
        subjects=np.array([f"p{i % patients:03}" for i in range(n)]),
        t_us=np.arange(n, dtype=np.int64),
        feature_names=tuple(f"f{i}" for i in range(FEATURES)),
    )


def settings(kind: str = "mlp") -> LearnerSettings:
    return LearnerSettings(kind=kind, hidden=(4,) if kind == "mlp" else (), epochs=2, batch=3, learning_rate=0.1)


def trained(data: Examples, clip: float, kind: str = "mlp", rule: LocalRule = LocalRule()):  # noqa: B008
    own = settings(kind)
    learner = make_learner(own, FEATURES, CLASSES)
    base = learner.initial(0)
    return learner, base, train_by_patient(learner, own, rule, base, data, clip=clip, round_number=1)


def flat(update) -> np.ndarray:
    return np.concatenate([np.asarray(update[n], float).ravel() for n in sorted(update)])


@pytest.mark.parametrize("kind", ["mlp", "sklearn"])
def test_it_is_the_sum_of_what_each_patient_gives_alone(kind):
    data = examples(6)
    learner, base, local = trained(data, 0.05, kind)
    wanted = 0.0
    for patient in np.unique(data.subjects):
        alone = flat(learner.train(base, data.where(data.subjects == patient), seed=0, round=1).update)
        norm = np.linalg.norm(alone)
        assert norm > 0.05  # so that the clip is at work
        wanted = wanted + alone * 0.05 * BY_PATIENT / norm
    assert flat(local.update) == pytest.approx(wanted, rel=1e-4, abs=1e-7)
    assert local.metrics == {"patients": 6.0}
    assert local.examples == 24
    assert not local.kept


def test_one_patient_more_moves_it_by_no_more_than_the_clip():
    data = examples(6)
    everybody = flat(trained(data, 0.03)[2].update)
    for patient in np.unique(data.subjects):
        others = flat(trained(data.where(data.subjects != patient), 0.03)[2].update)
        moved = np.linalg.norm(everybody - others)
        assert 0.02 < moved <= 0.03


def test_a_patient_with_many_rows_moves_it_no_more_than_one_with_few():
    few = examples(1, rows=2)
    many = examples(1, rows=200)
    for data in (few, many):
        assert np.linalg.norm(flat(trained(data, 0.01, "sklearn")[2].update)) <= 0.01


def test_in_parts_it_is_the_same(monkeypatch):
    whole = flat(trained(examples(6), 0.05)[2].update)
    monkeypatch.setattr(by_patient, "TOGETHER_BYTES", 600)
    assert flat(trained(examples(6), 0.05)[2].update) == pytest.approx(whole, rel=1e-5, abs=1e-8)


def test_a_patient_whose_training_diverges_takes_nobody_along():
    class Breaks:
        def __init__(self, learner):
            self._learner = learner

        def train(self, base, own, **how):
            if own.subjects[0] == "p001":
                raise LearnError("diverged", remedy="")
            made = self._learner.train(base, own, **how)
            if own.subjects[0] == "p002":
                made.update[min(made.update)][...] = np.nan
            return made

    data, own = examples(4), settings("sklearn")
    learner = make_learner(own, FEATURES, CLASSES)
    base = learner.initial(0)
    sound = data.where((data.subjects != "p001") & (data.subjects != "p002"))
    found = train_by_patient(Breaks(learner), own, LocalRule(), base, data, clip=0.05, round_number=1)
    wanted = train_by_patient(learner, own, LocalRule(), base, sound, clip=0.05, round_number=1)
    assert flat(found.update) == pytest.approx(flat(wanted.update), rel=1e-4, abs=1e-7)
    assert found.metrics["patients"] == 4


def test_a_pull_is_felt():
    free = flat(trained(examples(6), 10.0)[2].update)
    pulled = flat(trained(examples(6), 10.0, rule=LocalRule(proximal=5.0))[2].update)
    assert np.linalg.norm(pulled) < np.linalg.norm(free)


def test_nobody_and_too_many_are_refused(monkeypatch):
    data = examples(3)
    with pytest.raises(LearnError, match="0 patients"):
        trained(data.where(data.labels > 99), 1.0)
    monkeypatch.setattr(by_patient, "PATIENTS_MAX", 2)
    with pytest.raises(LearnError, match="3 patients"):
        trained(data, 1.0)
