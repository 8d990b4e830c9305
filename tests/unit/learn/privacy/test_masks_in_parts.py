"""Masked vectors added on their way to the hub, as decision 11 would have it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.learn.privacy.masked_rounds import Round, names

from wardround.learn.privacy.ring import add_vector


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 12), st.sampled_from([1, 8]), st.data())
def test_masked_vectors_may_be_added_in_any_parts(n, limbs, data):
    """What decision 11 stands on: sums of some survivors, added up, open as their single vectors do."""
    edges = names(n)
    own = Round(edges)
    own.meet()
    own.deal()
    chance = np.random.default_rng(n)
    given_ = {e: chance.integers(0, 2**32, 3 * limbs, np.uint32) for e in edges}
    own.mask(given_, limbs)
    part_of = {e: data.draw(st.integers(0, 3)) for e in edges}
    parts = [np.zeros(3 * limbs, np.uint32) for _ in range(4)]
    expected = np.zeros(3 * limbs, np.uint32)
    for edge in edges:
        add_vector(parts[part_of[edge]], own.masked[edge], limbs=limbs)
        add_vector(expected, given_[edge], limbs=limbs)
    own.agree(edges)
    own.open(edges)
    total = np.zeros(3 * limbs, np.uint32)
    for part in parts:
        add_vector(total, part, limbs=limbs)
    own.hub.unmask(total, limbs=limbs)
    np.testing.assert_array_equal(total, expected)
