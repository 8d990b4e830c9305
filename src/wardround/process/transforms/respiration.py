"""Respiratory rate by the minute, from a respiration waveform, or from what breathing does to an ECG or a pulse wave.

Breaths are counted: Schäfer and Kratky, Estimation of breathing rate from respiratory sinus arrhythmia: comparison of various
methods, Ann. Biomed. Eng. 36(3), 2008 ("advanced counting"). Deriving a respiratory signal from the amplitude of beats:
Charlton et al., Physiol. Meas. 37(4), 2016. Quality is how alike the breaths of the window are (Charlton et al., Physiol.
Meas. 42(10), 2021: coefficient of variation of their lengths).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are loaded when they are used: the command line names tasks and computes nothing

from wardround.records import Floats

WINDOW_US = 60_000_000
BAND_HZ = (0.07, 0.8)  # 4 to 48 breaths a minute
RATE_HZ = 5.0
THRESHOLD = 0.2  # of the upper quartile of the swings
BREATHS_MIN = 3
VARIATION_MAX = 0.25
SPAN_SHARE_MIN = 0.8


@dataclass(frozen=True, slots=True)
class Breathing:
    """One window: breaths a minute (NaN when it cannot be said), and how much their lengths vary (0: all alike)."""

    t_us: int
    rate: float
    variation: float

    @property
    def good(self) -> bool:
        """Whether to believe it."""
        return bool(np.isfinite(self.rate) and self.variation <= VARIATION_MAX)


def breathing(wave: Floats, t0_us: float, rate_hz: float) -> list[Breathing]:
    """The windows, aligned to the clock, of one evenly sampled stretch without a gap.

    Args:
        wave: respiration in any unit, shape (n,).
        rate_hz: at least 2.
    """
    if len(wave) < 10 * rate_hz or rate_hz < 2.0:
        return []
    sos = scipy.signal.butter(2, (BAND_HZ[0], min(BAND_HZ[1], 0.45 * rate_hz)), "bandpass", fs=rate_hz, output="sos")
    calm = scipy.signal.sosfiltfilt(sos, wave - np.mean(wave))
    times_us = t0_us + np.arange(len(wave)) * (1e6 / rate_hz)
    found = []
    for number in range(int(times_us[0] // WINDOW_US), int(times_us[-1] // WINDOW_US) + 1):
        here = (times_us >= number * WINDOW_US) & (times_us < (number + 1) * WINDOW_US)
        if here.sum() >= SPAN_SHARE_MIN * WINDOW_US / 1e6 * rate_hz:
            found.append(_counted(number * WINDOW_US, calm[here], rate_hz))
    return found


def from_beats(peaks_us: Floats, amplitudes: Floats) -> list[Breathing]:
    """The same, from the amplitudes of beats (R waves, or pulses), shape (n,) each."""
    if len(peaks_us) < 10:
        return []
    grid_us = np.arange(peaks_us[0], peaks_us[-1], 1e6 / RATE_HZ)
    wave = scipy.interpolate.PchipInterpolator(peaks_us, amplitudes)(grid_us)
    return breathing(np.asarray(wave, np.float64), float(peaks_us[0]), RATE_HZ)


def _counted(t_us: int, calm: Floats, rate_hz: float) -> Breathing:
    turns = np.flatnonzero(np.diff(np.sign(np.diff(calm))) != 0) + 1
    swings = np.abs(np.diff(calm[turns]))
    nothing = Breathing(t_us, float("nan"), float("nan"))
    if len(swings) < 2:
        return nothing
    least = THRESHOLD * np.percentile(swings, 75)
    while len(turns) > 2 and (swings := np.abs(np.diff(calm[turns]))).min() < least:
        smallest = int(swings.argmin())  # a wiggle: its two turns go, and the breath around it is whole again
        turns = np.delete(turns, [smallest, smallest + 1])
    tops = turns[calm[turns] > 0]
    lengths = np.diff(tops) / rate_hz
    if len(lengths) < BREATHS_MIN - 1:
        return nothing
    return Breathing(t_us, 60.0 / float(lengths.mean()), float(lengths.std() / lengths.mean()))
