"""The pulse wave: where the pulses are, how fast they come, how good they look, and what a saturation taken then is worth.

Systolic peaks: Elgendi, Norton, Brearley, Abbott, Schuurmans, Systolic Peak Detection in Acceleration Photoplethysmograms
Measured from Emergency Responders in Tropical Conditions, PLoS ONE 8(10), 2013 (band, windows and offset as published).
Quality: agreement of each pulse with their mean (Orphanidou et al., IEEE JBHI 19(3), 2015: 0.86 for PPG) and skewness (Elgendi,
Optimal Signal Quality Index for Photoplethysmogram Signals, Bioengineering 3(4), 2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import scipy  # its parts are loaded when they are used: the command line names tasks and computes nothing
from numpy.typing import NDArray

from wardround.records import Floats

BAND_HZ = (0.5, 8.0)
PEAK_S, BEAT_S, OFFSET = 0.111, 0.667, 0.02
REFRACTORY_S = 0.3
WINDOW_US = 60_000_000
TEMPLATE_MIN = 0.86
PERFUSION_MIN = 0.3  # %: below it oximeters are known to mislead
RATES = (30.0, 220.0)  # /min
PULSES_MIN = 5
SPAN_SHARE_MIN = 0.8


class Doubt(IntFlag):
    """Why a saturation of this minute is questionable; several may be set."""

    NONE = 0
    FEW_PULSES = 1
    SHAPE = 2
    RATE = 4
    PERFUSION = 8


@dataclass(frozen=True, slots=True)
class Pulse:
    """One minute of a pulse wave."""

    t_us: int
    pulses: int
    rate: float  # /min, NaN when there are too few
    template: float  # mean correlation of each pulse with their mean
    skewness: float
    perfusion: float  # %: the pulse's height in the light that comes through; NaN without the light's own level
    doubt: Doubt


def systolic_peaks(wave: Floats, rate_hz: float) -> NDArray[np.int64]:
    """Sample numbers of the systolic peaks of a pulse wave (up is more blood), rising."""
    if len(wave) < 2 * rate_hz:
        return np.empty(0, np.int64)
    sos = scipy.signal.butter(2, (BAND_HZ[0], min(BAND_HZ[1], 0.45 * rate_hz)), "bandpass", fs=rate_hz, output="sos")
    filtered = scipy.signal.sosfiltfilt(sos, wave)
    energy = np.square(np.maximum(filtered, 0.0))
    peak = scipy.ndimage.uniform_filter1d(energy, max(1, round(PEAK_S * rate_hz)))
    beat = scipy.ndimage.uniform_filter1d(energy, max(1, round(BEAT_S * rate_hz)))
    marked = peak > beat + OFFSET * energy.mean()
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0))
    found: list[int] = []
    for a, b in zip(edges[::2], edges[1::2], strict=True):
        at = a + int(np.argmax(filtered[a:b]))
        if b - a >= PEAK_S * rate_hz and (not found or at - found[-1] >= REFRACTORY_S * rate_hz):
            found.append(at)
    return np.array(found, np.int64)


def pulses(wave: Floats, t0_us: float, rate_hz: float) -> list[Pulse]:
    """The minutes, aligned to the clock, of one evenly sampled stretch without a gap."""
    peaks = systolic_peaks(wave, rate_hz)
    step_us = 1e6 / rate_hz
    last = t0_us + (len(wave) - 1) * step_us
    found = []
    for number in range(int(t0_us // WINDOW_US), int(last // WINDOW_US) + 1):
        a = max(0, int(np.ceil((number * WINDOW_US - t0_us) / step_us)))
        b = min(len(wave), int(np.ceil(((number + 1) * WINDOW_US - t0_us) / step_us)))
        if b - a >= SPAN_SHARE_MIN * WINDOW_US / 1e6 * rate_hz:
            found.append(_minute(number * WINDOW_US, wave[a:b], peaks[(peaks >= a) & (peaks < b)] - a, rate_hz))
    return found


def _minute(t_us: int, wave: Floats, peaks: NDArray[np.int64], rate_hz: float) -> Pulse:
    nan = float("nan")
    if len(peaks) < PULSES_MIN:
        return Pulse(t_us, len(peaks), nan, nan, _skewness(wave), nan, Doubt.FEW_PULSES)
    rate = 60.0 * rate_hz / float(np.median(np.diff(peaks)))
    template = _agreement(wave, peaks)
    perfusion = _perfusion(wave, peaks)
    doubt = Doubt.NONE
    doubt |= Doubt.SHAPE if template < TEMPLATE_MIN else Doubt.NONE
    doubt |= Doubt.RATE if not RATES[0] <= rate <= RATES[1] else Doubt.NONE
    doubt |= Doubt.PERFUSION if perfusion < PERFUSION_MIN else Doubt.NONE
    return Pulse(t_us, len(peaks), rate, template, _skewness(wave), perfusion, doubt)


def _agreement(wave: Floats, peaks: NDArray[np.int64]) -> float:
    """Mean correlation of the pulses with their mean, each as long as the usual distance between two."""
    half = max(2, int(np.median(np.diff(peaks)) // 2))
    inside = peaks[(peaks >= half) & (peaks < len(wave) - half)]
    if len(inside) < 2:
        return 0.0
    each = wave[inside[:, None] + np.arange(-half, half)]
    each = each - each.mean(axis=1, keepdims=True)
    mean = each.mean(axis=0)
    norms = np.linalg.norm(each, axis=1) * np.linalg.norm(mean)
    return float((each @ mean / np.maximum(norms, 1e-12)).mean())


def _perfusion(wave: Floats, peaks: NDArray[np.int64]) -> float:
    """Height of the pulses in percent of the level; NaN when the level was taken out of the wave (it is not above zero)."""
    level = float(np.median(wave))
    troughs = np.minimum.reduceat(wave, peaks)[:-1]
    height = float(np.median(wave[peaks[1:]] - troughs))
    return 100.0 * height / level if level > 2.0 * height else float("nan")


def _skewness(wave: Floats) -> float:
    centred = wave - wave.mean()
    spread = float(np.sqrt(np.square(centred).mean()))
    return float((centred**3).mean() / spread**3) if spread > 0 else 0.0
