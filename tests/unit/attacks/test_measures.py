"""Numbers of an attack: right where the answer is known, with intervals that hold what they should."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.attacks.measures import auc, by_unit, mean, share, true_rate


def test_the_area_is_how_often_a_member_ranks_above_another():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.4
    yes, no = scores[truth], scores[~truth]
    pairs = [(a > b) + 0.5 * (a == b) for a in yes for b in no]
    assert auc(scores, truth) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(scores, np.ones(40, bool)))


def test_the_true_rate_is_counted_above_the_others_that_may_be_named():
    scores = np.arange(200.0)
    truth = scores % 2 == 1
    truth[199], truth[198], truth[197] = True, False, True
    assert true_rate(scores, truth, 0.01) == pytest.approx(
        2 / 100
    )  # one of 100 others may be named: 198, so 197 counts, 195 does not
    assert np.isnan(true_rate(scores, np.zeros(200, bool)))


def test_shares_have_the_interval_of_clopper_and_pearson():
    assert share(5, 10, 0.0)[:3] == pytest.approx((0.5, 0.1871, 0.8129), abs=1e-4)
    assert share(0, 10, 0.0)[:3] == pytest.approx((0.0, 0.0, 0.3085), abs=1e-4)
    assert share(10, 10, 0.0)[:3] == pytest.approx((1.0, 0.6915, 1.0), abs=1e-4)


def test_means_have_students_interval_and_one_value_has_none():
    assert mean(np.array([1.0, 2.0, 3.0]))[:3] == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert np.isnan(mean(np.array([1.0])).low)


def test_the_bootstrap_draws_units_not_scores():
    """The same score 50 times says no more than once: the interval must not shrink with the models."""
    rng = np.random.default_rng(1)
    one, truth = rng.normal(size=(1, 60)), rng.random((1, 60)) < 0.5
    few = by_unit(auc, one, truth, 0.5, 0)
    many = by_unit(auc, np.repeat(one, 50, axis=0), np.repeat(truth, 50, axis=0), 0.5, 0)
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=1e-6)
    assert few.low < few.value < few.high
