"""Windows of wrist or waist movement and the usual features of them: the examples of the study of activity.

Source: Anguita, Ghio, Oneto, Parra, Reyes-Ortiz, A Public Domain Dataset for Human Activity Recognition Using
Smartphones, ESANN 2013: 50 Hz, windows of 2.56 s that overlap by half, gravity by a Butterworth low-pass of order 3 at
0.3 Hz, jerk, magnitudes, and their statistics in time and frequency. Ours differ in three points: the order of the
auto-regression is solved by Yule-Walker instead of Burg, powers and spreads are logarithms (a walk is a thousand times
a rest), and features that repeat others are left out.

Acceleration is in m/s2 and angular velocity in deg/s, as the code table has them. A window lies in one labelled
stretch and in one stretch without a gap. `t_us` of an example is the start of its window.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import scipy  # its parts are loaded when they are used: the command line names tasks and computes nothing
from numpy.typing import NDArray

from wardround.process.transforms.alignment import Frame, Series, align, at_rate, by_subject, join, nearest
from wardround.process.transforms.task import Task
from wardround.process.transforms.windows import FREQUENCY_STATISTICS, TIME_STATISTICS, frequency_features, time_features
from wardround.records import Examples, Floats, Observation, concatenate

RATE_HZ = 50.0
WINDOW = 128  # samples: 2.56 s
STEP = 64
GRAVITY_CUTOFF_HZ = 0.3
LABEL_CODE = "wr:activity-label"
AXES = ("x", "y", "z")
ACCELERATION = tuple(f"wr:accel-{a}" for a in AXES)
ROTATION = tuple(f"wr:gyro-{a}" for a in AXES)
CLASSES = ("walking", "upstairs", "downstairs", "sitting", "standing", "laying")

_VECTORS = ("body", "gravity", "jerk", "gyro", "gyro-jerk")
_CHANNELS = tuple(f"{v}-{a}" for v in _VECTORS for a in AXES) + tuple(f"{v}-magnitude" for v in _VECTORS)
_SPECTRAL = tuple(c for c in _CHANNELS if not c.startswith("gravity"))
_PAIRS = (("x", "y", 0, 1), ("x", "z", 0, 2), ("y", "z", 1, 2))
FEATURE_NAMES = (
    *(f"{c} {s}" for c in _CHANNELS for s in TIME_STATISTICS),
    *(f"{c} {s}" for c in _SPECTRAL for s in FREQUENCY_STATISTICS),
    *(f"{v} correlation {a}{b}" for v in _VECTORS for a, b, _, _ in _PAIRS),
    *(f"{v} sma" for v in _VECTORS),
    *(f"gravity angle {a}" for a in AXES),
    *(f"{v} angle to gravity" for v in ("body", "jerk", "gyro", "gyro-jerk")),
)


def activity_examples(observations: Sequence[Observation]) -> Examples:
    """Windows of every subject that has all six signals."""
    parts: list[Examples] = []
    for subject, signals in by_subject(observations).items():
        labels = join(signals.get(LABEL_CODE, ()))
        series = [at_rate(join(signals.get(code, ())), RATE_HZ) for code in (*ACCELERATION, *ROTATION)]
        parts.extend(_examples(subject, frame, labels) for frame in align(series))
    return concatenate(parts, FEATURE_NAMES)


def _examples(subject: str, frame: Frame, label_series: Sequence[Series]) -> Examples:
    labels = _labels(frame.t_us, label_series)
    starts = _window_starts(labels)
    features = window_features(frame.values[:3], frame.values[3:], starts)
    return Examples(
        features=features,
        labels=labels[starts].astype(np.int32),
        subjects=np.full(len(starts), subject),
        t_us=np.round(frame.t_us[starts]).astype(np.int64),
        feature_names=FEATURE_NAMES,
    )


def window_features(acceleration: Floats, rotation: Floats, starts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Features of the windows that begin at `starts`, shape (n_windows, n_features).

    Args:
        acceleration: m/s2, shape (3, n), without a gap, at 50 Hz.
        rotation: deg/s, shape (3, n).
    """
    if not len(starts):
        return np.empty((0, len(FEATURE_NAMES)), np.float32)
    gravity = low_pass(acceleration)
    body = acceleration - gravity
    vectors = np.stack(
        [body, gravity, np.gradient(body, 1 / RATE_HZ, axis=1), rotation, np.gradient(rotation, 1 / RATE_HZ, axis=1)]
    )
    index = starts[:, None] + np.arange(WINDOW)
    windows = np.moveaxis(vectors[:, :, index], 2, 0)  # (n_windows, vector, axis, WINDOW)
    magnitudes = np.sqrt(np.square(windows).sum(axis=2))
    channels = np.concatenate([windows.reshape(len(starts), -1, WINDOW), magnitudes], axis=1)
    spectral = [i for i, c in enumerate(_CHANNELS) if c in _SPECTRAL]
    columns = [
        time_features(channels).reshape(len(starts), -1),
        frequency_features(channels[:, spectral], RATE_HZ).reshape(len(starts), -1),
        _correlations(windows),
        np.log10(np.abs(windows).sum(axis=2).mean(axis=2) + 1e-3),
        _angles(windows),
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


def low_pass(acceleration: Floats) -> Floats:
    """Gravity: what is left below 0.3 Hz, without phase shift, shape as given. A short stretch gives its mean."""
    sos = scipy.signal.butter(3, GRAVITY_CUTOFF_HZ, fs=RATE_HZ, output="sos")
    if acceleration.shape[1] < WINDOW:
        return np.broadcast_to(acceleration.mean(axis=1, keepdims=True), acceleration.shape)
    padding = min(acceleration.shape[1] - 1, 4 * WINDOW)
    return np.asarray(scipy.signal.sosfiltfilt(sos, acceleration, axis=1, padtype="even", padlen=padding))


def _labels(t_us: Floats, series: Sequence[Series]) -> NDArray[np.int64]:
    """The class at each time, shape (n,): 0 to 5, and -1 where none of the six was marked."""
    labels = np.full(len(t_us), -1, np.int64)
    for s in series:
        start, end = s.span_us()
        here = (t_us >= start) & (t_us <= end)
        marked = np.round(nearest(s, t_us[here])).astype(np.int64)
        labels[here] = np.where((marked >= 1) & (marked <= len(CLASSES)), marked - 1, -1)
    return labels


def _window_starts(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where windows begin, such that each has one label throughout."""
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(labels)) + 1, [len(labels)]])
    starts = [np.arange(a, b - WINDOW + 1, STEP) for a, b in itertools.pairwise(bounds)]
    return np.concatenate(starts).astype(np.int64)


def _correlations(windows: Floats) -> Floats:
    """Pearson correlation of each pair of axes, shape (n_windows, 15); 0 where an axis is constant."""
    centred = windows - windows.mean(axis=3, keepdims=True)
    norms = np.sqrt(np.square(centred).sum(axis=3))
    pairs = [
        (centred[:, :, i] * centred[:, :, j]).sum(axis=2) / np.maximum(norms[:, :, i] * norms[:, :, j], 1e-9)
        for *_, i, j in _PAIRS
    ]
    return np.stack(pairs, axis=2).reshape(len(windows), -1)


def _angles(windows: Floats) -> Floats:
    """Cosines: of the mean gravity with each axis, and with the mean of each other vector; shape (n_windows, 7)."""
    means = windows.mean(axis=3)
    units = means / np.maximum(np.linalg.norm(means, axis=2, keepdims=True), 1e-9)
    gravity = units[:, 1]
    others = np.einsum("nva,na->nv", units[:, [0, 2, 3, 4]], gravity)
    return np.concatenate([gravity, others], axis=1)


ACTIVITY = Task(
    name="activity",
    title="What a person does, from movement at the waist or wrist",
    signals=frozenset((*ACCELERATION, *ROTATION, LABEL_CODE)),
    label_code=LABEL_CODE,
    classes=CLASSES,
    metric="accuracy",
    feature_names=FEATURE_NAMES,
    examples=activity_examples,
)
