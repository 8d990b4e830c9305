"""Noise under masks: the sum of what edges send has as much as was reckoned, when no more are left than must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import LearnError, StudyError, UpdateRefused
from wardround.learn.messages import Done
from wardround.learn.models import MemoryTensors, encode_model
from wardround.learn.privacy import distributed
from wardround.learn.privacy.distributed import decode, encode, levels
from wardround.learn.privacy.graph import plan
from wardround.learn.privacy.modes import MaskSettings, PrivacySettings
from wardround.learn.privacy.rehearsed import mean_of_sum
from wardround.learn.privacy.vectors import mean_of, vector_of
from wardround.learn.privacy.wire import MasksRefused

NOISY = 100_000


def summed(vectors) -> np.ndarray:
    return np.sum(np.stack(vectors), axis=0, dtype=np.uint32)


def base(size: int) -> MemoryTensors:
    return MemoryTensors({"w": np.zeros(size, np.float32)})


@pytest.mark.parametrize(("edges", "left"), [(5, 4), (12, 9), (40, 27)])
def test_the_least_that_may_be_left_carry_the_whole_noise(edges, left):
    """100,000 values: the deviation is z times the clip over those expected, within 6.2 standard errors (1e-9)."""
    assert left == plan(edges).quorum
    made = [encode([np.zeros(NOISY)], clip_norm=0.5, noise=3.0, edges=edges)[0] for _ in range(left)]
    mean, came = decode(summed(made), clip_norm=0.5, noise=3.0, edges=edges, expected=10.0, base=base(NOISY), names=["w"])
    assert came == left
    assert abs(mean["w"].std() / (3.0 * 0.5 / 10) - 1) < 6.2 / math.sqrt(2 * NOISY)
    assert abs(mean["w"].mean()) < 6.2 * 0.15 / math.sqrt(NOISY)


def test_one_vector_alone_has_its_part_of_the_noise():
    words, _ = encode([np.zeros(NOISY)], clip_norm=1.0, noise=4.0, edges=12)
    part = words[1:].view(np.int32).std() / levels(12, 4.0)
    assert part == pytest.approx(4.0 / math.sqrt(9), rel=0.02)


@given(
    st.lists(st.floats(-(2.0**40), 2.0**40, width=32), min_size=1, max_size=30),
    st.floats(1e-4, 1e4),
    st.integers(3, 200),
)
def test_no_update_is_longer_than_the_clip(values, clip, edges):
    drawn = distributed.discrete_gaussian
    distributed.discrete_gaussian = lambda _sigma, size: np.zeros(size, np.int64)
    try:
        words, shrunk = encode([np.asarray(values, np.float32)], clip_norm=clip, noise=1.0, edges=edges)
    finally:
        distributed.discrete_gaussian = drawn
    assert words[0] == 1
    assert sum(int(v) ** 2 for v in words[1:].view(np.int32)) <= levels(edges, 1.0) ** 2
    assert shrunk <= 1.0


@pytest.mark.parametrize("edges", [3, 30, 300, 3_000])
@pytest.mark.parametrize("noise", [0.5, 4.0, 100.0])
def test_no_sum_wraps(edges, noise):
    """Every edge with all its length in one value, and ten deviations of the noise of them all."""
    whole = edges * levels(edges, noise) + 10 * noise * levels(edges, noise) * math.sqrt(edges / plan(edges).quorum)
    assert whole < 2**31


def test_noise_beyond_the_ring_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        levels(3, 1e9)


def test_the_mean_of_what_edges_send_is_the_clipped_mean(monkeypatch):
    monkeypatch.setattr(distributed, "discrete_gaussian", lambda _sigma, size: np.zeros(size, np.int64))
    settings = MaskSettings(0.0, 1, 3, b"", 0, 2.0, 1.0, 4.0)
    updates = [{"b": np.full(2, 0.1 * i, np.float32), "a": np.array([[3.0, -4.0]], np.float32)} for i in range(4)]
    words = [vector_of(Done(encode_model(u), 70 + i), "train", settings, 5)[0] for i, u in enumerate(updates)]
    model = MemoryTensors({"b": np.zeros(2, np.float32), "a": np.zeros((1, 2), np.float32)})
    mean, came = mean_of(summed(words), settings, 5, model, ["a", "b"])
    scales = [2.0 / math.sqrt(25 + 2 * (0.1 * i) ** 2) for i in range(4)]
    assert came == 4
    assert mean["a"] == pytest.approx(np.array([[3.0, -4.0]]) * sum(scales) / 4, abs=1e-6)
    assert mean["b"] == pytest.approx(np.full(2, sum(0.1 * i * s for i, s in enumerate(scales)) / 4), abs=1e-6)


def test_a_sum_of_too_few_is_no_sum():
    settings = MaskSettings(0.0, 1, 3, b"", 0, 1.0, 1.0, 4.0)
    words = [encode([np.zeros(4)], clip_norm=1.0, noise=1.0, edges=6)[0] for _ in range(4)]  # five must be left
    with pytest.raises(MasksRefused, match="4 edges"):
        mean_of(summed(words), settings, 6, base(4), ["w"])
    privacy = PrivacySettings(mode="blind-dp", population=6)
    with pytest.raises(UpdateRefused):
        mean_of_sum([(base(4), 1)] * 4, privacy, 6, base(4), ["w"])


def test_an_edge_that_knows_of_no_noise_masks_nothing():
    """An older one reads the old fields alone; with them no update fits the ring."""
    with pytest.raises(LearnError, match="cannot be masked"):
        vector_of(Done(encode_model({"w": np.ones(3, np.float32)}), 5), "train", MaskSettings(0.0, 1, 3, b""), 5)


def test_what_is_not_finite_is_not_masked():
    with pytest.raises(ValueError, match="NaN"):
        encode([np.array([np.nan])], clip_norm=1.0, noise=1.0, edges=5)


def test_masks_have_no_place_for_lots_and_quantiles():
    from tests.unit.learn.privacy.test_dp_checks import checked

    assert checked(privacy='mode = "blind-dp"').privacy.has_budget
    for own, said in (
        ('sampling = "fixed"\nsample = 0.5', "sampling"),
        ("clip_quantile = 0.5", "clip_quantile"),
        ("population = 2", "population"),
    ):
        with pytest.raises(StudyError, match=said):
            checked(privacy=f'mode = "blind-dp"\n{own}')
    with pytest.raises(StudyError, match=r"privacy\.unit"):
        checked(privacy='mode = "blind-dp"\nunit = "patient"', rounds="examples_min = 1")
