"""The fold beside bare NumPy, in one run: the weighted mean from files, and the robust rules over a hundred updates.

    python bench/fold.py [--only mean,trimmed,median] [--repeats 7] [--home DIR] [--json]

`mean` is FedAvg over 10 updates of 20 MB that lie in files, as they do on the hub (in the page cache: they have just arrived),
in GB of updates per second of CPU; the rival adds `weight * x` of arrays that are in memory already, and reads no file. `trimmed`
and `median` are 100 updates of a million parameters in memory on all cores, in seconds; the rivals are `np.sort` and the mean of
its middle rows, and `np.median`. Ours and the rival take turns, so that other work on the machine meets both; medians are
printed. Every result is compared with the rival's.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.learn.models import MemoryTensors, ModelFile, TensorSource, encode_model
from wardround.learn.strategies import Fold, WeightedUpdate, make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings

MEAN_EDGES, MEAN_PARAMETERS = 10, 5_000_000
ROBUST_EDGES, ROBUST_PARAMETERS = 100, 1_000_000
FAULTY_SHARE = 0.1
GB_A_CPU_SECOND_MIN, ROBUST_RATIO_MIN = 7.0, 3.0
Values = NDArray[Any]


def in_turn(ours: Callable[[], Values], rival: Callable[[], Values], repeats: int) -> dict[str, float]:
    """Median wall and CPU seconds of both, and how far their results are apart."""
    seconds: dict[str, list[tuple[float, float]]] = {"ours": [], "rival": []}
    results: dict[str, Values] = {}
    for _ in range(repeats):
        for name, work in (("ours", ours), ("rival", rival)):
            wall, cpu = time.perf_counter(), time.process_time()
            results[name] = work()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    facts = {"largest_difference": float(np.abs(results["ours"] - results["rival"]).max())}
    for name, pairs in seconds.items():
        facts[f"{name}_s"] = statistics.median(wall for wall, _ in pairs)
        facts[f"{name}_cpu_s"] = statistics.median(cpu for _, cpu in pairs)
    return facts


def folded(strategy: str, base: TensorSource, sources: Sequence[TensorSource]) -> Callable[[], Values]:
    """The product's fold of these updates, all of one example count."""
    rule = make_strategy(StrategySettings(name=strategy, faulty_share=FAULTY_SHARE), LearnerSettings())
    given = Fold(base, [WeightedUpdate(source, 50) for source in sources], fleet=len(sources))
    return lambda: rule.fold(given).model["w"]


def mean_case(home: Path, repeats: int) -> dict[str, Any]:
    """FedAvg from files."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(MEAN_PARAMETERS, np.float32) for _ in range(MEAN_EDGES)]
    start = np.zeros(MEAN_PARAMETERS, np.float32)
    weight = np.float32(1 / MEAN_EDGES)

    def bare() -> Values:
        total = np.zeros(MEAN_PARAMETERS, np.float32)
        for array in arrays:
            total += weight * array
        return start + total

    with ExitStack() as opened:
        files = []
        for number, array in enumerate([start, *arrays]):
            path = home / f"{number}.safetensors"
            path.write_bytes(encode_model({"w": array}))
            files.append(opened.enter_context(ModelFile(path)))
        facts: dict[str, Any] = in_turn(folded("fedavg", files[0], files[1:]), bare, repeats)
    gigabytes = MEAN_EDGES * MEAN_PARAMETERS * 4 / 1e9
    for name in ("ours", "rival"):
        facts[f"{name}_gb_a_cpu_s"] = gigabytes / facts[f"{name}_cpu_s"]
    slow = facts["ours_gb_a_cpu_s"] < GB_A_CPU_SECOND_MIN
    facts["missed"] = [f"{facts['ours_gb_a_cpu_s']:.1f} < {GB_A_CPU_SECOND_MIN:g} GB a CPU second"] if slow else []
    return _compared(facts)


def robust_case(strategy: str, rival: Callable[[Values], Values], repeats: int) -> dict[str, Any]:
    """A robust rule from memory."""
    stack = np.random.default_rng(0).standard_normal((ROBUST_EDGES, ROBUST_PARAMETERS), np.float32)
    base = MemoryTensors({"w": np.zeros(ROBUST_PARAMETERS, np.float32)})
    ours = folded(strategy, base, [MemoryTensors({"w": row}) for row in stack])
    facts: dict[str, Any] = in_turn(ours, lambda: rival(stack), repeats)
    facts["times_faster"] = facts["rival_s"] / facts["ours_s"]
    facts["times_less_cpu"] = facts["rival_cpu_s"] / facts["ours_cpu_s"]
    slow = facts["times_faster"] < ROBUST_RATIO_MIN
    facts["missed"] = [f"{facts['times_faster']:.2f} < {ROBUST_RATIO_MIN:g} times faster"] if slow else []
    return _compared(facts)


def _compared(facts: dict[str, Any]) -> dict[str, Any]:
    if facts["largest_difference"] > 1e-6:  # of values about one, in float32
        facts["missed"].append(f"results differ by {facts['largest_difference']:.2g}")
    return facts


def trimmed(stack: Values) -> Values:
    """The rival of the trimmed mean."""
    cut = math.ceil(FAULTY_SHARE * len(stack))
    return np.asarray(np.sort(stack, axis=0)[cut : len(stack) - cut].mean(axis=0))


def median(stack: Values) -> Values:
    """The rival of the coordinate median."""
    return np.asarray(np.median(stack, axis=0))


def main() -> int:
    """Measure, print, and end with 1 when something is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="mean,trimmed,median")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--home", help="where the files of `mean` lie")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for name in given.only.split(","):
        if name == "mean":
            with tempfile.TemporaryDirectory(dir=given.home) as home:
                facts = found[name] = mean_case(Path(home), given.repeats)
        elif name == "trimmed":
            facts = found[name] = robust_case("trimmed-mean", trimmed, given.repeats)
        elif name == "median":
            facts = found[name] = robust_case("coordinate-median", median, given.repeats)
        else:
            parser.error(f"there is no case {name!r}: mean, trimmed, median")
        if not given.json:
            print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in facts.items() if key != "missed"))
            for missed in facts["missed"]:
                print(f"  {name} missed: {missed}")
    if given.json:
        print(json.dumps(found))
    return 1 if any(f["missed"] for f in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
