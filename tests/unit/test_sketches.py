"""Sketches add up in any order, are true to within a bin, and show drift where there is some."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.sketches import distance, merge, sketch, stability_index

numbers = st.lists(st.floats(-50, 350, allow_nan=False), max_size=60).map(lambda v: np.array(v, np.float64))


@given(numbers, numbers, numbers)
def test_sketches_add_up_in_any_order(a, b, c):
    one, two, three = (sketch(v, 20.0, 300.0) for v in (a, b, c))
    whole = sketch(np.concatenate([a, b, c]), 20.0, 300.0)
    for found in (merge(merge(one, two), three), merge(one, merge(three, two))):
        assert (found.counts == whole.counts).all()
        assert (found.n, found.missing) == (whole.n, whole.missing)
        assert found.total == pytest.approx(whole.total)


def test_quantiles_are_within_a_bin():
    values = np.random.default_rng(4).normal(80, 12, 10_000)
    s = sketch(np.append(values, np.nan), 20.0, 300.0)
    assert (s.n, s.missing) == (10_000, 1)
    assert s.mean == pytest.approx(values.mean())
    for share in (0.05, 0.5, 0.95):
        assert abs(s.quantile(share) - np.quantile(values, share)) < s.width


def test_drift_shows_and_its_absence_does_not():
    rng = np.random.default_rng(5)
    usual, same, other = (sketch(rng.normal(m, 10, 20_000), 20.0, 300.0) for m in (80, 80, 100))
    assert stability_index(usual, same) < 0.01
    # between two normal distributions it is, in the limit, the square of the distance of their means in deviations: 4
    assert stability_index(usual, other) == pytest.approx(4.0, rel=0.1)
    assert distance(usual, other) == pytest.approx(0.6827, abs=0.02)  # 2 * Phi(1) - 1
    assert distance(usual, same) < 0.03


def test_other_bins_do_not_mix():
    with pytest.raises(ValueError, match="other bins"):
        merge(sketch(np.ones(1), 0, 2), sketch(np.ones(1), 0, 3))
    with pytest.raises(ValueError, match="range"):
        sketch(np.ones(1), 2, 2)
