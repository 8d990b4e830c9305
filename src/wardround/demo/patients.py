"""Simulated patients, labelled as simulated wherever they show.

ECG: McSharry, Clifford, Tarassenko and Smith, A dynamical model for generating synthetic electrocardiogram signals, IEEE
Trans. Biomed. Eng. 50(3), 2003: waves are Gaussian kicks at angles of a cycle, dz/dt = -sum a_i d_i exp(-d_i^2 / 2 b_i^2) - z.
The cycle runs on its limit circle here, so its angle follows from the beats alone and z from one linear filter. Beat intervals
have a low (0.1 Hz) and a high (respiratory) frequency part as there. Ventricular ectopic beats are ours: early, wide, without a
P wave, with an inverted T, followed by a compensatory pause; their shape differs from patient to patient. Some patients also
have atrial ectopic beats, early like them; they are mostly narrow but may be conducted aberrantly, and a ventricular beat may
be fused with a normal one. So neither to be early nor to be wide is enough, and no model is perfect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from wardround.demo.recording import Events, Recording, Scalars, Track

ECG_HZ = 250
WRIST_HZ = 32
ECG_MV_PER_COUNT = 0.005
WRIST_PER_COUNT = 0.01  # m/s2
SOURCE = "simulated: ECG after McSharry et al. 2003, ectopic beats and vital signs by Wardround"
# P, Q, R, S, T: angle (rad), height, width (rad), from table I of the paper.
_ANGLES = np.array([-np.pi / 3, -np.pi / 12, 0.0, np.pi / 12, np.pi / 2])
_HEIGHTS = np.array([1.2, -5.0, 30.0, -7.5, 0.75])
_WIDTHS = np.array([0.25, 0.1, 0.1, 0.1, 0.4])
# An ectopic beat: no P, a wide QRS, an inverted T.
_ECTOPIC_ANGLES = np.array([-np.pi / 3, -np.pi / 7, 0.0, np.pi / 6, np.pi / 1.9])
_ECTOPIC_HEIGHTS = np.array([0.0, -2.5, 16.0, -6.0, -1.6])
_ECTOPIC_WIDTHS = np.array([0.25, 0.2, 0.3, 0.28, 0.45])

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Beats:
    """R peaks of a patient, which of them are ventricular ectopic, and how much each has of that shape: 0 none, 1 all."""

    times_s: Floats
    ectopic: NDArray[np.bool_]
    wideness: Floats


def simulate_patient(patient: str, device: str, *, seed: int, duration_s: float) -> Recording:
    """One patient with a chest patch and a wrist sensor, the same for the same seed."""
    rng = np.random.default_rng(seed)
    beats = simulate_beats(rng, duration_s)
    ecg_mv = simulate_ecg_mv(rng, beats, duration_s)
    x, y, z = simulate_wrist(rng, duration_s)
    return Recording(
        patient=patient,
        device=device,
        duration_s=duration_s,
        simulated=True,
        source=SOURCE,
        tracks=(
            Track("ecg-ii", "mV", 1 / ECG_HZ, _counts(ecg_mv, ECG_MV_PER_COUNT), ECG_MV_PER_COUNT),
            *(
                Track(f"accel-{axis}", "m/s2", 1 / WRIST_HZ, _counts(values, WRIST_PER_COUNT), WRIST_PER_COUNT)
                for axis, values in zip("xyz", (x, y, z), strict=True)
            ),
        ),
        events=(Events("beat-label", beats.times_s, beats.ectopic.astype(np.int32)),),
        scalars=_vitals(rng, beats, duration_s),
    )


def simulate_beats(rng: np.random.Generator, duration_s: float) -> Beats:
    """Beat times with heart-rate variability; 1 to 20 % of them ventricular ectopic and up to 8 % atrial, by patient."""
    mean_s = 60.0 / rng.uniform(58, 92)
    share = float(np.exp(rng.uniform(np.log(0.01), np.log(0.20))))
    atrial_share = rng.uniform(0.0, 0.08)
    n = int(duration_s / mean_s * 1.3) + 10
    t = np.arange(n) * mean_s
    breathing_hz = rng.uniform(0.2, 0.3)
    low, high = rng.uniform(0.01, 0.03), rng.uniform(0.01, 0.03)
    phase = rng.uniform(0, 2 * np.pi, 2)
    intervals = mean_s * (
        1
        + low * np.sin(2 * np.pi * 0.1 * t + phase[0])
        + high * np.sin(2 * np.pi * breathing_hz * t + phase[1])
        + 0.01 * rng.standard_normal(n)
    )
    ectopic = rng.random(n) < share
    ectopic[1:] &= ~ectopic[:-1]  # one at a time: a run of them is another disease
    ectopic[0] = False
    atrial = (rng.random(n) < atrial_share) & ~ectopic & ~np.roll(ectopic, 1) & ~np.roll(ectopic, -1)
    early = np.flatnonzero((ectopic | atrial)[:-1])
    prematurity = rng.uniform(0.6, 0.92, len(early))
    pause = np.where(ectopic[early], 1.0, rng.uniform(0.0, 0.6))  # an atrial beat resets the sinus node: hardly a pause
    intervals[early + 1] += intervals[early] * (1 - prematurity) * pause
    intervals[early] *= prematurity
    times = 0.4 + np.cumsum(intervals)
    inside = times < duration_s - 0.4
    fused, aberrant = rng.uniform(0.35, 0.8), rng.uniform(0.05, 0.35)  # of this patient: the least and the most
    wideness = np.where(ectopic, rng.uniform(fused, 1.0, n), np.where(atrial, rng.uniform(0.0, aberrant, n), 0.0))
    return Beats(times[inside], ectopic[inside], wideness[inside])


def simulate_ecg_mv(rng: np.random.Generator, beats: Beats, duration_s: float) -> Floats:
    """The ECG of these beats, millivolts, at ECG_HZ, with noise and a wandering baseline."""
    t = np.arange(int(duration_s * ECG_HZ)) / ECG_HZ
    angle, owner, speed = _cycle(t, beats.times_s)
    shape = rng.normal(1.0, 0.15, (2, 5))
    widths = rng.normal(1.0, 0.15, (2, 5))
    widths[1] *= rng.uniform(0.55, 1.0)  # some ventricular beats are hardly wide (they begin near the septum)
    polarity = 1.0 if rng.random() < 0.7 else -1.0
    drive = np.zeros_like(t)
    wideness = beats.wideness[owner]
    for i in range(5):
        normal = (_ANGLES[i], _HEIGHTS[i] * shape[0, i], _WIDTHS[i] * widths[0, i])
        wide = (_ECTOPIC_ANGLES[i], polarity * _ECTOPIC_HEIGHTS[i] * shape[1, i], _ECTOPIC_WIDTHS[i] * widths[1, i])
        for (at, height, width), part in ((normal, 1.0 - wideness), (wide, wideness)):
            d = angle - at
            drive -= part * height * d * np.exp(-(d**2) / (2 * width**2)) * speed / (2 * np.pi)
    z = lfilter([1 / ECG_HZ], [1, -(1 - 1 / ECG_HZ)], drive)  # dz/dt = drive - z, explicit Euler
    z *= rng.uniform(0.8, 1.5) / max(float(np.percentile(np.abs(z), 99.7)), 1e-9)
    wander = 0.08 * np.sin(2 * np.pi * rng.uniform(0.2, 0.33) * t + rng.uniform(0, 6))
    hum = 0.01 * np.sin(2 * np.pi * 50.0 * t)
    return np.asarray(z + wander + hum + rng.uniform(0.02, 0.06) * rng.standard_normal(len(t)), np.float64)


def _cycle(t: Floats, peaks_s: Floats) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Angle of each sample in its beat's cycle (0 at the R peak), the beat it belongs to, and the angular speed (rad/s)."""
    after = np.clip(np.searchsorted(peaks_s, t), 1, len(peaks_s) - 1)
    interval = peaks_s[after] - peaks_s[after - 1]
    part = (t - peaks_s[after - 1]) / interval
    second_half = part > 0.5
    owner = np.where(second_half, after, after - 1)
    # Waves keep their time, not their angle, at other rates (Bazett's square root, as in the paper).
    stretch = np.sqrt(interval)
    since_s = np.where(second_half, t - peaks_s[after], t - peaks_s[after - 1])
    angle = np.clip(2 * np.pi * since_s / stretch, -np.pi * 1.5, np.pi * 1.5)
    return angle, owner, 2 * np.pi / stretch


def simulate_wrist(rng: np.random.Generator, duration_s: float) -> tuple[Floats, Floats, Floats]:
    """Wrist acceleration, m/s2, at WRIST_HZ: gravity, rest, and some stretches of walking."""
    n = int(duration_s * WRIST_HZ)
    t = np.arange(n) / WRIST_HZ
    walking = np.zeros(n)
    for _ in range(int(duration_s / 300) + 1):
        start = int(rng.uniform(0, max(n - 1, 1)))
        walking[start : start + int(rng.uniform(20, 60) * WRIST_HZ)] = 1.0
    tilt = np.cumsum(rng.normal(0, 0.002, n))
    step = np.sin(2 * np.pi * rng.uniform(1.6, 2.0) * t)
    x = 9.81 * np.sin(tilt) + walking * 2.0 * step + 0.05 * rng.standard_normal(n)
    y = 0.4 + walking * 1.2 * np.cos(2 * np.pi * 0.9 * t) + 0.05 * rng.standard_normal(n)
    z = 9.81 * np.cos(tilt) + walking * 3.0 * np.abs(step) + 0.05 * rng.standard_normal(n)
    return x, y, z


def _vitals(rng: np.random.Generator, beats: Beats, duration_s: float) -> tuple[Scalars, ...]:
    """Heart rate from the beats; SpO2, breathing and temperature as slow noise about the patient's own level."""
    t = np.arange(5.0, duration_s, 5.0)
    rate = np.interp(t, beats.times_s[1:], 60.0 / np.diff(beats.times_s))

    def slow(level: float, spread: float, places: int) -> Floats:
        noise = lfilter([0.1], [1, -0.9], rng.standard_normal(len(t)))
        return np.round(level + spread * 2.3 * np.asarray(noise), places)

    return (
        Scalars("heart-rate", "beat/min", t, np.round(np.clip(rate, 25, 250), 0)),
        Scalars("spo2", "%", t, np.clip(slow(rng.uniform(94, 98), 0.6, 0), 80, 100)),
        Scalars("respiratory-rate", "/min", t, np.clip(slow(rng.uniform(12, 19), 1.0, 0), 6, 40)),
        Scalars("body-temperature", "Cel", t[::12], slow(rng.uniform(36.3, 37.3), 0.05, 1)[::12]),
        Scalars("battery", "V", np.array([1.0]), np.array([3.9])),  # a firmware slip: this unit does not convert
    )


def _counts(values: Floats, step: float) -> NDArray[np.int32]:
    return np.clip(np.round(values / step), -32767, 32766).astype(np.int32)
