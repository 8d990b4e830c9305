"""Trends, variability, breathing, pulse and early warning against closed forms, tables and published numbers."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.process.transforms.cleaning import Clean
from wardround.process.transforms.early_warning import PARAMETERS, Vitals, news2
from wardround.process.transforms.pulse import Doubt, pulses, systolic_peaks
from wardround.process.transforms.respiration import breathing, from_beats
from wardround.process.transforms.trends import DAY_US, HOUR_US, trends
from wardround.process.transforms.variability import WINDOW_US, normal_intervals, variability

T0 = 1_700_006_400_000_000 - 1_700_006_400_000_000 % DAY_US  # midnight


def hour_of(values, minute_us=60_000_000, code="loinc:8867-4", t0_us=T0, flags=None):
    times = t0_us + np.arange(len(values)) * minute_us
    flags = np.zeros(len(values), np.uint16) if flags is None else flags
    return Clean("s", code, "/min", int(times[0]), 0.0, times, np.asarray(values, np.float32), flags, 60, 0)


def test_a_trend_is_numpy_over_the_good_samples():
    values = np.linspace(60.0, 90.0, 60)
    flags = np.zeros(60, np.uint16)
    flags[10] = 1
    hourly, daily = sorted(trends([hour_of(values, flags=flags)]), key=lambda t: t.width_us)
    kept = np.delete(values, 10)
    assert (hourly.n, hourly.expected, hourly.t_us) == (59, 60, T0)
    assert hourly.completeness == pytest.approx(59 / 60)
    assert daily.completeness == pytest.approx(59 / 1440)
    found = (hourly.mean, hourly.std, hourly.low, hourly.p05, hourly.median, hourly.p95, hourly.high, hourly.first, hourly.last)
    p05, p50, p95 = np.percentile(kept, [5, 50, 95])
    assert found == pytest.approx((kept.mean(), kept.std(), 60.0, p05, p50, p95, 90.0, 60.0, 90.0), rel=1e-6)
    assert hourly.slope_per_h == pytest.approx(30.0 / 59 * 60, rel=1e-5)


def test_the_order_of_chunks_makes_no_difference():
    rng = np.random.default_rng(1)
    chunks = [hour_of(rng.normal(80, 5, 60), t0_us=T0 + k * HOUR_US) for k in range(5)]
    assert list(trends(chunks)) == list(trends(chunks[::-1]))
    assert [t.n for t in trends(chunks) if t.width_us == DAY_US] == [300]


def beats_at(rr_ms):
    return T0 + np.concatenate([[0.0], np.cumsum(rr_ms)]) * 1e3


def test_time_domain_numbers_are_their_definitions():
    rr = 800.0 + np.array([10.0, -10.0, 30.0, -40.0, 60.0, 0.0] * 60)
    [first, *_] = variability(beats_at(rr))
    inside = rr[np.cumsum(rr) * 1e3 < WINDOW_US]
    steps = np.diff(inside)
    assert first.beats == len(inside)
    assert first.sdnn == pytest.approx(inside.std(ddof=1))
    assert first.rmssd == pytest.approx(np.sqrt((steps**2).mean()))
    assert first.pnn50 == pytest.approx(100 * (np.abs(steps) > 50).mean())
    assert first.sd1**2 + first.sd2**2 == pytest.approx(2 * first.sdnn**2)  # Brennan et al. 2001
    assert first.heart_rate == pytest.approx(6e4 / inside.mean())


@pytest.mark.parametrize(("hz", "band"), [(0.1, "lf"), (0.25, "hf"), (0.02, "vlf")])
def test_the_power_of_a_sine_is_in_its_band(hz, band):
    t, peaks = 0.0, []
    while t < 310.0:  # intervals swing by 40 ms: half its square is the power of a sine (Parseval)
        peaks.append(t)
        t += 0.8 + 0.04 * np.sin(2 * np.pi * hz * t)
    [first, *_] = variability(T0 + np.array(peaks) * 1e6)
    powers = {"vlf": first.vlf, "lf": first.lf, "hf": first.hf}
    assert powers[band] == pytest.approx(800.0, rel=0.12)
    assert sum(powers.values()) - powers[band] < 0.06 * powers[band]


def test_an_ectopic_beat_counts_in_no_difference():
    rr = np.full(300, 800.0)
    rr[100], rr[101] = 500.0, 1100.0
    assert list(np.flatnonzero(~normal_intervals(rr))) == [100, 101]
    [first, *_] = variability(beats_at(rr))
    assert first.rmssd == 0.0
    assert 0.99 < first.normal_share < 1.0


def test_too_few_beats_say_nothing_but_a_rate():
    [only] = variability(beats_at(np.full(10, 1000.0)))
    assert only.heart_rate == pytest.approx(60.0)
    assert np.isnan(only.sdnn)
    assert variability(np.empty(0)) == []


@pytest.mark.parametrize("per_minute", [8.0, 15.0, 30.0])
def test_breaths_are_counted(per_minute):
    rng = np.random.default_rng(2)
    t = np.arange(0, 180, 1 / 25.0)
    wave = np.sin(2 * np.pi * per_minute / 60 * t) + rng.normal(0, 0.05, len(t))
    found = breathing(wave, float(T0), 25.0)
    assert len(found) == 3
    assert all(b.rate == pytest.approx(per_minute, abs=0.7) and b.good for b in found)


def test_breaths_show_in_the_height_of_beats():
    peaks = np.arange(0, 240, 0.75)
    found = from_beats(T0 + peaks * 1e6, 1.0 + 0.1 * np.sin(2 * np.pi * 0.25 * peaks))
    assert all(b.rate == pytest.approx(15.0, abs=0.5) for b in found if b.good)
    assert sum(b.good for b in found) >= 3


def test_noise_is_no_breathing():
    found = breathing(np.random.default_rng(3).normal(0, 1, 25 * 300), float(T0), 25.0)
    assert np.mean([b.good for b in found]) < 0.5


def pulse_wave(rate=72.0, seconds=130, hz=100.0, noise=0.0, level=50.0, seed=0):
    """A pulse with its dicrotic wave, on the level of the light."""
    t = np.arange(0, seconds, 1 / hz)
    phase = (t * rate / 60.0) % 1.0
    beat = np.exp(-np.square((phase - 0.25) / 0.09)) + 0.35 * np.exp(-np.square((phase - 0.55) / 0.1))
    return level + beat + np.random.default_rng(seed).normal(0, noise, len(t))


@pytest.mark.parametrize("rate", [45.0, 72.0, 130.0])
def test_pulses_are_found_and_counted(rate):
    wave = pulse_wave(rate)
    expected = (np.arange(0.25, 130 * rate / 60) * 60 / rate * 100).astype(int)
    peaks = systolic_peaks(wave, 100.0)
    hit = np.abs(peaks[:, None] - expected).min(axis=1) <= 5
    assert hit.mean() > 0.98
    assert len(peaks) >= 0.97 * len(expected)
    for minute in pulses(wave, float(T0), 100.0):
        assert minute.rate == pytest.approx(rate, rel=0.02)
        assert minute.template > 0.98
        assert minute.skewness > 0  # as a good PPG is
        assert minute.perfusion == pytest.approx(100 * 1.0 / 50.2, rel=0.1)
        assert minute.doubt == Doubt.NONE


def test_a_wave_of_noise_casts_doubt():
    found = pulses(pulse_wave(noise=2.0), float(T0), 100.0)
    assert all(p.doubt & (Doubt.SHAPE | Doubt.FEW_PULSES) for p in found)
    weak = pulses(pulse_wave(level=800.0), float(T0), 100.0)
    assert all(p.doubt == Doubt.PERFUSION for p in weak)


# Royal College of Physicians, NEWS2, chart 1: parameter, values with their points at every boundary
CHART = {
    "respiratory_rate": {8: 3, 9: 1, 11: 1, 12: 0, 20: 0, 21: 2, 24: 2, 25: 3},
    "spo2": {91: 3, 92: 2, 93: 2, 94: 1, 95: 1, 96: 0},
    "systolic": {90: 3, 91: 2, 100: 2, 101: 1, 110: 1, 111: 0, 219: 0, 220: 3},
    "pulse": {40: 3, 41: 1, 50: 1, 51: 0, 90: 0, 91: 1, 110: 1, 111: 2, 130: 2, 131: 3},
    "temperature": {35.0: 3, 35.1: 1, 36.0: 1, 36.1: 0, 38.0: 0, 38.1: 1, 39.0: 1, 39.1: 2},
    "consciousness": {"A": 0, "C": 3, "V": 3, "P": 3, "U": 3},
    "oxygen": {False: 0, True: 2},
}
SCALE_2 = {
    False: {83: 3, 84: 2, 85: 2, 86: 1, 87: 1, 88: 0, 92: 0, 93: 0, 97: 0},
    True: {83: 3, 84: 2, 85: 2, 86: 1, 87: 1, 88: 0, 92: 0, 93: 1, 94: 1, 95: 2, 96: 2, 97: 3},
}


@pytest.mark.parametrize(("name", "value", "points"), [(n, v, p) for n, row in CHART.items() for v, p in row.items()])
def test_every_boundary_of_the_chart(name, value, points):
    score = news2(Vitals(**{name: value}))
    assert score.total == points
    assert score.red == (points == 3)
    assert len(score.missing) == len(PARAMETERS) - 1


@pytest.mark.parametrize(("oxygen", "value", "points"), [(o, v, p) for o, row in SCALE_2.items() for v, p in row.items()])
def test_the_second_scale(oxygen, value, points):
    assert news2(Vitals(spo2=value, oxygen=oxygen), spo2_scale=2).points["spo2"] == points


def test_what_is_missing_is_said_and_not_guessed():
    score = news2(Vitals(pulse=135, spo2=95))
    assert (score.total, score.complete) == (4, False)
    assert set(score.missing) == {"respiratory-rate", "oxygen", "systolic", "consciousness", "temperature"}
    whole = news2(Vitals(16, 97, False, 120, 70, "A", 37.0))
    assert (whole.total, whole.complete, whole.red) == (0, True, False)
    assert "spo2" in news2(Vitals(spo2=95), spo2_scale=2).missing  # without oxygen known, it cannot be said
