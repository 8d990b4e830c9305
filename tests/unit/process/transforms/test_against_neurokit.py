"""Rhythm, breathing and pulse beside neurokit2, a library that others have checked: the same numbers on the same signals.

Its values are in tests/data/neurokit.npz, made by scripts/neurokit-values with the version that stands in the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wardround.process.transforms.pulse import systolic_peaks
from wardround.process.transforms.respiration import breathing
from wardround.process.transforms.variability import variability

THEIRS = np.load(Path(__file__).parents[3] / "data" / "neurokit.npz")


@pytest.mark.parametrize("seed", range(4))
def test_variability(seed):
    peaks = THEIRS[f"beats-{seed}"]
    mean_nn, sdnn, rmssd, sdsd, pnn50, sd1, sd2, lf_hf = THEIRS[f"time-{seed}"]
    [ours] = variability(peaks * 1e3)
    assert (ours.mean_nn, ours.sdnn, ours.rmssd, ours.sdsd) == pytest.approx((mean_nn, sdnn, rmssd, sdsd), rel=2e-3)
    assert ours.sd1 == pytest.approx(sd1, rel=2e-3)
    assert ours.sd2 == pytest.approx(sd2, rel=0.02)  # theirs is the deviation of the sums, ours follows from the two others
    assert ours.pnn50 == pytest.approx(pnn50, abs=0.5)  # they divide by the intervals, we by their differences
    assert ours.lf / ours.hf == pytest.approx(lf_hf, rel=0.1)
    assert ours.lf == pytest.approx(40.0**2 / 2, rel=0.15)  # ms2: half the square of the amplitude that was put in
    assert ours.hf == pytest.approx(30.0**2 / 2, rel=0.25)


@pytest.mark.parametrize("rate", [9, 15, 22])
def test_breathing(rate):
    wave, lengths = THEIRS[f"breath-{rate}"], np.diff(THEIRS[f"breath-peaks-{rate}"]) / 10
    ours = [b.rate for b in breathing(wave.astype(np.float64), 0.0, 10.0)]
    assert len(ours) == 3
    assert np.median(ours) == pytest.approx(60.0 / lengths.mean(), abs=1.0)


@pytest.mark.parametrize("rate", [55, 75, 110])
def test_pulses(rate):
    theirs = THEIRS[f"pulse-peaks-{rate}"]
    ours = systolic_peaks(THEIRS[f"pulse-{rate}"].astype(np.float64), 50.0)
    near = np.abs(ours[:, None] - theirs[None, :]).min(axis=1) <= 2  # 40 ms
    assert near.mean() >= 0.97
    assert len(ours) == pytest.approx(len(theirs), abs=1)
