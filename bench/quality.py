"""How good the models are on real data of people and hospitals no edge has seen: each edge alone, federated, pooled.

    python bench/quality.py --data DIR [--only activity,icu,...] [--json]

DIR has har_smartphone/, mitbih_subset/, icu_vitals/, eicu_demo/ and heart_disease/ (more subjects or stays in the same layout are
taken in; what is absent is left out and said). Each subject, record, unit or hospital is an edge. Learner, rules, folds and
selection are the product's own, through learn.fleet; only links and disks are left out, and the tests hold the two equal.

Every setting was chosen by leaving out parts of the training part; nothing here looks at the test part but the scores. The
references (each edge alone, all data pooled) use the same learner, with as many passes as are best for left-out training data.
`reference` is what was measured with scikit-learn on the same data by others: a yardstick from outside, not a limit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import hospitals
from recordings import activity_subject, ecg_record
from wardround.learn.fleet import Fleet
from wardround.learn.learners import Learner, make_learner
from wardround.learn.models import Parameters
from wardround.learn.scaling import with_scaling
from wardround.learn.scores import METRICS, by_group, gap_closed, worst
from wardround.learn.study import LearnerSettings, RoundSettings, StrategySettings, Study
from wardround.learn.study_example import PRESETS
from wardround.process.transforms import TASKS
from wardround.records import Examples, Observation, concatenate

# Anguita et al. 2013, the official test subjects.
ACTIVITY_TEST = {2, 4, 9, 10, 12, 13, 18, 20, 24}
# de Chazal et al. 2004: DS2, and the paced records that AAMI EC57 leaves out.
BEATS_TEST = {100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234}
BEATS_LEFT_OUT = {102, 104, 107, 217}
OWN_LATER = 0.3  # the last part of a subject's own windows scores the models that are the subject's own

Edges = Mapping[str, Examples]


@dataclass(frozen=True, slots=True)
class Problem:
    """One federated task: edges to train on, and examples of others to be judged on."""

    name: str
    metric: str
    also: Sequence[str]
    classes: int
    train: Edges
    test: Edges
    learner: LearnerSettings
    rounds: int
    pooled_epochs: int = 10
    reference: Mapping[str, float] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder laid out as described above")
    parser.add_argument("--only", default=",".join(LOADERS), help=f"of {', '.join(LOADERS)}")
    parser.add_argument("--json", action="store_true", help="print facts instead of tables")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for name in arguments.only.split(","):
        folder, load = LOADERS[name]
        if not (arguments.data / folder).is_dir():
            print(f"{name}: {arguments.data / folder} is not there, left out")
            continue
        results.append(load(arguments.data, arguments.seed))
        if not arguments.json:
            _print(results[-1])
    if arguments.json:
        print(json.dumps(results, indent=2))


def compare(problem: Problem, seed: int) -> dict[str, Any]:
    """Each edge alone, federated by round, and pooled, all scored on the test part together."""
    names = next(iter(problem.test.values())).feature_names
    unseen = concatenate(problem.test.values(), names)
    groups = np.concatenate([np.full(len(e), n) for n, e in problem.test.items()])
    score = METRICS[problem.metric]

    def scored(learner: Learner, model: Parameters) -> float:
        return score(unseen.labels, learner.predict(model, unseen.features))

    def alone(examples: Examples) -> float:
        """A model of these examples and no others, scaled by their own statistics."""
        own = msgspec.structs.replace(problem.learner, epochs=problem.pooled_epochs)
        learner = make_learner(own, len(names), problem.classes)
        model = with_scaling(learner.initial(seed), learner.statistics(examples), class_weighting=own.class_weighting)
        update = learner.train(model, examples, seed=seed, round=1).update
        return scored(learner, {name: tensor + update[name] if name in update else tensor for name, tensor in model.items()})

    fleet = Fleet(_study(problem, seed), problem.train, classes=problem.classes)
    start, by_round = time.process_time(), {}
    model: Parameters = {}
    for done in fleet.run():
        model = done.model
        if done.number in {1, 2, 3, 5, 10, 15, 20, 30, 40, problem.rounds}:
            by_round[done.number] = scored(fleet.learner, model)
    seconds = time.process_time() - start
    each_alone = [alone(e) for e in problem.train.values() if (e.labels >= 0).any()]
    local = float(np.nanmean(each_alone))
    pooled = alone(concatenate(problem.train.values(), names))
    probabilities = fleet.learner.predict(model, unseen.features)
    each = by_group(problem.metric, unseen.labels, probabilities, groups)
    return {
        "task": problem.name,
        "metric": problem.metric,
        "settings": msgspec.to_builtins(problem.learner),
        "rounds": problem.rounds,
        "edges": len(problem.train),
        "examples": {"train": sum(map(len, problem.train.values())), "test": len(unseen)},
        "local_only_mean": local,
        "local_only_worst": float(np.nanmin(each_alone)),
        "pooled": pooled,
        "federated": by_round[max(by_round)],
        "federated_by_round": by_round,
        "federated_worst": worst(each),
        "federated_each": each if len(each) <= 12 else {},
        "gap_closed": gap_closed(local, by_round[max(by_round)], pooled),
        "also": {m: METRICS[m](unseen.labels, probabilities) for m in problem.also},
        "reference": dict(problem.reference),
        "cpu_seconds": round(seconds, 2),
    }


def _study(problem: Problem, seed: int, strategy: StrategySettings | None = None) -> Study:
    learner = msgspec.structs.replace(problem.learner, seed=seed)
    rounds = RoundSettings(count=problem.rounds, edges_min=1, examples_min=1)
    return Study(name="quality", task="activity", learner=learner, rounds=rounds, strategy=strategy or StrategySettings())


# -- the data sets


def activity(data: Path, seed: int) -> dict[str, Any]:
    """Six activities from a phone at the waist; subjects nobody has seen, and each subject's own later windows."""
    task = TASKS["activity"]
    files = {int(p.stem.removeprefix("subject")): p for p in sorted((data / "har_smartphone").glob("subject*.parquet"))}
    train, test = _recorded(task.examples, files, ACTIVITY_TEST, activity_subject)
    problem = Problem(
        name="activity",
        metric=task.metric,
        also=("accuracy", "macro-f1"),
        classes=len(task.classes),
        train=train,
        test=test,
        learner=PRESETS["activity"],
        rounds=30,
        reference={"accuracy of FedAvg LR, subjects 2, 10, 20": 0.929, "macro-F1 of the same": 0.934},
    )
    return {**compare(problem, seed), "personal": _personal(problem, seed)}


def _personal(problem: Problem, seed: int) -> dict[str, Any]:
    """Accuracy on each training subject's own later windows: the shared model, and the subject's own."""
    earlier, later = {}, {}
    for name, whole in problem.train.items():
        examples = whole.where(whole.labels >= 0)
        cut = np.quantile(examples.t_us, 1 - OWN_LATER)
        earlier[name], later[name] = examples.where(examples.t_us < cut), examples.where(examples.t_us >= cut)
    found: dict[str, Any] = {}
    for strategy in ("fedavg", "fine-tuning", "ditto"):
        settings = StrategySettings(name=strategy, personal_epochs=5)
        fleet = Fleet(_study(problem, seed, settings), earlier, classes=problem.classes)
        *_, last = fleet.run()
        scores = {
            name: METRICS["accuracy"](e.labels, fleet.learner.predict(fleet.personal(last.model, name), e.features))
            for name, e in later.items()
        }
        lowest = worst(scores)
        found[strategy] = {"mean": float(np.mean(list(scores.values()))), "worst": lowest, "each": scores}
    needy = found["fedavg"]["worst"][0]
    return {**found, "worst_subject_under_the_shared_model": {s: (needy, found[s]["each"][needy]) for s in found}}


def arrhythmia(data: Path, seed: int) -> dict[str, Any]:
    """Ventricular beats against all others; records nobody has seen."""
    task = TASKS["ventricular-beats"]
    files = {int(p.stem.removesuffix("_ecg")): p for p in sorted((data / "mitbih_subset").glob("*_ecg.parquet"))}
    files = {record: p for record, p in files.items() if record not in BEATS_LEFT_OUT}
    train, test = _recorded(task.examples, files, BEATS_TEST, ecg_record)
    problem = Problem(
        name="arrhythmia",
        metric=task.metric,
        also=("auroc", "macro-f1"),
        classes=2,
        train=train,
        test=test,
        learner=PRESETS["ventricular-beats"],
        rounds=30,
        reference={"average precision of FedAvg LR, records 100, 121, 200": 0.993, "the same of FedAvg MLP-32": 0.995},
    )
    return compare(problem, seed)


def icu(data: Path, seed: int) -> dict[str, Any]:
    """Death in hospital from 48 hours of signs and labs; four kinds of unit are the edges, another year's stays the test."""
    train, test = hospitals.icu(data)
    problem = Problem(
        name="icu",
        metric="auroc",
        also=("average-precision",),
        classes=2,
        train=train,
        test=test,
        learner=LearnerSettings(hidden=(), epochs=1, batch=32, learning_rate=0.005, l2=0.1),
        rounds=50,
        pooled_epochs=3,
        reference={"AUROC of FedAvg LR": 0.859, "average precision of the same": 0.550},
    )
    return compare(problem, seed)


def heart(data: Path, seed: int) -> dict[str, Any]:
    """Heart disease at four hospitals, FLamby's split; one hospital has a single class."""
    train, test = hospitals.heart(data)
    problem = Problem(
        name="heart",
        metric="accuracy",
        also=("auroc",),
        classes=2,
        train=train,
        test=test,
        learner=LearnerSettings(hidden=(), epochs=1, batch=16, learning_rate=0.01, l2=0.01),
        rounds=15,
        pooled_epochs=2,
        reference={"accuracy of FedAvg with federated scaling": 0.787, "AUROC of the same": 0.870, "FLamby's FedAvg": 0.748},
    )
    return compare(problem, seed)


def eicu(data: Path, seed: int) -> dict[str, Any]:
    """Death in hospital at 145 small hospitals, five times over with a fifth of the hospitals unseen."""
    results = []
    for train, test in hospitals.eicu(data):
        problem = Problem(
            name="eicu",
            metric="auroc",
            also=("average-precision",),
            classes=2,
            train=train,
            test=test,
            learner=LearnerSettings(hidden=(), epochs=1, batch=16, learning_rate=0.03, l2=0.1),
            rounds=40,
            pooled_epochs=5,
            reference={"AUROC of FedAvg LR on unseen hospitals": 0.710, "of a tenth of the edges for 200 rounds": 0.727},
        )
        results.append(compare(problem, seed))
    means = {k: float(np.mean([r[k] for r in results])) for k in ("local_only_mean", "pooled", "federated")}
    rounds = {n: float(np.mean([r["federated_by_round"][n] for r in results])) for n in results[0]["federated_by_round"]}
    return {
        **results[0],
        **means,
        "federated_by_round": rounds,
        "federated_each": {f"fold {i + 1}": r["federated"] for i, r in enumerate(results)},
        "federated_worst": None,  # a hospital of five stays has no AUROC
        "gap_closed": gap_closed(means["local_only_mean"], means["federated"], means["pooled"]),
        "also": {m: float(np.mean([r["also"][m] for r in results])) for m in results[0]["also"]},
        "cpu_seconds": round(sum(r["cpu_seconds"] for r in results), 2),
    }


LOADERS: Mapping[str, tuple[str, Callable[[Path, int], dict[str, Any]]]] = {
    "activity": ("har_smartphone", activity),
    "arrhythmia": ("mitbih_subset", arrhythmia),
    "icu": ("icu_vitals", icu),
    "heart": ("heart_disease", heart),
    "eicu": ("eicu_demo", eicu),
}


def _recorded(
    make: Callable[[Sequence[Observation]], Examples],
    files: Mapping[int, Path],
    test: set[int],
    read: Callable[[Path], list[Observation]],
) -> tuple[dict[str, Examples], dict[str, Examples]]:
    """Examples of the training and of the test subjects, by subject."""
    if not set(files) & test or not set(files) - test:
        raise SystemExit("--data must hold subjects of both the training and the test part")
    examples = {number: make(read(path)) for number, path in files.items()}
    return (
        {str(n): e for n, e in examples.items() if n not in test},
        {str(n): e for n, e in examples.items() if n in test},
    )


def _print(result: Mapping[str, Any]) -> None:
    examples = result["examples"]
    counts = f"{examples['train']} examples; {examples['test']} unseen"
    print(f"\n{result['task']}: {result['metric']}; {result['edges']} edges, {counts}")
    print(f"  each edge alone  {result['local_only_mean']:.3f} mean, {result['local_only_worst']:.3f} worst")
    rounds = "  ".join(f"{n}: {v:.3f}" for n, v in result["federated_by_round"].items())
    print(f"  federated        {result['federated']:.4f} after {result['rounds']} rounds   ({rounds})")
    print(f"  pooled           {result['pooled']:.4f}   gap closed {result['gap_closed']:.3f}")
    for title, values in (("also", result["also"]), ("by group", result["federated_each"]), ("reference", result["reference"])):
        if values:
            print(f"  {title:<16} " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))
    for name, own in result.get("personal", {}).items():
        if "mean" in own:
            print(
                f"  own later data   {name:<12} mean {own['mean']:.3f}, worst {own['worst'][1]:.3f} (subject {own['worst'][0]})"
            )
        else:
            print("  the worst of them " + ", ".join(f"{s} {v[1]:.3f}" for s, v in own.items()))
    print(f"  all rounds of all edges: {result['cpu_seconds']} s of CPU")


if __name__ == "__main__":
    main()
