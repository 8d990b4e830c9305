"""Beats of an ECG described for the study of ventricular ectopy: the examples of the task `ventricular-beats`.

What tells a ventricular beat is that it comes early, is wide, and looks unlike the others: intervals against the local
median, and shape against the subject's own median beat, which needs no label (de Chazal, O'Dwyer, Reilly, Automatic
Classification of Heartbeats Using ECG Morphology and Heartbeat Interval Features, IEEE TBME 51(7), 2004; the own median
beat as reference: Llamedo, Martinez, IEEE TBME 58(3), 2011).

Any lead in millivolts at any sampling rate. A label (0 other, 1 ventricular) belongs to the nearest R peak within
150 ms (ANSI/AAMI EC57); a peak without one has label -1. `t_us` of an example is the time of its R peak.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import scipy  # its parts are loaded when they are used: the command line names tasks and computes nothing

from wardround.process.transforms.alignment import Series, at_rate, by_subject, join, usable
from wardround.process.transforms.ecg import RATE_HZ, Indices, local_median, r_peaks
from wardround.process.transforms.task import Task
from wardround.records import Examples, Floats, Observation, concatenate

LEADS = tuple(f"mdc:{code}" for code in (131330, 131329, 131389, *range(131331, 131337), 131395, 131390, 131391, 131392))
LABEL_CODE = "wr:beat-label"
CLASSES = ("other", "ventricular")
MATCH_US = 150_000.0
BEFORE, AFTER = 75, 110  # samples around the R peak: 0.30 s and 0.44 s
POINTS = 24  # of the shape, evenly spaced over the window
INTERVALS = 21  # beats in the local median
QRS = slice(BEFORE - 30, BEFORE + 31)  # 0.12 s to each side
P_WAVE = slice(BEFORE - 65, BEFORE - 22)
T_WAVE = slice(BEFORE + 32, BEFORE + AFTER)

FEATURE_NAMES = (
    *("interval before", "interval after", "interval before the last", "after over before", "local interval"),
    *("qrs correlation", "beat correlation", "p correlation", "t correlation"),
    *("qrs difference", "beat difference", "p difference", "t difference"),
    *("peak", "top", "bottom", "range", "area", "qrs width", "qrs width ratio", "slope", "slow share", "t over qrs"),
    *(f"shape {i}" for i in range(POINTS)),
    *(f"difference {i}" for i in range(POINTS)),
)


def beat_examples(observations: Sequence[Observation]) -> Examples:
    """The beats of every subject, of the lead with the most data (the first in LEADS among equals)."""
    parts: list[Examples] = []
    for subject, signals in by_subject(observations).items():
        leads = [at_rate(join(signals[code]), RATE_HZ) for code in LEADS if code in signals]
        if leads:
            lead = max(leads, key=lambda series: sum(len(s.values) for s in series))
            parts.append(_examples(subject, lead, signals.get(LABEL_CODE, ())))
    return concatenate(parts, FEATURE_NAMES)


def _examples(subject: str, lead: Sequence[Series], marks: Iterable[Observation]) -> Examples:
    found = [(s, r_peaks(s.values)) for s in lead]
    found = [(s, peaks) for s, peaks in found if len(peaks)]
    if not found:
        return concatenate((), FEATURE_NAMES)
    t_us = np.concatenate([s.times_us(peaks) for s, peaks in found])
    waves = np.concatenate([beat_windows(s.values, peaks) for s, peaks in found])
    rhythm = np.concatenate([interval_features(peaks / RATE_HZ) for _, peaks in found])
    regular = np.abs(rhythm[:, 0]) < 0.15
    own = np.median(waves[regular] if regular.any() else waves, axis=0)
    return Examples(
        features=np.concatenate([rhythm, shape_features(waves, own)], axis=1).astype(np.float32),
        labels=match_labels(t_us, marks),
        subjects=np.full(len(t_us), subject),
        t_us=np.round(t_us).astype(np.int64),
        feature_names=FEATURE_NAMES,
    )


def beat_windows(ecg_mv: Floats, peaks: Indices) -> Floats:
    """The lead around each peak, 0.5 to 40 Hz, the level before the QRS taken off, shape (n_beats, BEFORE + AFTER)."""
    sos = scipy.signal.butter(2, (0.5, 40.0), "bandpass", fs=RATE_HZ, output="sos")
    wave = scipy.signal.sosfiltfilt(sos, ecg_mv)
    windows = wave[(peaks[:, None] + np.arange(-BEFORE, AFTER)).clip(0, len(wave) - 1)]
    level = np.median(windows[:, BEFORE - 30 : BEFORE - 15], axis=1, keepdims=True)
    return np.asarray(windows - level)


def interval_features(peaks_s: Floats) -> Floats:
    """Intervals as logarithms of their ratio to the local median, shape (n_beats, 5); 0 where there is no neighbour."""
    if len(peaks_s) < 2:
        return np.zeros((len(peaks_s), 5))
    intervals = np.diff(peaks_s)
    local = local_median(intervals, INTERVALS)
    before = np.log(np.concatenate([[local[0]], intervals]) / np.concatenate([local[:1], local]))
    after = np.log(np.concatenate([intervals, [local[-1]]]) / np.concatenate([local, local[-1:]]))
    earlier = np.concatenate([[0.0], before[:-1]])
    pace = np.log(np.concatenate([local[:1], local]))
    return np.stack([before, after, earlier, after - before, pace], axis=1)


def shape_features(waves: Floats, own: Floats) -> Floats:
    """Shape against the subject's own median beat, shape (n_beats, n_features - 5).

    Args:
        waves: mV, shape (n_beats, BEFORE + AFTER).
        own: the median beat, mV, shape (BEFORE + AFTER,).
    """
    size = max(float(np.abs(own[QRS]).max()), 0.05)
    waves, own = waves / size, own / size
    difference = waves - own
    whole = slice(None)
    parts = (QRS, whole, P_WAVE, T_WAVE)
    qrs = waves[:, QRS]
    width, own_width = qrs_width_s(waves), qrs_width_s(own[None])
    slope = np.abs(np.diff(qrs, axis=1)).max(axis=1)
    slow = _slow_share(qrs)
    columns = [
        *(_correlation(waves[:, part], own[part]) for part in parts),
        *(np.log(np.sqrt(np.square(difference[:, part]).mean(axis=1)) + 0.01) for part in parts),
        waves[:, BEFORE],
        qrs.max(axis=1),
        qrs.min(axis=1),
        np.log(np.ptp(qrs, axis=1) + 0.01),
        np.log(np.abs(qrs).mean(axis=1) + 0.01),
        width,
        width / own_width,
        np.log(slope + 1e-3),
        slow,
        np.log((np.abs(waves[:, T_WAVE]).max(axis=1) + 0.01) / (np.abs(qrs).max(axis=1) + 0.01)),
    ]
    grid = np.linspace(0, waves.shape[1] - 1, POINTS).round().astype(np.int64)
    smooth = scipy.signal.sosfiltfilt(scipy.signal.butter(2, 15.0, fs=RATE_HZ, output="sos"), waves, axis=1)[:, grid]
    smooth_own = scipy.signal.sosfiltfilt(scipy.signal.butter(2, 15.0, fs=RATE_HZ, output="sos"), own)[grid]
    return np.concatenate([np.stack(columns, axis=1), smooth, smooth - smooth_own], axis=1)


def qrs_width_s(waves: Floats) -> Floats:
    """Seconds within which nine tenths of the activity (squared slope) of the QRS window lies, shape (n_beats,)."""
    activity = np.square(np.diff(waves[:, QRS], axis=1))
    share = np.cumsum(activity, axis=1) / np.maximum(activity.sum(axis=1, keepdims=True), 1e-12)
    first, last = (share < 0.05).sum(axis=1), (share < 0.95).sum(axis=1)
    return np.asarray((last - first + 1) / RATE_HZ)


def match_labels(t_us: Floats, marks: Iterable[Observation]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """The label of each peak, shape (n,): that of the mark nearest to it, each mark used once, -1 where there is none."""
    labels = np.full(len(t_us), -1, np.int32)
    times = [(float(t), int(c)) for o in marks if usable(o) for t, c in zip(o.times_us(), np.round(o.samples()), strict=False)]
    if not times or not len(t_us):
        return labels
    order = np.argsort(t_us, kind="stable")
    ordered = t_us[order]
    best: dict[int, float] = {}
    for time, value in sorted(times):
        at = int(np.searchsorted(ordered, time))
        near = [int(order[i]) for i in (at - 1, at) if 0 <= i < len(order)]
        peak = min(near, key=lambda i: abs(t_us[i] - time))
        apart = abs(float(t_us[peak]) - time)
        if apart <= MATCH_US and apart < best.get(peak, np.inf) and value in (0, 1):
            best[peak], labels[peak] = apart, value
    return labels


def _correlation(waves: Floats, own: Floats) -> Floats:
    centred, reference = waves - waves.mean(axis=1, keepdims=True), own - own.mean()
    norm = np.linalg.norm(centred, axis=1) * np.linalg.norm(reference)
    return np.asarray(centred @ reference / np.maximum(norm, 1e-9))


def _slow_share(qrs: Floats) -> Floats:
    """Share of the power of the QRS below 10 Hz: a wide complex is slow; shape (n_beats,)."""
    power = np.square(np.abs(np.fft.rfft((qrs - qrs.mean(axis=1, keepdims=True)) * np.hanning(qrs.shape[1]))))
    slow = np.fft.rfftfreq(qrs.shape[1], 1 / RATE_HZ) < 10.0
    return np.asarray(power[:, slow].sum(axis=1) / np.maximum(power.sum(axis=1), 1e-12))


BEATS = Task(
    name="ventricular-beats",
    title="Ventricular ectopic beats, from one lead of an ECG",
    signals=frozenset((*LEADS, LABEL_CODE)),
    label_code=LABEL_CODE,
    classes=CLASSES,
    metric="average-precision",
    feature_names=FEATURE_NAMES,
    examples=beat_examples,
)
