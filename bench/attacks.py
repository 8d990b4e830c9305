"""Attacks on studies of real data, in every privacy mode: what docs/attacks.md says, measured.

    python bench/attacks.py --data DIR [--only activity,icu,arrhythmia,masks] [--write docs/attacks.md] [--json]

DIR has har_smartphone/, icu_vitals/ and mitbih_subset/. An edge is a subject, a record, or a fifth of a unit's stays. `masks` is
the activity study rehearsed clear and blind with one seed: what masks cost its scores. Attacks: `wardround study attack`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import hospitals
from wardround.attacks.course import KINDS, Bench, Plan
from wardround.attacks.page import section, write
from wardround.attacks.poisoning import RULES, chosen_attackers
from wardround.attacks.target import Target, fleet_of, in_mode
from wardround.learn.models import is_buffer
from wardround.learn.scaling import feature_sums, mean_std
from wardround.learn.scores import METRICS
from wardround.learn.study import LearnerSettings, RoundSettings, Study
from wardround.learn.study_example import PRESETS
from wardround.process.transforms import TASKS
from wardround.process.transforms.usual import usual_scale
from wardround.records import Examples, concatenate
from wardround.rehearsal.data import Population, recorded_population

ROUNDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder laid out as described above")
    parser.add_argument("--only", default="masks,activity,icu,arrhythmia", help="masks, activity, icu, arrhythmia")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--shares", default="0.1,0.2,0.3", help="of the edges, that lie")
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--search", type=int, default=300)
    parser.add_argument("--wards", type=int, default=5, help="icu: edges of one unit; four units would be too few to lie")
    parser.add_argument("--modes", default="", help="privacy modes; default: every one")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--write", type=Path, help="put the tables into this page")
    parser.add_argument("--json", action="store_true", help="print facts instead of tables")
    arguments = parser.parse_args()
    plan = Plan(
        kinds=arguments.kinds.split(","),
        modes=[m for m in arguments.modes.split(",") if m],
        rules=arguments.rules.split(","),
        seeds=[int(s) for s in arguments.seeds.split(",")],
        models=arguments.models,
        trials=arguments.trials,
        search=arguments.search,
        attackers=chosen_attackers("all"),
        shares=[float(s) for s in arguments.shares.split(",")],
    )
    plan.check()
    results: list[dict[str, Any]] = []
    for name in arguments.only.split(","):
        folder, load = LOADERS["activity" if name == "masks" else name]
        if not (arguments.data / folder).is_dir():
            print(f"{name}: {arguments.data / folder} is not there, left out", file=sys.stderr)
            continue
        target = load(arguments.data / folder, arguments.wards)
        facts = masks(target) if name == "masks" else attacked(target, plan)
        results.append(facts)
        if name == "masks":
            if not arguments.json:
                print_masks(facts)
            continue
        given = {
            k: getattr(arguments, k)
            for k in ("kinds", "modes", "rules", "seeds", "shares", "models", "trials", "search", "wards")
        }
        asked = (f" --{k} {v}" for k, v in given.items() if v != parser.get_default(k))
        command = f"python bench/attacks.py --data DIR --only {name}{''.join(asked)}"
        if arguments.write is not None:
            write(arguments.write, facts, command)
        if not arguments.json:
            print("\n".join(section(facts, command)), flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))


def attacked(target: Target, plan: Plan) -> dict[str, Any]:
    """The whole bench of one study."""
    bench = Bench(target, plan)
    total, last = bench.steps, ""
    for done, said in enumerate(bench.run(), start=1):
        if said != last:
            print(f"{target.study.name}: {done} of {total}: {said}", file=sys.stderr, flush=True)
        last = said
    return bench.facts()


def masks(target: Target) -> dict[str, Any]:
    """Clear and blind with the same seed: scores by round, and how far the last models are apart."""
    held = target.population.held_back
    scores: dict[str, list[float]] = {}
    models, probabilities = [], []
    for mode in ("clear", "blind"):
        fleet = fleet_of(target, in_mode(target, mode), target.population.edges)
        scores[mode] = []
        for done in fleet.run():
            probabilities.append(fleet.learner.predict(done.model, held.features))
            scores[mode].append(METRICS[target.metric](held.labels, probabilities[-1]))
        models.append(fleet.model)
    apart = {n: float(np.abs(models[0][n] - models[1][n]).max()) for n in models[0] if not is_buffer(n)}
    return {
        "study": f"masks over {target.study.name}",
        "edges": len(target.population.edges),
        "held_back": len(held),
        "scores": scores,
        "score_apart_max": float(np.abs(np.subtract(scores["clear"], scores["blind"])).max()),
        "probability_apart_max": float(np.abs(probabilities[target.study.rounds.count - 1] - probabilities[-1]).max()),
        "model_apart_max": max(apart.values()),
    }


def print_masks(facts: Mapping[str, Any]) -> None:
    clear, blind = facts["scores"]["clear"], facts["scores"]["blind"]
    print(f"{facts['study']}: {facts['edges']} edges, {facts['held_back']} held-back examples, one seed")
    print(f"  last score clear {clear[-1]:.6f}, blind {blind[-1]:.6f}; at most {facts['score_apart_max']:.2g} apart in a round")
    print(f"  a probability at most {facts['probability_apart_max']:.2g}, a weight at most {facts['model_apart_max']:.2g} apart")


def study_of(name: str, learner: LearnerSettings) -> Study:
    return Study(name=name, task="activity", learner=learner, rounds=RoundSettings(count=ROUNDS, edges_min=3))


def recorded(name: str, task_name: str) -> Callable[[Path, int], Target]:
    """Recordings as the product reads them: one edge each, a fifth of the subjects held back by the study's own rule."""

    def load(folder: Path, _wards: int) -> Target:
        task, study = TASKS[task_name], study_of(name, PRESETS[task_name])
        population = recorded_population(folder, task, study.score, edges=None, alpha=0.5, seed=0, heard=lambda *_: None)
        usual = usual_scale(task_name, len(task.feature_names))
        return Target(msgspec.structs.replace(study, task=task_name), population, len(task.classes), task.metric, usual)

    return load


def icu(folder: Path, wards: int) -> Target:
    """Death in hospital from the first 48 hours; another year's stays are held back.

    Those stand for public data, too, where there must be some: their means and spreads scale the features in `clear-dp`.
    """
    train, test = hospitals.icu(folder.parent)
    rng = np.random.default_rng(0)
    edges: dict[str, Examples] = {}
    for unit, examples in train.items():
        ward = rng.integers(wards, size=len(examples))
        edges |= {f"{unit}-{i + 1}": examples.where(ward == i) for i in range(wards)}
    held = concatenate(test.values(), next(iter(test.values())).feature_names)
    learner = LearnerSettings(hidden=(), epochs=1, batch=32, learning_rate=0.005, l2=0.1)
    usual = mean_std(feature_sums(held, 2))
    return Target(
        study_of(f"icu-{len(edges)}", learner), Population(edges, held, "stays of icu_vitals, set a", False), 2, "auroc", usual
    )


LOADERS: Mapping[str, tuple[str, Callable[[Path, int], Target]]] = {
    "activity": ("har_smartphone", recorded("activity", "activity")),
    "icu": ("icu_vitals", icu),
    "arrhythmia": ("mitbih_subset", recorded("arrhythmia", "ventricular-beats")),
}


if __name__ == "__main__":
    main()
