"""What patients bring: a CSV as the app of a wearable exports it, a recording as a Holter recorder leaves it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from wardround.demo.motion import simulate_motion

WORDS = ("", "Walk", "Walk Upstairs", "Walk Downstairs", "Sit", "Stand", "Lie")
PEOPLE = 12


def export(path: Path) -> None:
    """What a wearable's app writes: milliseconds, g, degrees a second, words for what was done."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        axes = [f"{kind}_{axis}_{unit}" for kind, unit in (("acc", "g"), ("gyro", "dps")) for axis in "xyz"]
        rows.writerow(["timestamp", "person", *axes, "activity"])
        for person in range(PEOPLE):
            tracks = {t.key: t for t in simulate_motion("p", "d", seed=person, duration_s=75).tracks}
            accel = [tracks[f"accel-{a}"].counts * tracks[f"accel-{a}"].scale / 9.80665 for a in "xyz"]
            gyro = [tracks[f"gyro-{a}"].counts * tracks[f"gyro-{a}"].scale for a in "xyz"]
            for i, label in enumerate(tracks["activity-label"].counts):
                cells = [f"{values[i]:.4f}" for values in (*accel, *gyro)]
                rows.writerow([1772352000000 + 20 * i, f"P{person:02d}", *cells, WORDS[label]])


def record(folder: Path) -> None:
    """recording.hea and .dat, in WFDB: two seconds of one lead."""
    samples = np.round(200 * np.sin(np.arange(500) / 20)).astype("<i2")
    lead = f"recording.dat 16 200(0)/mV 16 0 {samples[0]} {samples.sum(dtype='<i2')} 0 MLII"
    (folder / "recording.hea").write_text(f"recording 1 250 500 12:00:00 01/03/2026\n{lead}\n")
    (folder / "recording.dat").write_bytes(samples.tobytes())
