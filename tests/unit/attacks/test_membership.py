"""Membership is told where a model learns by heart, not where there is nothing to tell, and masks do not change that."""

from __future__ import annotations

from statistics import median

import numpy as np
import pytest

from wardround.attacks.measures import auc
from wardround.attacks.membership import halves, infer_membership, likelihood_ratios
from wardround.errors import StudyError


def inferred(target, mode="clear", unit="example", models=6):
    *steps, found = infer_membership(target, mode, unit=unit, models=models, seed=1)
    assert steps == [None] * models
    return found


def test_halves_are_pairs_and_even_odds_give_no_answer():
    inside = halves(8, 5000, 2)
    assert (inside[::2] != inside[1::2]).all()
    assert abs(inside.mean(axis=1) - 0.5).max() < 0.05
    confident = np.random.default_rng(3).normal(size=(8, 5000))
    assert abs(auc(likelihood_ratios(confident, inside), inside) - 0.5) < 0.02  # four standard errors
    assert auc(likelihood_ratios(confident + 2.0 * inside, inside), inside) > 0.85


@pytest.mark.parametrize("mode", ["clear", "blind"])
def test_what_is_learnt_by_heart_is_told_in_every_mode_that_only_hides_updates(by_heart, mode):
    found = inferred(by_heart, mode)
    assert found.units == 80
    assert found.train_score > 0.95 > 0.7 > found.other_score
    assert found.loss_auc.low > 0.7
    assert found.lira_auc.low > 0.7
    assert found.lira_auc.beyond_chance


def test_noise_that_hides_an_edge_hides_its_examples_too(by_heart):
    found = [inferred(by_heart, "clear-dp") for _ in range(5)]  # the noise has no seed: one run's area varies by 0.025
    assert median(f.loss_auc.value for f in found) < 0.65
    assert median(f.lira_auc.value for f in found) < 0.7
    assert median(f.train_score for f in found) < 0.8  # four edges: what hides one of them hides everything


def test_patients_are_units_of_all_their_examples(by_heart):
    found = inferred(by_heart, unit="patient")
    assert found.units == 20
    assert found.loss_auc.value > 0.8


def test_a_model_that_does_not_remember_gives_little_away(wards):
    found = inferred(wards)
    assert found.loss_auc.value < 0.6
    assert found.lira_auc.value < 0.65


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": 7}, "no number of models"),
        ({"models": 4}, "no number of models"),
        ({"unit": "ward"}, "no unit"),
        ({"mode": "secret"}, "no mode"),
    ],
)
def test_what_cannot_be_tried_is_refused_with_words(wards, change, said):
    with pytest.raises(StudyError, match=said):
        next(infer_membership(wards, **{"mode": "clear", "unit": "example", "models": 6, "seed": 0, **change}))
