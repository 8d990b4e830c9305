"""Silver: aligned, resampled, gaps left empty, artefacts flagged, and the same however the data were cut and ordered."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.process.tables import clean_rows, rows_to_clean
from wardround.process.transforms.artefacts import artefacts, usable_share
from wardround.process.transforms.cleaning import CHUNK_FAST_US, clean
from wardround.process.work import Part, placed
from wardround.records import Observation, Quality

T0 = 1_700_006_400_000_000
SPAN = (T0, T0 + 3_600_000_000)


def runs(values, rate_hz, *, t0_us=T0, size=1000, code="mdc:131330", scale=0.001, left_out=()):
    counts = np.round(np.asarray(values) / scale).astype("<i4")
    out = []
    for k, first in enumerate(range(0, len(counts), size)):
        if k not in left_out:
            part = counts[first : first + size]
            common = {"subject": "s", "device": "d", "edge": "e", "unit": "mV", "t0_device_us": 0, "device_seq": k}
            t_us = t0_us + round(first * 1e6 / rate_hz)
            out.append(
                Observation(
                    **common,
                    code=code,
                    t0_us=t_us,
                    n=len(part),
                    period_us=1e6 / rate_hz,
                    values=part.tobytes(),
                    values_type="i4",
                    scale=scale,
                )
            )
    return out


def sine(rate_hz, seconds, t0_us=T0, hz=7.0):
    t = (t0_us - T0) / 1e6 + np.arange(round(rate_hz * seconds)) / rate_hz
    return np.sin(2 * np.pi * hz * t)


def test_a_signal_off_the_grid_comes_out_on_it():
    shifted = T0 + 1_234  # a third of a sample of 250 Hz
    chunks = list(clean(runs(sine(250, 90, shifted), 250.0, t0_us=shifted), *SPAN, ranges={}))
    assert [c.t0_us % CHUNK_FAST_US < 4_000 for c in chunks] == [True, True]
    times = np.concatenate([c.times_us for c in chunks])
    values = np.concatenate([c.values for c in chunks])
    there = np.isfinite(values)
    assert set(np.diff(times)) == {4_000}
    inner = slice(10, there.sum() - 10)
    expected = np.sin(2 * np.pi * 7.0 * (times[there] - T0) / 1e6)
    assert np.abs(values[there][inner] - expected[inner]).max() < 0.003  # the samples themselves are to 0.001
    assert (chunks[0].expected, chunks[0].period_us) == (15_000, 4_000.0)


def test_a_gap_stays_empty_and_a_rate_near_a_whole_number_is_that_number():
    chunks = list(clean(runs(sine(249.9, 120), 249.9, left_out=(5,)), *SPAN, ranges={}))
    values = np.concatenate([c.values for c in chunks])
    assert 990 <= np.isnan(values[: 250 * 110]).sum() <= 1_010
    assert chunks[0].period_us == 4_000.0


def test_neither_order_nor_repetition_nor_cut_makes_a_difference():
    whole = runs(sine(100, 130), 100.0)
    shuffled = [whole[i] for i in np.random.default_rng(1).permutation(len(whole))]
    for other in (shuffled, whole + whole[:5], runs(sine(100, 130), 100.0, size=333)):
        a, b = (list(clean(r, *SPAN, ranges={})) for r in (whole, other))
        assert len(a) == len(b) == 3
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x.values, y.values, atol=2e-3)
            np.testing.assert_array_equal(x.times_us, y.times_us)


def test_slow_values_keep_their_times_and_the_last_of_two_stays():
    at = [T0 + 60_000_000 * k for k in (0, 1, 1, 5)]
    common = {"subject": "s", "device": "d", "edge": "e", "unit": "/min", "code": "loinc:8867-4", "t0_device_us": 0}
    values = [Observation(**common, t0_us=t, value=80.0 + k, t_edge_us=k) for k, t in enumerate(at)]
    [chunk] = clean(values[::-1], *SPAN, ranges={"loinc:8867-4": (20.0, 81.5)})
    assert chunk.period_us == 0.0
    assert chunk.times_us.tolist() == [at[0], at[1], at[3]]
    assert chunk.values.tolist() == [80.0, 82.0, 83.0]
    assert chunk.flags.tolist() == [0, Quality.RANGE, Quality.RANGE]


def test_rows_of_silver_come_back_as_they_went():
    part = Part("s", T0, T0 + 4 * 3_600_000_000)
    chunks = list(clean(runs(sine(100, 70), 100.0), *SPAN, ranges={"mdc:131330": (-0.5, 0.5)}))
    rows = placed(clean_rows(chunks), "signals", "silver_signals", part)
    back = rows_to_clean(rows)
    assert len(back) == len(chunks) == 2
    for x, y in zip(chunks, back, strict=True):
        np.testing.assert_array_equal(x.values, y.values)
        np.testing.assert_array_equal(x.flags, y.flags)
        np.testing.assert_array_equal(x.times_us, y.times_us)
        assert (x.expected, x.code, x.unit) == (y.expected, y.code, y.unit)
    assert rows.column("good").to_pylist() == [int(c.good.sum()) for c in chunks]


def ecg(seconds=20, rate_hz=250):
    rng = np.random.default_rng(2)
    t = np.arange(seconds * rate_hz) / rate_hz
    return rng.normal(0, 0.01, len(t)) + np.exp(-np.square((t % 0.8 - 0.4) / 0.012) / 2)


def test_a_good_ecg_has_no_flag():
    assert usable_share(artefacts(ecg(), 250.0, low=-10, high=10), np.ones(5_000, bool)) == 1.0


@pytest.mark.parametrize("rate_hz", [128, 250, 500])
def test_a_spike_is_flagged_and_the_r_waves_around_it_are_not(rate_hz):
    wave = ecg(rate_hz=rate_hz)
    at = 3 * rate_hz
    wave[at] += 3.0
    flags = artefacts(wave, float(rate_hz))
    assert flags[at] == Quality.RATE_OF_CHANGE
    assert np.count_nonzero(flags) == 1


def test_flat_lead_off_and_rail_are_told_apart():
    wave = ecg()
    wave[1000:1200] = 0.25  # 0.8 s
    wave[2000:2600] = 0.25  # 2.4 s
    wave[3000:3008] = 4.9
    flags = artefacts(wave, 250.0)
    assert set(flags[1000:1200]) == {Quality.FLAT_LINE}
    assert set(flags[2000:2600]) == {Quality.FLAT_LINE | Quality.LEAD_OFF}
    assert set(flags[3000:3008]) == {Quality.SATURATED}


def test_what_is_missing_has_no_flag():
    assert artefacts(np.full(10, np.nan), 250.0, low=0, high=1).tolist() == [0] * 10
    assert artefacts(np.empty(0), 250.0).tolist() == []
