"""What the joint advisory detectors say: false notices in health, and faults of several numbers at once that no single one shows.

Simulated rounds of edges that differ: loss, seconds, examples, confidence and counts of inputs, each with its own noise. From a
round on one edge has all of them moved by so many of its own deviations. Beside each detector: the watch of single numbers
(watch/model_watch.py) in the same rounds. Needs the extra `advisory`.

    python bench/advisory.py [--seeds 3] [--healthy 2000] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wardround.row_counts import CONFIDENCE_BINS, INPUT_BINS
from wardround.watch.advisory import DETECTORS, Advisory
from wardround.watch.model_watch import EdgeSeen, ModelWatch, RoundSeen

EDGES, FEATURES, ROWS = 20, 8, 256
BEFORE, AFTER = 250, 60  # rounds of health before a fault, and rounds with it
MOVED = (1.0, 1.5, 2.0)  # own deviations
WATCH = "single numbers"
SETTINGS: dict[str, Sequence[str]] = {**{name: (name,) for name in DETECTORS}, "both": tuple(DETECTORS)}


def rounds(seed: int, count: int, *, moved: float = 0.0, since: int = 0, edges: int = EDGES) -> Iterator[RoundSeen]:
    """Rounds in which edge-0 has every number moved, from `since` on."""
    rng = np.random.default_rng(seed)
    names = [f"edge-{i}" for i in range(edges)]
    usual = {name: (0.4 + 0.3 * rng.random(), 2 + 8 * rng.random(), rng.normal(0, 0.3)) for name in names}
    for number in range(count):
        seen = {}
        for name in names:
            by = moved if name == "edge-0" and number >= since else 0.0
            loss, seconds, level = usual[name]
            noise = rng.normal(size=6)
            noise[:5] += by
            middle = np.arange(INPUT_BINS - 1) - 3.5 - level - 0.15 * noise[3]
            shape = np.exp(-0.5 * (middle / (1.5 + 0.08 * noise[4])) ** 2)
            inputs = np.zeros((FEATURES, INPUT_BINS), np.uint32)
            inputs[:, :-1] = rng.multinomial(ROWS, shape / shape.sum(), size=FEATURES)
            sure = np.exp(0.4 * np.arange(CONFIDENCE_BINS) * (1 - 0.06 * noise[2]))
            confidence = np.zeros((CONFIDENCE_BINS, 3), np.uint32)
            confidence[:, 0] = rng.multinomial(ROWS, sure / sure.sum())
            if rng.random() < 0.85:
                seen[name] = EdgeSeen(
                    examples=200 + int(5 * rng.normal()),
                    loss=(loss + 0.5 * np.exp(-number / 8)) * float(np.exp(0.05 * noise[0])),
                    seconds=seconds * float(np.exp(0.2 * noise[1])),
                    trained_s=0.8 * seconds * float(np.exp(0.2 * noise[5] * 0.5 + 0.1 * noise[1])),
                    inputs=inputs,
                    confidence=confidence,
                )
        yield RoundSeen(number=number, edges=seen, asked=edges, step_norm=float(np.exp(0.05 * rng.normal())))


def healthy(names: Sequence[str], seed: int, count: int) -> float:
    """Notices in 1,000 rounds of health, after calibration."""
    advisory, said, fresh = Advisory(names, budget_per_1000=2.0), 0, 0
    for seen in rounds(seed, BEFORE + count):
        told = len(advisory.round(seen, accused=(), healthy=True))
        if advisory.calibrated:
            fresh, said = fresh + 1, said + told
    return 1000 * said / fresh


def fault(names: Sequence[str], seed: int, moved: float) -> dict[str, Any]:
    """Rounds until edge-0 is named, None: it is not; and how often another one is."""
    advisory, watch = Advisory(names, budget_per_1000=2.0), ModelWatch("bench", features=[f"f{i}" for i in range(FEATURES)])
    delay, alone, wrong = None, None, 0
    for seen in rounds(seed, BEFORE + AFTER, moved=moved, since=BEFORE):
        for deviation in watch.round(seen):
            if deviation.state == "new" and deviation.edge == "edge-0" and seen.number >= BEFORE and alone is None:
                alone = seen.number - BEFORE
        for advice in advisory.round(seen, accused=(), healthy=True):
            if seen.number >= BEFORE:
                wrong += advice.edge != "edge-0"
                if advice.edge == "edge-0" and delay is None:
                    delay = seen.number - BEFORE
    return {"delay": delay, "alone": alone, "wrong": wrong}


def cost(names: Sequence[str], edges: int = 100) -> float:
    """CPU milliseconds a round."""
    advisory, spent = Advisory(names, budget_per_1000=2.0), []
    for seen in rounds(0, 100, edges=edges):
        began = time.process_time()
        advisory.round(seen, accused=(), healthy=True)
        spent.append(time.process_time() - began)
    return 1000 * statistics.mean(spent[60:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--healthy", type=int, default=2_000)
    parser.add_argument("--json", action="store_true")
    own = parser.parse_args()
    table = []
    for label, names in SETTINGS.items():
        row: dict[str, Any] = {"detector": label, "per_1000": [healthy(names, 100 + s, own.healthy) for s in range(own.seeds)]}
        for moved in MOVED:
            row[f"moved {moved}"] = [fault(names, s, moved) for s in range(own.seeds)]
        row["ms_a_round"] = cost(names)
        table.append(row)
    if own.json:
        print(json.dumps(table, indent=2))
        return
    print(f"{EDGES} edges; one has every number moved from round {BEFORE} on. Delay in rounds by seed, -: not in {AFTER}.")
    print(f"{'':18}{'false/1,000':>14}" + "".join(f"{f'moved {m} sd':>22}" for m in MOVED) + f"{'ms a round':>12}")
    for row in table:
        delays = ["/".join("-" if f["delay"] is None else str(f["delay"]) for f in row[f"moved {m}"]) for m in MOVED]
        print(
            f"{row['detector']:18}{statistics.mean(row['per_1000']):14.2f}"
            + "".join(f"{d:>22}" for d in delays)
            + f"{row['ms_a_round']:12.1f}"
        )
    alone = ["/".join("-" if f["alone"] is None else str(f["alone"]) for f in table[0][f"moved {m}"]) for m in MOVED]
    print(f"{WATCH:18}{'':14}" + "".join(f"{d:>22}" for d in alone))
    wrong = sum(f["wrong"] for row in table for m in MOVED for f in row[f"moved {m}"])
    print(f"other edges named in the {len(table) * len(MOVED) * own.seeds} runs with a fault: {wrong}")


if __name__ == "__main__":
    main()
