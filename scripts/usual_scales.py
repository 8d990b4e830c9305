"""Makes src/wardround/process/transforms/usual_scales.json: mean and spread of each task's features over simulated patients.

A study with differential privacy scales its features by these, as sums over real patients would be a release. Run it when a
task's features change: `.venv/bin/python scripts/usual_scales.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from wardround.learn.study import ScoreSettings
from wardround.process.transforms import TASKS
from wardround.rehearsal.data import simulated_population

FILE = Path(__file__).parents[1] / "src" / "wardround" / "process" / "transforms" / "usual_scales.json"
SEED = 20_240_101


def main() -> None:
    made: dict[str, dict[str, list[float]]] = {}
    for name, task in sorted(TASKS.items()):
        settings = ScoreSettings(held_back=0.0)
        people = simulated_population(task, settings, edges=100, alpha=100.0, seed=SEED, heard=lambda *_: None)
        rows = np.concatenate([e.features for e in people.edges.values()]).astype(np.float64)
        rows = np.where(np.isfinite(rows), rows, np.nan)
        mean, std = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)
        std = np.where(std > 1e-6, std, 1.0)
        made[name] = {"mean": [float(f"{v:.3g}") for v in mean], "std": [float(f"{v:.3g}") for v in std]}
    FILE.write_text(json.dumps(made, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
