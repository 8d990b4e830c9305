"""R peaks of one lead of an ECG: where the heart beat, whatever the polarity, the gain and the sampling rate.

Two moving averages of the energy between 8 and 20 Hz, one as long as a QRS complex and one as long as a beat, mark
where energy is dense (Elgendi, Fast QRS Detection with an Optimized Knowledge-Based Method, PLoS ONE 8(9), 2013: filter,
windows and offset as published). Three changes, for long recordings: the offset follows the last ten seconds instead of
the mean of the whole record; of two marks closer than a heart can beat the stronger stays; a weak mark inside a normal
interval is a T or P wave.

Checked on nine half hours of the MIT-BIH Arrhythmia Database by `bench/quality.py`.
"""

from __future__ import annotations

import numpy as np
import scipy  # its parts are loaded when they are used: the command line names tasks and computes nothing
from numpy.typing import NDArray

from wardround.records import Floats

RATE_HZ = 250.0  # every lead is brought to this rate first
BAND_HZ = (8.0, 20.0)
QRS_S = 0.097
BEAT_S = 0.611
OFFSET = 0.08  # of the local level of energy
LEVEL_S = 10.0
FEW_BEATS_S = 2.5
DURATION_MIN_S = 0.08  # of a mark
REFRACTORY_S = 0.27  # no heart beats again before that
FLOOR_MV = 0.01  # below it there is no lead
WEAK = 0.35  # of the energy of the neighbours
NEIGHBOURS = 15
NORMAL = 1.35  # of the usual interval
PASSES = 3  # noise marks several places in one interval
SERIES_MIN_S = 2.0
SLOW_BAND_HZ = (3.0, 20.0)
SLOW_S = 0.12
SLOW_SHARE = 0.5  # of the usual energy of a beat
PAUSE = 1.6  # of the usual interval
AFTER_BEAT_S = 0.3
PEAK_SEARCH_S = 0.08

Indices = NDArray[np.int64]


def r_peaks(ecg_mv: Floats) -> Indices:
    """Sample numbers of the R peaks, rising.

    Args:
        ecg_mv: one lead, millivolts, shape (n_samples,), at 250 Hz, without a gap. Less than two seconds have no peak.
    """
    if len(ecg_mv) < SERIES_MIN_S * RATE_HZ:
        return np.empty(0, np.int64)
    energy = np.square(scipy.signal.sosfiltfilt(scipy.signal.butter(3, BAND_HZ, "bandpass", fs=RATE_HZ, output="sos"), ecg_mv))
    qrs = scipy.ndimage.uniform_filter1d(energy, round(QRS_S * RATE_HZ))
    beat = scipy.ndimage.uniform_filter1d(energy, round(BEAT_S * RATE_HZ))
    marked = (qrs > beat + OFFSET * _level(energy)) & (qrs > FLOOR_MV**2)
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0))
    starts, stops = edges[::2], edges[1::2]
    long = stops - starts >= DURATION_MIN_S * RATE_HZ
    peaks = np.array([a + np.argmax(qrs[a:b]) for a, b in zip(starts[long], stops[long], strict=True)], np.int64)
    peaks = peaks[_strongest(peaks, qrs[peaks], REFRACTORY_S * RATE_HZ)]
    for _ in range(PASSES):
        peaks = peaks[~_between_beats(peaks, qrs[peaks], len(ecg_mv))]
    return _on_the_peak(ecg_mv, np.union1d(peaks, _slow_beats(ecg_mv, peaks)))


def local_median(values: Floats, size: int) -> Floats:
    """Running median over `size` neighbours, mirrored at the ends, same shape."""
    return np.asarray(scipy.ndimage.median_filter(values, size, mode="reflect"), np.float64) if len(values) else values


def _level(energy: Floats) -> Floats:
    """What is usual around here: the median over ten seconds of the mean energy of a few beats; same shape."""
    step = round(RATE_HZ / 4)
    means = scipy.ndimage.uniform_filter1d(energy, round(FEW_BEATS_S * RATE_HZ))[::step]
    usual = scipy.ndimage.median_filter(means, 2 * round(LEVEL_S * 2) + 1, mode="nearest")
    return np.asarray(np.interp(np.arange(len(energy)), np.arange(len(usual)) * step, usual))


def _strongest(peaks: Indices, strength: Floats, apart: float) -> NDArray[np.bool_]:
    """Which peaks stay when, from the strongest down, each silences the others within `apart` samples of it."""
    keep = np.ones(len(peaks), bool)
    for i in np.argsort(-strength, kind="stable"):
        if not keep[i]:
            continue
        low, high = np.searchsorted(peaks, [peaks[i] - apart, peaks[i] + apart], side="right")
        keep[low:i] = keep[i + 1 : high] = False
    return keep


def _between_beats(peaks: Indices, strength: Floats, n_samples: int) -> NDArray[np.bool_]:
    """Weak marks without which the interval around them would still be a normal one; the ends count as beats."""
    if len(peaks) < 3:
        return np.zeros(len(peaks), bool)
    weak = strength < WEAK * local_median(strength, NEIGHBOURS)
    interval = local_median(np.diff(peaks).astype(np.float64), NEIGHBOURS)
    around = np.concatenate([peaks[1:], [n_samples]]) - np.concatenate([[0], peaks[:-1]])
    return np.asarray(weak & (around < NORMAL * np.concatenate([interval[:1], interval])))


def _slow_beats(ecg_mv: Floats, peaks: Indices) -> Indices:
    """Beats in pauses, too wide for the band of a normal QRS: as strong between 3 and 20 Hz as the usual beat is.

    The look back over a pause is Pan and Tompkins' (IEEE TBME 32(3), 1985); a ventricular beat may have all of its energy
    below 8 Hz, and is followed by a pause.
    """
    if len(peaks) < 3:
        return np.empty(0, np.int64)
    slow = np.square(scipy.signal.sosfiltfilt(scipy.signal.butter(2, SLOW_BAND_HZ, "bandpass", fs=RATE_HZ, output="sos"), ecg_mv))
    slow = scipy.ndimage.uniform_filter1d(slow, round(SLOW_S * RATE_HZ))
    intervals = np.diff(peaks)
    usual = local_median(slow[peaks], NEIGHBOURS)
    found: list[int] = []
    for i in np.flatnonzero(intervals > PAUSE * local_median(intervals.astype(np.float64), NEIGHBOURS)):
        start, stop = peaks[i] + round(AFTER_BEAT_S * RATE_HZ), peaks[i + 1] - round(REFRACTORY_S * RATE_HZ)
        if stop > start:
            at = start + int(np.argmax(slow[start:stop]))
            if slow[at] > SLOW_SHARE * usual[i] and start < at < stop - 1:
                found.append(at)
    return np.array(found, np.int64)


def _on_the_peak(ecg_mv: Floats, peaks: Indices) -> Indices:
    """Each mark moved to the largest deflection of the lead near it, up or down."""
    if not len(peaks):
        return peaks
    wave = scipy.signal.sosfiltfilt(scipy.signal.butter(2, (5.0, 40.0), "bandpass", fs=RATE_HZ, output="sos"), ecg_mv)
    reach = round(PEAK_SEARCH_S * RATE_HZ)
    index = (peaks[:, None] + np.arange(-reach, reach + 1)).clip(0, len(ecg_mv) - 1)
    found = index[np.arange(len(peaks)), np.abs(wave[index]).argmax(axis=1)]
    return np.unique(found)
