"""Statistics against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.process.transforms.windows import (
    BANDS_HZ,
    FREQUENCY_STATISTICS,
    TIME_STATISTICS,
    auto_regression,
    frequency_features,
    time_features,
)

RATE = 50.0
T = np.arange(128) / RATE


def time_of(window):
    return dict(zip(TIME_STATISTICS, time_features(np.asarray(window, float)[None])[0], strict=True))


def frequency_of(window):
    return dict(zip(FREQUENCY_STATISTICS, frequency_features(np.asarray(window, float)[None], RATE)[0], strict=True))


def test_time_statistics_of_a_ramp():
    f = time_of(np.arange(128.0))
    assert f["mean"] == 63.5
    assert (f["min"], f["max"]) == (0, 127)
    assert f["std"] == pytest.approx(np.log10(np.sqrt((128**2 - 1) / 12) + 1e-3))
    assert f["mad"] == pytest.approx(np.log10(32 + 1e-3))
    assert f["iqr"] == pytest.approx(np.log10(63.5 + 1e-3))
    assert f["energy"] == pytest.approx(np.log10((127 * 128 * 255 / 6) / 128 + 1e-3))


def test_a_constant_window_is_finite():
    assert np.isfinite(list(time_of(np.full(128, 9.81)).values())).all()
    assert np.isfinite(list(frequency_of(np.zeros(128)).values())).all()


def test_auto_regression_finds_the_process_it_came_from():
    rng = np.random.default_rng(0)
    x = np.zeros(50_000)
    for i in range(2, len(x)):
        x[i] = 0.75 * x[i - 1] - 0.5 * x[i - 2] + rng.standard_normal()
    np.testing.assert_allclose(auto_regression(x[None], 4)[0], [0.75, -0.5, 0, 0], atol=0.02)


def test_a_tone_is_found_at_its_frequency_and_in_its_band():
    f = frequency_of(2 * np.sin(2 * np.pi * 5.078125 * T))  # the thirteenth bin of 128 samples at 50 Hz
    assert f["peak frequency"] == pytest.approx(5.078, abs=0.01)
    assert f["mean frequency"] == pytest.approx(5.078, abs=0.01)
    assert f["power 4-6 Hz"] == pytest.approx(np.log10(2.0), abs=0.02)  # a sine of amplitude 2 has power 2
    assert f["power 12-18 Hz"] < -5


def test_noise_spreads_over_the_spectrum_and_a_tone_does_not():
    noise = frequency_of(np.random.default_rng(0).standard_normal(128))
    tone = frequency_of(np.sin(2 * np.pi * 5.078125 * T))
    assert noise["spectral entropy"] > 0.85
    assert tone["spectral entropy"] < 0.35


def test_bands_hold_the_whole_power():
    window = np.random.default_rng(1).standard_normal(128)
    f = frequency_of(window)
    in_bands = sum(10 ** f[f"power {low:g}-{high:g} Hz"] for low, high in BANDS_HZ)
    hann = np.hanning(128)
    expected = np.sum(np.square((window - window.mean()) * hann)) / np.square(hann).sum()  # Parseval
    assert in_bands == pytest.approx(expected, rel=0.05)
