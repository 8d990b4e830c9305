"""The norm of an update, whatever the size of its numbers: float32 is used where it loses nothing that counts."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.errors import UpdateRefused
from wardround.learn.models import MemoryTensors
from wardround.learn.study import TriageSettings
from wardround.learn.triage import check_update


def norm(values):
    tensors = MemoryTensors({"w": values})
    return check_update(tensors, MemoryTensors({"w": np.zeros_like(values)}), ["w"], [], TriageSettings())


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-12, 1e-3, 1.0, 1e12, 1e18, 1e19, 3e37])
@pytest.mark.parametrize("n", [1, 10, 8_192, 200_000])
def test_the_norm_is_that_of_float64(scale, n):
    values = (np.random.default_rng(n).standard_normal(n) * scale).astype(np.float32)
    assert norm(values) == pytest.approx(float(np.linalg.norm(values.astype(np.float64))), rel=2e-6)


def test_small_numbers_beside_large_ones_and_zeros_have_their_norm():
    values = np.zeros(30_000, np.float32)
    assert norm(values) == 0.0
    values[::3], values[1::3] = 1e-25, 2e18
    assert norm(values) == pytest.approx(2e18 * 100, rel=2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 8_191, 100_000])
def test_one_number_that_is_not_finite_is_found(bad, at):
    values = np.ones(100_001, np.float32)
    values[at] = bad
    with pytest.raises(UpdateRefused) as refused:
        norm(values)
    assert refused.value.reason == "not-finite"
