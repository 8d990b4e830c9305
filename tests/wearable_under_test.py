"""A CSV as the app of a wearable exports it."""

from __future__ import annotations

import csv
from pathlib import Path

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
