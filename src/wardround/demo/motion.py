"""Simulated people with a phone at the waist, labelled as simulated wherever they show: the six activities of `activity`.

Ours, after what the recordings of Reyes-Ortiz et al. (Neurocomputing 171, 2016) look like: gait is a fundamental with two
harmonics whose rate, strength and impacts differ with stairs, from person to person and from one stretch to the next; at rest
the direction of gravity tells lying from upright, and sitting from standing only by how a person leans and how the phone is worn.
So sitting and standing, and walking and stairs, are mixed up now and then, as in the recordings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wardround.demo.recording import Recording, Track

HZ = 50.0
STRETCH_S = (12.0, 20.0)  # of one activity
GRAVITY = 9.81
ACCEL_PER_COUNT, GYRO_PER_COUNT = 0.003, 0.02  # m/s2, deg/s
SOURCE = "simulated: movement at the waist by Wardround"
WALKING, UPSTAIRS, DOWNSTAIRS, SITTING, STANDING, LAYING = range(1, 7)
# Of a stair relative to level ground: rate of steps, strength, share of the impacts' harmonics, forward lean (rad).
_GAITS = {WALKING: (1.0, 1.0, 0.35, 0.0), UPSTAIRS: (0.88, 0.95, 0.25, 0.18), DOWNSTAIRS: (1.06, 1.3, 0.6, -0.05)}

Floats = NDArray[np.float64]


def simulate_motion(patient: str, device: str, *, seed: int, duration_s: float) -> Recording:
    """One person with one phone, the same for the same seed; activities follow each other in a random order."""
    rng = np.random.default_rng(seed)
    person = _Person(rng)
    accel: list[Floats] = []
    gyro: list[Floats] = []
    labels: list[NDArray[np.int32]] = []
    left = int(duration_s * HZ)
    while left > 0:
        for activity in rng.permutation(np.arange(WALKING, LAYING + 1)):
            n = min(left, int(rng.uniform(*STRETCH_S) * HZ))
            a, g = person.gait(int(activity), n) if activity in _GAITS else person.rest(int(activity), n)
            accel.append(a)
            gyro.append(g)
            labels.append(np.full(n, activity, np.int32))
            left -= n
    tracks = [
        Track(f"{kind}-{axis}", unit, 1 / HZ, np.clip(np.round(run / scale), -32767, 32766).astype(np.int32), scale)
        for kind, unit, parts, scale in (("accel", "m/s2", accel, ACCEL_PER_COUNT), ("gyro", "deg/s", gyro, GYRO_PER_COUNT))
        for axis, run in zip("xyz", np.concatenate(parts, axis=1), strict=True)
    ]
    tracks.append(Track("activity-label", "1", 1 / HZ, np.concatenate(labels)))
    return Recording(patient, device, len(tracks[0].counts) / HZ, True, SOURCE, tuple(tracks))


class _Person:
    """How one person moves, and how the phone is worn: x is up, y to the left, z ahead."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._step_hz = rng.uniform(1.65, 2.05)
        self._strength = rng.uniform(2.0, 3.6)  # m/s2
        self._sway = rng.uniform(0.3, 0.7)
        self._turn = rng.uniform(25.0, 60.0)  # deg/s
        self._worn = rng.normal(0.0, 0.1, 2)  # the phone's own lean, rad: forward and sideways
        self._sits = rng.uniform(0.05, 0.45)  # leaning back, rad
        self._still = rng.uniform(0.02, 0.06)

    def gait(self, activity: int, n: int) -> tuple[Floats, Floats]:
        """Acceleration, m/s2, and rotation, deg/s, each of shape (3, n)."""
        rng = self._rng
        rate, strength, impacts, lean = _GAITS[activity]
        drift = np.cumsum(rng.normal(0, 0.004, n))
        phase = 2 * np.pi * self._step_hz * rate * rng.normal(1, 0.04) * np.arange(n) / HZ + drift + rng.uniform(0, 2 * np.pi)
        size = self._strength * strength * rng.normal(1, 0.12)
        hard = impacts * rng.uniform(0.7, 1.3)
        up = size * (np.sin(phase) + hard * np.sin(2 * phase + 0.6) + 0.5 * hard * np.sin(3 * phase + 1.1))
        side = size * self._sway * np.sin(phase / 2 + 0.4)
        ahead = 0.6 * size * np.sin(phase + 1.2 + lean)
        body = np.stack([up, side, ahead]) + rng.normal(0, 0.5, (3, n))
        turn = self._turn * rng.normal(1, 0.1) * strength
        rotation = np.stack([turn * np.sin(phase / 2), 0.6 * turn * np.sin(phase + 0.8), 0.4 * turn * np.cos(phase / 2)])
        return self._gravity(lean + rng.normal(0, 0.06), n) + body, rotation + rng.normal(0, 6.0, (3, n))

    def rest(self, activity: int, n: int) -> tuple[Floats, Floats]:
        """As gait, of somebody who sits, stands or lies."""
        rng = self._rng
        lean = {SITTING: -self._sits, STANDING: 0.0, LAYING: -np.pi / 2}[activity] + rng.normal(0, 0.07)
        sway = np.cumsum(rng.normal(0, 0.0005 if activity == STANDING else 0.0002, n))
        noise = self._still * (1.3 if activity == STANDING else 1.0)
        return self._gravity(lean + sway, n) + rng.normal(0, noise, (3, n)), rng.normal(0, 20 * noise, (3, n))

    def _gravity(self, lean: float | Floats, n: int) -> Floats:
        """What the sensor feels of gravity when the trunk leans forward by `lean` (rad)."""
        forward = np.broadcast_to(lean + self._worn[0], (n,))
        side = self._worn[1]
        return GRAVITY * np.stack([np.cos(forward) * np.cos(side), np.full(n, np.sin(side)), np.sin(forward) * np.cos(side)])
