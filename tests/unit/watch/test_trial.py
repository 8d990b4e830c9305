"""The admission trial: who joins late is looked at before it counts."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.learn import triage
from wardround.learn.models import MemoryTensors
from wardround.watch.detectors.screens import Screens
from wardround.watch.detectors.trial import DIRECTION, FOUNDING_ROUNDS, JURY_MIN, NOISE, ON_TRIAL, Trial
from wardround.watch.detectors.updates import DIMENSIONS, Sketched, unit

SIZE, UPDATES = 1000, 6
FOUNDERS = [f"e{i}" for i in range(9)]
LATER = FOUNDING_ROUNDS + 3  # a round with a jury


def sketched(vector):
    return Sketched(unit(vector), float(np.linalg.norm(vector)), SIZE)


class Study:
    """Edges with data of their own, and something in common while `goes` is above 0."""

    def __init__(self, seed=0, goes=1.0):
        self.rng, self.goes = np.random.default_rng(seed), goes
        self.common = self.rng.normal(size=DIMENSIONS)
        self.own = {}

    def honest(self, edge):
        own = self.own.setdefault(edge, self.rng.normal(size=DIMENSIONS))
        return self.goes * self.common + own + 0.7 * self.rng.normal(size=DIMENSIONS)

    def flipped(self, edge):
        return -self.honest(edge)

    def noise(self, _edge):
        return 1.5 * self.rng.normal(size=DIMENSIONS)

    def round(self, **others):
        """Everybody's updates: the founders', and of each other one what it makes."""
        return {e: sketched(self.honest(e)) for e in FOUNDERS} | {e: sketched(make(e)) for e, make in others.items()}


def tried(trial, study, make, rounds=UPDATES, name="new"):
    """What is said of an edge that joins in round LATER."""
    for number in range(1, LATER):
        assert trial.judge(number, study.round()) == {}
    return [trial.judge(number, study.round(**{name: make})).get(name) for number in range(LATER, LATER + rounds)]


@pytest.mark.parametrize("goes", [1.0, 0.0], ids=["while training goes somewhere", "at its end"])
@pytest.mark.parametrize("seed", range(4))
def test_an_honest_edge_that_joins_late_weighs_nothing_at_first_and_is_then_admitted(seed, goes):
    study, trial = Study(seed, goes), Trial(UPDATES)
    said = tried(trial, study, study.honest, rounds=UPDATES + 3)
    assert [(v.reason, v.score, v.threshold) for v in said[:UPDATES]] == [(ON_TRIAL, k, UPDATES) for k in range(1, UPDATES + 1)]
    assert not any(v.accepted for v in said[:UPDATES])
    assert said[UPDATES:] == [None] * 3


@pytest.mark.parametrize(
    ("fault", "goes", "reasons"),
    [("flipped", 1.0, {DIRECTION}), ("noise", 1.0, {NOISE, DIRECTION}), ("noise", 0.0, {NOISE})],
)
@pytest.mark.parametrize("seed", range(4))
def test_who_does_not_fit_is_refused_by_name_and_tried_again(fault, goes, reasons, seed):
    study, trial = Study(seed, goes), Trial(UPDATES)
    said = tried(trial, study, getattr(study, fault), rounds=2 * UPDATES)
    assert {v.reason for k, v in enumerate(said, start=1) if k % UPDATES} == {ON_TRIAL}
    ends = [said[UPDATES - 1], said[-1]]
    assert {v.reason for v in ends} <= reasons
    assert all(v.score > v.threshold for v in ends)
    assert not any(v.accepted for v in said)
    assert trial.judge(99, study.round(new=study.honest))["new"].reason == ON_TRIAL


def test_at_the_end_of_training_a_wrong_sign_cannot_be_told_from_another_ward():
    study, trial = Study(goes=0.0), Trial(UPDATES)
    said = tried(trial, study, study.flipped, rounds=UPDATES + 1)
    assert said[-1] is None  # admitted: docs/alerts.md says so


def test_the_first_rounds_have_no_jury_and_who_comes_in_them_counts():
    study, trial = Study(), Trial(UPDATES)
    for number in range(1, FOUNDING_ROUNDS + 1):
        assert trial.judge(number, study.round(**{f"n{number}": study.honest})) == {}
    assert set(trial.judge(FOUNDING_ROUNDS + 1, study.round(n1=study.honest, n9=study.honest))) == {"n9"}


def test_where_most_of_a_round_are_new_there_is_no_jury_either():
    study, trial = Study(), Trial(UPDATES)
    for number in range(1, LATER):
        trial.judge(number, study.round())
    crowd = {f"n{i}": study.honest for i in range(len(FOUNDERS))}
    assert trial.judge(LATER, study.round(**crowd)) == {}


def test_with_too_few_jurors_in_a_round_a_trial_waits():
    study, trial = Study(), Trial(UPDATES)
    tried(trial, study, study.honest, rounds=2)
    few = {e: u for e, u in study.round(new=study.honest).items() if e in (*FOUNDERS[: JURY_MIN - 1], "new")}
    assert trial.judge(50, few)["new"].score == 2
    assert trial.judge(51, study.round(new=study.honest))["new"].score == 3


def test_a_round_that_is_judged_again_and_an_update_that_a_screen_refused_are_no_further_steps():
    study, trial = Study(), Trial(UPDATES)
    tried(trial, study, study.honest, rounds=2)
    updates = study.round(new=study.honest)
    assert [trial.judge(60, updates)["new"].score for _ in range(2)] == [3, 3]
    assert trial.judge(61, study.round(new=study.honest), refused={"new"})["new"].score == 3


def test_a_person_admits_and_a_restart_forgets_nothing():
    study, trial = Study(), Trial(UPDATES)
    tried(trial, study, study.noise, rounds=3)
    again = Trial(UPDATES)
    again.restore(trial.state())
    updates = study.round(new=study.noise)
    assert again.judge(70, updates) == trial.judge(70, updates)
    again.admit("new")
    third = Trial(UPDATES)
    third.restore(again.state())
    assert third.judge(71, study.round(new=study.noise)) == {}


def test_a_study_without_a_trial_tries_nobody_and_one_that_gets_it_takes_those_who_are_there():
    study, off = Study(), Screens("s")
    for number in range(1, 12):
        off.judge_round(number, {e: MemoryTensors({"w": u.direction}) for e, u in study.round().items()})
    on = Screens("s", trial_rounds=UPDATES)
    on.restore(off.state())
    verdicts = on.judge_round(12, {e: MemoryTensors({"w": u.direction}) for e, u in study.round().items()})
    assert not any(v.reason == ON_TRIAL for v in verdicts.values())


def test_coordinator_and_trial_mean_the_same_reason():
    assert triage.ON_TRIAL == ON_TRIAL
