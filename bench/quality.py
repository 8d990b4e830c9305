"""How good the models are on real recordings of people no edge has seen: each edge alone, federated, pooled.

    python bench/quality.py --data DIR [--json]

DIR has har_smartphone/ and mitbih_subset/ (more subjects in the same layout are taken in). Each training subject is an
edge. The path is the product's: chunks of observations, Task.examples, Learner, FedAvg; only links and disks are left
out. Settings are learn.study.PRESETS, chosen by leaving out training subjects; nothing here looks at the test part but
the scores. The references (each edge alone, pooled) pass over their data as often as is best for left-out training subjects.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from recordings import activity_subject, ecg_record
from wardround.learn.baselines import EPOCHS, train_alone
from wardround.learn.learners import Learner, make_learner
from wardround.learn.models import MemoryTensors, Parameters
from wardround.learn.scaling import fold_sums, with_scaling
from wardround.learn.scores import METRICS, by_group, gap_closed, worst
from wardround.learn.strategies import WeightedUpdate, make_strategy
from wardround.learn.study import PRESETS, LearnerSettings
from wardround.process.transforms import TASKS, Task
from wardround.records import Examples, Observation, concatenate

# Anguita et al. 2013, the official test subjects.
ACTIVITY_TEST = {2, 4, 9, 10, 12, 13, 18, 20, 24}
# de Chazal et al. 2004: DS2, and the paced records that AAMI EC57 leaves out.
BEATS_TEST = {100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234}
BEATS_LEFT_OUT = {102, 104, 107, 217}
ROUNDS = {"activity": 30, "ventricular-beats": 30}
SHOWN = (1, 3, 5, 10, 12, 15, 20, 25, 30)

Edges = Mapping[str, Examples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with har_smartphone/ and mitbih_subset/")
    parser.add_argument("--json", action="store_true", help="print facts instead of tables")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = []
    for load in (_activity, _beats):
        task, train, test, made_s = load(arguments.data)
        results.append({"examples_seconds": round(made_s, 2), **compare(task, train, test, arguments.seed)})
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        for result in results:
            _print(result)


def compare(task: Task, train: Edges, test: Edges, seed: int) -> dict[str, object]:
    """Each edge alone, federated by round, and pooled, all scored on the subjects of `test` together."""
    settings, rounds = PRESETS[task.name], ROUNDS[task.name]
    held_back = concatenate(test.values(), task.feature_names)
    score = METRICS[task.metric]

    def scored(learner: Learner, model: Parameters) -> float:
        return score(held_back.labels, learner.predict(model, held_back.features))

    alone = {name: scored(*train_alone(task, settings, examples, seed=seed)) for name, examples in train.items()}
    pooled_learner, pooled_model = train_alone(task, settings, concatenate(train.values(), task.feature_names), seed=seed)
    pooled = scored(pooled_learner, pooled_model)
    learner = make_learner(settings, len(task.feature_names), len(task.classes))
    by_round: dict[int, float] = {}
    costs: list[float] = []
    start = time.perf_counter()
    model = learner.initial(seed)
    for number, (fresh, cost) in enumerate(_federated(learner, settings, train, rounds, seed), start=1):
        model = fresh
        costs.append(cost)
        if number in SHOWN:
            by_round[number] = scored(learner, model)
    seconds = time.perf_counter() - start
    probabilities = learner.predict(model, held_back.features)
    local_mean = float(np.mean(list(alone.values())))
    each = by_group(task.metric, held_back.labels, probabilities, held_back.subjects)
    return {
        "task": task.name,
        "metric": task.metric,
        "settings": msgspec.to_builtins(settings),
        "reference_epochs": EPOCHS,
        "edges": len(train),
        "test": list(test),
        "examples": {
            "train": sum(int((e.labels >= 0).sum()) for e in train.values()),
            "test": int((held_back.labels >= 0).sum()),
        },
        "local_only_mean": local_mean,
        "local_only_worst": min(alone.values()),
        "federated_by_round": by_round,
        "federated": by_round[max(by_round)],
        "federated_each": each,
        "federated_worst": worst(each),
        "other_metrics": {m: METRICS[m](held_back.labels, probabilities) for m in _also(task)},
        "pooled": pooled,
        "gap_closed_by_round": {r: gap_closed(local_mean, value, pooled) for r, value in by_round.items()},
        "federated_seconds": round(seconds, 2),
        "edge_cpu_seconds_per_round_median": float(np.median(costs[1:] or costs)),
    }


def _federated(
    learner: Learner, settings: LearnerSettings, train: Edges, rounds: int, seed: int
) -> Sequence[tuple[Parameters, float]]:
    """The model after each round, and the mean seconds an edge trained in it."""
    strategy = make_strategy("fedavg")
    sums = fold_sums(learner.statistics(e) for e in train.values())
    model = with_scaling(learner.initial(seed), sums, class_weighting=settings.class_weighting)
    models: list[tuple[Parameters, float]] = []
    for number in range(1, rounds + 1):
        start = time.process_time()
        trained = [learner.train(model, e, seed=seed + i, round=number) for i, e in enumerate(train.values())]
        cost = (time.process_time() - start) / len(trained)
        model = strategy.fold(model, [WeightedUpdate(MemoryTensors(t.update), t.examples) for t in trained])
        models.append((model, cost))
    return models


def _activity(data: Path) -> tuple[Task, Edges, Edges, float]:
    files = {int(p.stem.removeprefix("subject")): p for p in sorted((data / "har_smartphone").glob("subject*.parquet"))}
    return _split(TASKS["activity"], files, ACTIVITY_TEST, activity_subject)


def _beats(data: Path) -> tuple[Task, Edges, Edges, float]:
    files = {int(p.stem.removesuffix("_ecg")): p for p in sorted((data / "mitbih_subset").glob("*_ecg.parquet"))}
    files = {record: p for record, p in files.items() if record not in BEATS_LEFT_OUT}
    return _split(TASKS["ventricular-beats"], files, BEATS_TEST, ecg_record)


def _split(
    task: Task, files: Mapping[int, Path], held_back: set[int], read: Callable[[Path], list[Observation]]
) -> tuple[Task, Edges, Edges, float]:
    """Examples of the training and of the test subjects, by subject, and the CPU seconds it took to make them."""
    if not set(files) & held_back or not set(files) - held_back:
        raise SystemExit(f"{task.name}: --data must hold subjects of both the training and the test part")
    seconds = 0.0
    examples: dict[int, Examples] = {}
    for number, path in files.items():
        observations = read(path)
        start = time.process_time()
        examples[number] = task.examples(observations)
        seconds += time.process_time() - start
    train = {str(n): e for n, e in examples.items() if n not in held_back}
    test = {str(n): e for n, e in examples.items() if n in held_back}
    return task, train, test, seconds


def _also(task: Task) -> Sequence[str]:
    return ("auroc", "macro-f1") if len(task.classes) == 2 else ("macro-f1",)


def _print(result: Mapping[str, Any]) -> None:
    print(f"\n{result['task']}: {result['metric']} on {', '.join(result['test'])}; {result['edges']} edges, {result['examples']}")
    print(f"  local only     {result['local_only_mean']:.3f} mean, {result['local_only_worst']:.3f} worst")
    for number, value in result["federated_by_round"].items():
        closed = result["gap_closed_by_round"][number]
        print(f"  federated      {value:.4f} after {number:2d} rounds, gap closed {closed:.3f}")
    print(f"  pooled         {result['pooled']:.4f}")
    also = {**result["federated_each"], **result["other_metrics"]}
    print("  federated by subject, and other scores: " + ", ".join(f"{name} {value:.3f}" for name, value in also.items()))
    print(f"  examples made in {result['examples_seconds']} s of CPU, all rounds in {result['federated_seconds']} s, ", end="")
    print(f"one edge's round {1000 * result['edge_cpu_seconds_per_round_median']:.1f} ms of CPU")


if __name__ == "__main__":
    main()
