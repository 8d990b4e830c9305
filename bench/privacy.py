"""What differential privacy costs: score against epsilon on real data, and the time that noise takes.

    python bench/privacy.py [--data DIR] [--repeats 3] [--markdown] [--json]

Each row is a study of mode `clear-dp` whose noise is the least that keeps to its epsilon over all of its rounds; `none` is the
same study with hardly any noise, so the distance to it is what privacy costs, and `clear` the study without any of it: clipping,
equal weights and public scaling cost something by themselves. Scores are of people who never train, the mean over repeats with
noise of their own, and the worst. The settings are the same for all rows of a table; rates and clip of the ICU study were chosen
on a fifth of its training patients. The noise of a million parameters is timed beside NumPy's Gaussian, which is not private,
and DP-SGD beside SGD.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import hospitals
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.fleet import Fleet
from wardround.learn.learners import make_learner
from wardround.learn.learners.dp_sgd import steps_of
from wardround.learn.privacy.accounting import Release, noise_for
from wardround.learn.privacy.banded import Banded, prefix_error
from wardround.learn.privacy.central import GRID
from wardround.learn.privacy.modes import PrivacySettings
from wardround.learn.privacy.noise import discrete_gaussian
from wardround.learn.privacy.samplers import opendp_gaussian
from wardround.learn.scores import METRICS
from wardround.learn.study import DpSgdSettings, LearnerSettings, RoundSettings, ScoreSettings, Study, WatchSettings
from wardround.learn.study_example import PRESETS
from wardround.process.transforms import TASKS
from wardround.process.transforms.usual import Scale, usual_scale
from wardround.records import Examples, concatenate
from wardround.rehearsal.data import recorded_population, simulated_population

NOISE_S_MAX = 0.2  # CPU seconds for a million parameters
NONE = 1e-3  # a noise multiplier that hides nobody
QUIET = 1e9


@dataclass(frozen=True, slots=True)
class Case:
    """One table."""

    name: str
    about: str
    metric: str
    train: Mapping[str, Examples]
    test: Examples
    classes: int
    learner: LearnerSettings
    clear_learner: LearnerSettings  # without clipping other rates are right
    privacy: PrivacySettings
    rounds: int
    usual: Scale
    epsilons: tuple[float, ...]
    dp_learner: LearnerSettings | None = None  # with DP-SGD; noise is left to the epsilon
    dp_delta: float = 1e-5


def score(case: Case, *, clear: bool, noise: float, seed: int, at_edge: float = 0.0) -> float:
    """Of the last model, on people who never train; `at_edge` is the noise of DP-SGD."""
    mode = "clear" if clear else "clear-dp"
    privacy = msgspec.structs.replace(case.privacy, mode=mode, noise=noise, target_epsilon=QUIET)
    learner = msgspec.structs.replace(case.clear_learner if clear else case.learner, seed=seed)
    if at_edge and case.dp_learner is not None:
        own = msgspec.structs.replace(case.dp_learner.dp_sgd, noise=at_edge, epsilon_max=QUIET)
        learner = msgspec.structs.replace(case.dp_learner, seed=seed, dp_sgd=own)
    rounds = RoundSettings(count=case.rounds, edges_min=1, examples_min=1)
    study = Study(
        name=case.name,
        task="activity",
        learner=learner,
        rounds=rounds,
        privacy=privacy,
        watch=WatchSettings(row_counts=False),
    )
    fleet = Fleet(study, case.train, classes=case.classes, usual=case.usual)
    *_, last = fleet.run()
    return float(METRICS[case.metric](case.test.labels, fleet.learner.predict(last.model, case.test.features)))


def table(case: Case, repeats: int) -> dict[str, Any]:
    """Score by epsilon."""

    def row(name: str, noise: float, *, clear: bool = False) -> dict[str, Any]:
        found = [score(case, clear=clear, noise=noise, seed=seed) for seed in range(repeats)]
        return {"epsilon": name, "noise": noise, "score": statistics.fmean(found), "worst": min(found)}

    rows = [row("clear", 0.0, clear=True), row("none", NONE)]
    noises = {epsilon: noise_for(Release(1.0), case.rounds, epsilon, case.privacy.delta) for epsilon in case.epsilons}
    rows += [row(f"{epsilon:g}", noise) for epsilon, noise in noises.items()]
    for at, found in zip(rows, at_edges(case, repeats), strict=False):
        at.update(found)
    own = case.privacy
    facts = {"unit": own.unit, "units": own.population, "delta": own.delta, "clip": own.clip_norm, "rounds": case.rounds}
    facts |= {"dp_delta": case.dp_delta}
    return {"case": case.name, "about": case.about, "metric": case.metric, **facts, "rows": rows}


def at_edges(case: Case, repeats: int) -> list[dict[str, Any]]:
    """The same with DP-SGD at the edges, by the same epsilons, of one example of the edge that has fewest: it spends most."""
    if case.dp_learner is None:
        return []
    found: list[dict[str, Any]] = [{}, {}]
    for epsilon in case.epsilons:
        noise = noise_of(case, case.dp_learner, min(len(e) for e in case.train.values()), epsilon)
        scores = [score(case, clear=True, noise=0.0, seed=seed, at_edge=noise) for seed in range(repeats)]
        found.append({"dp_noise": noise, "dp_score": statistics.fmean(scores)})
    return found


def noise_of(case: Case, learner: LearnerSettings, examples: int, epsilon: float) -> float:
    """The least noise of DP-SGD with which an edge of so many examples spends no more over all rounds."""
    steps = steps_of(learner, examples)
    return noise_for(Release(1.0, "poisson", steps.rate), case.rounds * steps.number, epsilon, case.dp_delta)


# -- the data sets


def activity(data: Path) -> Case:
    """Real people, who are few."""
    task = TASKS["activity"]
    held = ScoreSettings(held_back=0.2)
    people = recorded_population(data / "har_smartphone", task, held, edges=None, alpha=1.0, seed=0, heard=lambda *_: None)
    n = len(people.edges)
    return Case(
        "activity",
        f"six activities from a phone at the waist, {n} people who are an edge each",
        task.metric,
        people.edges,
        people.held_back,
        len(task.classes),
        PRESETS["activity"],
        PRESETS["activity"],
        PrivacySettings(population=n, delta=1e-2, clip_norm=1.0),
        20,
        usual_scale("activity", len(task.feature_names)),
        (100.0, 30.0, 8.0),
        msgspec.structs.replace(PRESETS["activity"], batch=128, learning_rate=0.2, momentum=0.0, l2=0.0),
    )


def many(_data: Path) -> Case:
    """As many as a study of wearables may have."""
    task = TASKS["activity"]
    made = simulated_population(task, ScoreSettings(held_back=0.2), edges=1_000, alpha=1.0, seed=0, heard=lambda *_: None)
    return Case(
        "activity-simulated",
        "the same from 1,000 edges with simulated patients",
        task.metric,
        made.edges,
        made.held_back,
        len(task.classes),
        PRESETS["activity"],
        PRESETS["activity"],
        PrivacySettings(population=1_000, delta=1e-4, clip_norm=1.0),
        20,
        usual_scale("activity", len(task.feature_names)),
        (8.0, 4.0, 2.0, 1.0),
    )


def icu(data: Path) -> Case:
    """Patients of intensive care: the unit is one of them, the edges are four kinds of unit."""
    train, test = hospitals.icu(data)
    names = next(iter(train.values())).feature_names
    n = sum(len(e) for e in train.values())
    learner = LearnerSettings(hidden=(), epochs=1, batch=32, learning_rate=0.5, l2=0.0, momentum=0.0)
    return Case(
        "icu",
        f"death in hospital from 48 hours of signs and labs, {n:,} patients at four edges, another year's stays to score",
        "auroc",
        train,
        concatenate(test.values(), names),
        2,
        learner,
        LearnerSettings(hidden=(), epochs=1, batch=32, learning_rate=0.005, l2=0.1),
        PrivacySettings(unit="patient", population=n, delta=1e-5, clip_norm=1.0),
        30,
        hospitals.icu_usual(names),
        (8.0, 4.0, 2.0, 1.0, 0.5),
        msgspec.structs.replace(learner, batch=256),
    )


CASES = {"activity": activity, "many": many, "icu": icu}


def noise_seconds() -> dict[str, float]:
    """CPU seconds of this thread for a million parameters, the best of five."""

    def best(work: Any) -> float:
        found = []
        for _ in range(5):
            begun = time.thread_time()
            work()
            found.append(time.thread_time() - begun)
        return min(found)

    rng = np.random.default_rng(0)
    ours = best(lambda: discrete_gaussian(2.0 * GRID, 1_000_000))
    found = {"exact_s": ours, "numpy_s": best(lambda: rng.normal(size=1_000_000)), "limit_s": NOISE_S_MAX}
    if find_spec("opendp") is not None:
        opendp_gaussian(2.0 * GRID, 1)  # loads it
        found["opendp_s"] = 20 * best(lambda: opendp_gaussian(2.0 * GRID, 50_000))
    return found


def dp_sgd_seconds() -> dict[str, float]:
    """CPU seconds of one epoch over 4,000 rows of 48 features, 32 units, batches of 32, with noise and without; best of 3."""
    rng = np.random.default_rng(0)
    n, features, classes = 4_000, 48, 6
    given = Examples(
        features=rng.normal(size=(n, features)).astype(np.float32),
        labels=rng.integers(0, classes, n).astype(np.int32),
        subjects=np.array(["p"] * n),
        t_us=np.arange(n, dtype=np.int64),
        feature_names=tuple(f"f{i}" for i in range(features)),
    )

    def best(dp_sgd: DpSgdSettings) -> float:
        learner = make_learner(LearnerSettings(dp_sgd=dp_sgd), features, classes)
        model, found = learner.initial(0), []
        for number in range(4):  # the first compiles, and is not counted
            begun = time.process_time()
            learner.train(model, given, seed=0, round=number)
            found.append(time.process_time() - begun)
        return min(found[1:])

    return {"dp_sgd_s": best(DpSgdSettings(noise=1.0)), "sgd_s": best(DpSgdSettings())}


def shared_noise() -> list[dict[str, float]]:
    """Root mean square of the noise in the mean updates' prefix sums, times the number of edges, for one epsilon: of noise that
    rounds share; of their own, with the same turns; of their own with everybody in each round, who trains `band` times as often.
    """
    return [
        {
            "rounds": rounds,
            "band": band,
            "banded": band * prefix_error(rounds, band, band),
            "same_turns": band * prefix_error(rounds, 1, band),
            "everybody": prefix_error(rounds, 1, 1),
        }
        for rounds, band in ((40, 4), (200, 8), (200, 50), (1000, 50))
    ]


def banded_seconds() -> dict[str, float]:
    """CPU seconds of this thread for a row of a million parameters with seven before it, beside one with noise of its own."""

    def best(band: int) -> float:
        own, found = Banded("bench", band, MemoryBlobs()), []
        sums = {"w": np.zeros(1_000_000, np.int64)}
        for row in range(band + 2):
            begun = time.thread_time()
            own.noisy(row, sums, 2.0 * GRID)
            found.append(time.thread_time() - begun)
        return min(found[-3:])

    return {"banded_s": best(8), "own_s": best(1)}


def markdown(found: dict[str, Any]) -> str:
    """A table of docs/privacy.md."""
    said = (
        f"{found['metric']}, unit {found['unit']}, {found['units']:,} units, {found['rounds']} rounds, delta {found['delta']:g}"
    )
    heads = [r["epsilon"] for r in found["rows"]]
    lines = [f"{found['about'][0].upper()}{found['about'][1:]} ({said}):", ""]
    lines.append("| epsilon | " + " | ".join(heads) + " |")
    lines.append("| --- |" + " --- |" * len(heads))
    lines.append("| noise | " + " | ".join("-" if r["noise"] <= NONE else f"{r['noise']:.2f}" for r in found["rows"]) + " |")
    lines.append("| score | " + " | ".join(f"{r['score']:.3f}" for r in found["rows"]) + " |")
    if any("dp_score" in r for r in found["rows"]):
        for key, digits in (("noise", 2), ("score", 3)):
            cells = [f"{r[f'dp_{key}']:.{digits}f}" if f"dp_{key}" in r else "-" for r in found["rows"]]
            lines.append(f"| {key}, DP-SGD | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with har_smartphone/ and icu_vitals/; without it, the noise alone")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/privacy.md")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    noise, steps, shared, rows = noise_seconds(), dp_sgd_seconds(), shared_noise(), banded_seconds()
    tables = [table(CASES[name](given.data), given.repeats) for name in given.cases.split(",")] if given.data else []
    if given.json:
        print(json.dumps({"noise": noise, "dp_sgd": steps, "shared_noise": shared, "banded": rows, "tables": tables}, indent=2))
    elif given.markdown:
        print("\n".join(markdown(t) for t in tables))
    else:
        for found in tables:
            print(
                f"{found['about']}: {found['metric']}, unit {found['unit']}, delta {found['delta']:g}, {found['rounds']} rounds"
            )
            for r in found["rows"]:
                dp = f"  DP-SGD: noise {r['dp_noise']:5.2f}  score {r['dp_score']:.3f}" if "dp_score" in r else ""
                print(f"  epsilon {r['epsilon']:>6}  noise {r['noise']:8.2f}  score {r['score']:.3f}  worst {r['worst']:.3f}{dp}")
    if not given.json:
        ratio = noise["exact_s"] / noise["numpy_s"]
        print(f"noise of a million parameters: {noise['exact_s'] * 1e3:.0f} ms of CPU, {ratio:.1f} times NumPy's Gaussian")
        opendp = (
            f"{noise['opendp_s']:.1f} s, {noise['opendp_s'] / noise['exact_s']:.0f} times ours" if "opendp_s" in noise else "-"
        )
        print(f"the same by OpenDP, from 50,000 draws ('-': not installed): {opendp}")
        times = steps["dp_sgd_s"] / steps["sgd_s"]
        print(f"DP-SGD: {steps['dp_sgd_s'] * 1e3:.0f} ms of CPU for 125 steps of 1,766 weights, {times:.1f} times SGD")
        print("noise in sums of mean updates, times the number of edges, for one epsilon:")
        for s in shared:
            print(
                f"  {s['rounds']:5} rounds, band {s['band']:3}: shared {s['banded']:7.1f}, own with the same turns "
                f"{s['same_turns']:7.1f} ({s['same_turns'] / s['banded']:.1f} times), everybody each round {s['everybody']:7.1f}"
            )
        print(
            f"a row of a million parameters in a band of 8: {rows['banded_s'] * 1e3:.0f} ms of CPU, "
            f"{rows['banded_s'] / rows['own_s']:.1f} times one of a band of 1"
        )
    return 0 if noise["exact_s"] < NOISE_S_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
