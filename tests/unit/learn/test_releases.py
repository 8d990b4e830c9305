"""Which model predicts: gates, ring, trial, promotion, going back; and whether probabilities mean what they say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from wardround.errors import StudyError
from wardround.learn.calibration import brier, calibrate, ece, fit_temperature, scaled
from wardround.learn.releases import Entry, Measured, Stage, at, decide, find, gates, gone_back, in_use, previous, promoted, ring
from wardround.learn.study import ReleaseSettings

SETTINGS = ReleaseSettings()
GOOD = Measured(score=0.9, worst_edge="b", worst=0.8, examples=100, ece=0.05, brier=0.2)


class Registry:
    """Entries, and a hub that lets them move."""

    def __init__(self, settings=SETTINGS):
        self.settings, self.entries, self.measured, self.newest, self.reasons = settings, [], {}, 0, []

    def round(self, measured=GOOD, *, ring_holds=True, finished=False):
        self.newest += 1
        self.entries.append(Entry(self.newest, f"m{self.newest}", Stage.CANDIDATE, self.newest))
        if measured is not None:
            self.measured[f"m{self.newest}"] = measured
        return self.look(ring_holds=ring_holds, finished=finished)

    def look(self, *, ring_holds=True, finished=False):
        moves = decide(self.settings, self.entries, self.measured, newest=self.newest, finished=finished, ring_holds=ring_holds)
        self.apply(moves)
        return {m.number: m.stage for m in moves}

    def apply(self, moves):
        stages = {m.number: m.stage for m in moves}
        self.reasons += [m.reason for m in moves]
        self.entries = [
            replace(e, stage=stages[e.number], since_round=self.newest) if e.number in stages else e for e in self.entries
        ]

    def stand(self, stage):
        found = at(self.entries, stage)
        return None if found is None else found.number


def test_the_first_good_model_is_current_at_once_and_the_next_are_tried_on_a_ring():
    registry = Registry()
    assert registry.round() == {1: Stage.CURRENT}
    assert registry.round() == {2: Stage.CANARY}
    assert registry.round() == {}
    assert registry.round() == {}
    assert registry.round() == {2: Stage.CURRENT, 1: Stage.RETIRED}  # three rounds later
    assert registry.round() == {6: Stage.CANARY}


def test_a_canary_waits_for_an_edge_that_holds_it_and_for_no_round_when_there_is_none_to_come():
    registry = Registry()
    registry.round()
    registry.round()
    for _ in range(5):
        assert registry.round(ring_holds=False) == {}
    assert registry.look() == {2: Stage.CURRENT, 1: Stage.RETIRED}
    assert registry.look() == {7: Stage.CANARY}
    assert registry.look(finished=True) == {7: Stage.CURRENT, 2: Stage.RETIRED}
    assert registry.look(finished=True) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"score": 0.88}, "score 0.880 is more than 0.01 below"),
        ({"worst": 0.7, "worst_edge": "c"}, "worst edge (c) 0.700"),
        ({"ece": 0.09}, "calibration error 0.090"),
        ({"brier": 0.3}, "Brier score 0.300"),
        ({"examples": 3}, "3 held-back examples"),
        ({"score": math.nan}, "score nan"),
    ],
)
def test_each_gate_closes(change, said):
    registry = Registry()
    registry.round()
    assert registry.round(replace(GOOD, **change)) == {2: Stage.CANDIDATE}
    assert said in registry.reasons[-1]
    assert registry.round() == {3: Stage.CANARY}


def test_margins_are_not_worse_than_they_say():
    near = replace(GOOD, score=0.891, worst=0.751, ece=0.079, brier=0.219)
    assert gates(SETTINGS, near, GOOD) == ()
    assert gates(ReleaseSettings(score_min=0.95), GOOD, None) == ("score 0.900 is below 0.950",)
    assert gates(SETTINGS, GOOD, replace(GOOD, worst=math.nan)) == ()


def test_a_canary_that_falls_behind_on_newer_examples_is_refused():
    registry = Registry()
    registry.round()
    registry.round()
    registry.measured["m2"] = replace(GOOD, score=0.5)
    assert registry.round() == {2: Stage.REFUSED}
    assert registry.stand(Stage.CURRENT) == 1


def test_nothing_is_judged_without_a_measure():
    registry = Registry()
    assert registry.round(None) == {}
    assert registry.round() == {2: Stage.CURRENT}
    del registry.measured["m2"]
    assert registry.round() == {}


def test_without_a_ring_or_a_hold_a_model_becomes_current_at_once():
    registry = Registry()
    registry.round()
    assert registry.round(ring_holds=None) == {2: Stage.CURRENT, 1: Stage.RETIRED}
    registry = Registry(ReleaseSettings(hold_rounds=0))
    registry.round()
    assert registry.round() == {2: Stage.CURRENT, 1: Stage.RETIRED}


def test_by_hand_alone():
    registry = Registry(ReleaseSettings(promotion="manual"))
    assert registry.round() == {}
    registry.apply(promoted(registry.entries, 1, Stage.CURRENT, "by hand"))
    assert registry.round() == {}
    registry.apply(promoted(registry.entries, 2, Stage.CANARY, "by hand"))
    assert registry.round(finished=True) == {}
    registry.apply(promoted(registry.entries, 2, Stage.CURRENT, "by hand"))
    assert (registry.stand(Stage.CURRENT), registry.stand(Stage.RETIRED)) == (2, 1)
    with pytest.raises(StudyError, match="is current already"):
        promoted(registry.entries, 2, Stage.CURRENT, "")
    with pytest.raises(StudyError, match="no model of round 9"):
        promoted(registry.entries, 9, Stage.CURRENT, "")


def test_going_back_and_going_back_on_it():
    registry = Registry(ReleaseSettings(hold_rounds=0))
    for _ in range(4):
        registry.round()
    assert (registry.stand(Stage.CURRENT), previous(registry.entries).number) == (4, 3)
    assert in_use(registry.entries) == {"m4", "m3"}
    registry.apply(gone_back(registry.entries, 2, "worse"))
    assert [e.stage for e in registry.entries] == ["retired", "current", "retired", "rolled-back"]
    assert previous(registry.entries).number == 1
    assert gone_back(registry.entries, 2, "worse") == []
    registry.apply(gone_back(registry.entries, 4, "not worse after all"))
    assert (registry.stand(Stage.CURRENT), previous(registry.entries).number) == (4, 3)


def test_a_refused_canary_is_no_good_model_to_go_back_to():
    registry = Registry()
    registry.round()
    registry.round()
    registry.measured["m2"] = replace(GOOD, score=0.5)
    registry.round()
    assert previous(registry.entries) is None


def test_the_ring_is_a_share_of_the_edges_and_the_same_one():
    edges = [f"edge-{i}" for i in range(20)]
    assert len(ring("s", edges, 0.2)) == 4
    assert ring("s", edges, 0.2) == ring("s", list(reversed(edges)), 0.2) <= ring("s", edges, 0.5)
    assert len(ring("s", edges[:2], 0.01)) == 1
    assert ring("s", edges, 0.0) == ring("s", [], 0.5) == frozenset()


def test_a_model_is_found_by_what_people_type():
    entries = [Entry(1, "aa1", Stage.RETIRED, 1), Entry(2, "ab2", Stage.CURRENT, 2), Entry(12, "cd3", Stage.CANDIDATE, 12)]
    assert [find(entries, t).number for t in ("current", "previous", "12", "cd", "aa")] == [2, 1, 12, 12, 1]
    for text, said in (("a", "2 models"), ("zz", "no models"), ("canary", "no model is canary"), ("", "no models")):
        with pytest.raises(StudyError, match=said):
            find(entries, text)


def sure_of_itself(n=4_000, temperature=2.5, seed=0):
    """Labels drawn from true probabilities, and a model that is `temperature` times too sure of them."""
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet([0.7] * 3, n)
    labels = np.array([rng.choice(3, p=p) for p in truth], np.int32)
    subjects = np.array([f"s{i % 10}" for i in range(n)])
    return labels, scaled(truth, 1 / temperature), subjects, truth


def test_temperature_scaling_finds_how_much_too_sure_a_model_is():
    labels, too_sure, subjects, truth = sure_of_itself()
    assert fit_temperature(labels, too_sure) == pytest.approx(2.5, rel=0.1)
    assert fit_temperature(labels, truth) == pytest.approx(1.0, rel=0.1)
    found = calibrate(labels, too_sure, subjects)
    assert found.ece > 0.15
    assert found.ece_scaled < 0.03
    assert calibrate(labels, too_sure, np.array(["one"] * len(labels))).ece_scaled is None


def test_the_measures_by_hand():
    labels = np.array([0, 1, 1, 0], np.int32)
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    assert brier(labels, probabilities) == pytest.approx((0.02 + 1.62 + 0.08 + 0.72) / 4)
    assert ece(labels, probabilities) == pytest.approx((abs(1 - 1.8) + abs(1 - 0.8) + abs(0 - 0.6)) / 4)
    assert ece(labels, np.eye(2)[labels]) == 0.0
    np.testing.assert_allclose(scaled(probabilities, 1.0), probabilities)
