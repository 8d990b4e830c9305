"""How a signal was cut into messages makes no difference; what is missing stays missing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.process.transforms.alignment import Series, align, at_rate, by_subject, join
from wardround.records import Observation, Quality, Validity

T0 = 1_700_000_000_000_000
RATE = 360.0
PERIOD = 1e6 / RATE


def run(counts, t0_us=T0, period_us=PERIOD, **more) -> Observation:
    values = np.asarray(counts, "<i2")
    given_ = {"subject": "s", "device": "d", "edge": "e", "code": "mdc:131330", "unit": "mV", **more}
    return Observation(t0_us=t0_us, t0_device_us=t0_us, n=len(values), period_us=period_us, values=values.tobytes(), **given_)


def cut(counts, at, period_us=PERIOD, **more) -> list[Observation]:
    bounds = [0, *sorted(at), len(counts)]
    return [run(counts[a:b], T0 + round(a * period_us), period_us, **more) for a, b in itertools.pairwise(bounds) if b > a]


@given(at=st.sets(st.integers(1, 999), max_size=30), seed=st.integers(0, 2**16))
def test_any_cut_in_any_order_gives_the_same_series(at, seed):
    counts = np.arange(1000) % 251
    chunks = cut(counts, at)
    np.random.default_rng(seed).shuffle(chunks)
    (series,) = join(chunks)
    np.testing.assert_array_equal(series.values, counts)
    np.testing.assert_array_equal(series.times_us(), join([run(counts)])[0].times_us())


def test_a_missing_message_is_a_gap():
    chunks = cut(np.arange(900), {300, 600})
    first, last = join([chunks[0], chunks[2]])
    assert (len(first.values), len(last.values)) == (300, 300)
    assert last.times_us()[0] == chunks[2].t0_us


def test_a_message_that_came_twice_counts_once():
    chunks = cut(np.arange(900), {300, 600})
    (series,) = join([*chunks, chunks[1], run(np.arange(300, 450), chunks[1].t0_us)])
    np.testing.assert_array_equal(series.values, np.arange(900))


def test_an_overlap_adds_only_what_is_new():
    (series,) = join([run(np.arange(300)), run(np.arange(200, 500), T0 + round(200 * PERIOD))])
    np.testing.assert_array_equal(series.values, np.arange(500))


@pytest.mark.parametrize(
    "bad",
    [
        {"validity": Validity.INVALID},
        {"flags": int(Quality.LEAD_OFF)},
        {"scale": float("inf")},
        {"validity": Validity.CALIBRATING},
    ],
)
def test_samples_that_cannot_be_used_are_a_gap(bad):
    chunks = cut(np.arange(900), {300, 600})
    spoiled = run(np.arange(300, 600), chunks[1].t0_us, **bad)
    assert [len(s.values) for s in join([chunks[0], spoiled, chunks[2]])] == [300, 300]


@pytest.mark.parametrize("more", [{"period_us": 0.0}, {"period_us": float("nan")}, {"period_us": -1.0}])
def test_a_run_with_an_impossible_period_is_left_out(more):
    assert join([run(np.arange(10), **more)]) == []


def test_a_run_that_is_not_what_it_says_is_left_out():
    good = run(np.arange(10))
    for broken in (
        Observation(**{**_fields(good), "n": 11}),
        Observation(**{**_fields(good), "values": good.values[:-1]}),
        Observation(**{**_fields(good), "offsets_us": b"\0\0"}),
    ):
        assert join([broken]) == []


def test_a_slow_clock_moves_the_times_and_cuts_nothing():
    """A device that loses 100 us in every second drifts by 60 ms in ten minutes; its stamps are corrected at the edge."""
    seconds = 600
    chunks = [run(np.zeros(360), T0 + round(i * 1e6 * 1.0001)) for i in range(seconds)]
    (series,) = join(chunks)
    true_us = T0 + np.arange(seconds * 360) * PERIOD * 1.0001
    assert np.abs(series.times_us() - true_us).max() < 4_000


def test_single_samples_become_a_series_at_their_own_rate():
    scalars = [
        Observation(subject="s", device="d", edge="e", code="c", unit="1", t0_us=T0 + i * 20_000, t0_device_us=0, value=float(i))
        for i in range(100)
    ]
    (series,) = join(scalars[::-1])
    assert series.rate_hz == pytest.approx(50.0)
    np.testing.assert_array_equal(series.values, np.arange(100.0))


def test_irregular_samples_are_put_on_a_grid_and_cut_at_a_pause():
    times = np.concatenate([np.arange(50) * 20_000, 3_000_000 + np.arange(50) * 20_000])
    jitter = np.random.default_rng(0).integers(-1_000, 1_000, 100)
    o = run(np.arange(100), offsets_us=(times + jitter).astype("<i4").tobytes(), period_us=None)
    first, second = join([o])
    assert (len(first.values), len(second.values)) == (50, 50)
    np.testing.assert_allclose(first.values, np.arange(50), atol=0.2)
    np.testing.assert_allclose(second.values, np.arange(50, 100), atol=0.2)


def test_subjects_are_kept_apart():
    grouped = by_subject([run([1]), run([2], subject="a"), run([3], subject="a", code="x")])
    assert {s: sorted(codes) for s, codes in grouped.items()} == {"a": ["mdc:131330", "x"], "s": ["mdc:131330"]}
    assert list(grouped) == ["a", "s"]


def test_resampling_keeps_a_tone_and_its_time():
    t = np.arange(3600) / 360
    tone = Series(np.sin(2 * np.pi * 5 * t), PERIOD, ((0, float(T0)),))
    (at_250,) = at_rate([tone], 250.0)
    assert at_250.rate_hz == pytest.approx(250.0)
    assert len(at_250.values) == 2500
    expected = np.sin(2 * np.pi * 5 * (at_250.times_us() - T0) / 1e6)
    np.testing.assert_allclose(at_250.values[50:-50], expected[50:-50], atol=2e-3)


def test_a_signal_sampled_too_slowly_is_left_out_rather_than_blown_up():
    assert at_rate([Series(np.zeros(10), 1e9, ((0, 0.0),))], 250.0) == []


def test_aligned_frames_are_where_every_signal_is():
    a = join(cut(np.arange(1000), {400}, 20_000.0))
    b = join([c for i, c in enumerate(cut(np.arange(1000) + 1, {300, 350, 700}, 20_000.0)) if i != 1])
    frames = align([a, b])
    assert [f.values.shape for f in frames] == [(2, 300), (2, 650)]
    for frame in frames:
        np.testing.assert_array_equal(frame.values[0] + 1, frame.values[1])
        np.testing.assert_array_equal(frame.t_us, T0 + frame.values[0] * 20_000)


def test_nothing_gives_nothing():
    assert join([]) == []
    assert align([[], join([run(np.arange(10))])]) == []


def _fields(o: Observation) -> dict[str, object]:
    return {name: getattr(o, name) for name in o.__struct_fields__}
