"""A bench of attacks on one study: every mode, every attack, with progress, limits and facts for a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wardround.attacks.inversion import ALL_ROWS, Inversion, cases, invert_updates
from wardround.attacks.measures import Estimate, mean
from wardround.attacks.membership import MODELS_MAX, MODELS_MIN, UNITS, Membership, infer_membership
from wardround.attacks.poisoning import RULES, Defence, Poisoned, poison, runs
from wardround.attacks.target import Target, every_mode, in_mode
from wardround.drill.faults import Fault
from wardround.errors import StudyError
from wardround.learn.privacy.modes import MODES

KINDS = ("membership", "inversion", "poisoning")
TRIALS_MAX, SEEDS_MAX, SEARCH_MAX = 200, 20, 5_000
SHARE_MAX = 0.45


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tried, and how hard."""

    kinds: Sequence[str] = KINDS
    modes: Sequence[str] = ()  # none: every mode
    seeds: Sequence[int] = (0, 1, 2)
    models: int = 16  # of membership
    unit: str = "example"
    trials: int = 5  # of each case of the inversion
    search: int = 200  # steps of the search; 0: no search
    after: int = 1  # rounds before the update that is inverted
    attackers: Sequence[Fault] = ()
    shares: Sequence[float] = (0.2,)
    rules: Sequence[str] = RULES

    def check(self) -> None:
        """Whether it can be carried out, and ends.

        Raises:
            StudyError: the first thing that cannot.
        """
        _check(
            bool(self.kinds) and set(self.kinds) <= set(KINDS), f"--only {','.join(self.kinds)}", f"choose of: {', '.join(KINDS)}"
        )
        unknown = [m for m in self.modes if m not in every_mode()]
        _check(not unknown, f"there is no mode {''.join(unknown[:1])!r}", f"choose of: {', '.join(every_mode())}")
        _check(0 < len(self.seeds) <= SEEDS_MAX, f"{len(self.seeds)} seeds", f"give 1 to {SEEDS_MAX}")
        even = MODELS_MIN <= self.models <= MODELS_MAX and self.models % 2 == 0
        _check(even, f"--models {self.models}", f"give an even number, {MODELS_MIN} to {MODELS_MAX}")
        _check(self.unit in UNITS, f"--unit {self.unit}", f"choose of: {', '.join(UNITS)}")
        _check(1 <= self.trials <= TRIALS_MAX, f"--trials {self.trials}", f"give 1 to {TRIALS_MAX}")
        _check(0 <= self.search <= SEARCH_MAX, f"--search {self.search}", f"give 0 to {SEARCH_MAX}")
        fits = bool(self.shares) and all(0 < s <= SHARE_MAX for s in self.shares)
        _check(fits, f"--shares {','.join(f'{s:g}' for s in self.shares)}", f"give shares above 0, up to {SHARE_MAX}")


@dataclass
class Bench:
    """The bench, step by step."""

    target: Target
    plan: Plan
    refused: dict[str, str] = field(default_factory=dict)  # modes that are not to be had, and why
    failed: dict[str, str] = field(default_factory=dict)  # "mode: kind" that could not be tried, and why
    membership: list[Membership] = field(default_factory=list)
    inversion: list[Inversion] = field(default_factory=list)
    poisoning: list[Poisoned] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan.check()
        self.modes: list[str] = []
        for mode in self.plan.modes or every_mode():
            try:
                in_mode(self.target, mode)
                self.modes.append(mode)
            except StudyError as error:
                self.refused[mode] = str(error)
        if not self.modes:
            raise StudyError(f"no mode is to be had: {next(iter(self.refused.values()))}", remedy="change the study or --modes")

    @property
    def steps(self) -> int:
        """Of all of it."""
        plan, total = self.plan, 0
        for mode in self.modes:
            total += plan.models * ("membership" in plan.kinds)
            total += cases(plan.trials) * ("inversion" in plan.kinds)
            if "poisoning" in plan.kinds:
                total += runs(self.target, mode, len(plan.attackers), len(plan.shares), plan.rules, len(plan.seeds))
        return total

    def run(self) -> Iterator[str]:
        """What was done, step by step.

        Raises:
            WardroundError: the study itself cannot be trained.
        """
        for mode in self.modes:
            for kind in KINDS:
                if kind not in self.plan.kinds:
                    continue
                try:
                    yield from getattr(self, f"_{kind}")(mode)
                except StudyError as error:
                    self.failed[f"{mode}: {kind}"] = str(error)

    def _membership(self, mode: str) -> Iterator[str]:
        plan = self.plan
        for found in infer_membership(self.target, mode, unit=plan.unit, models=plan.models, seed=plan.seeds[0]):
            if found is None:
                yield f"{mode}: membership, shadow models"
            else:
                self.membership.append(found)

    def _inversion(self, mode: str) -> Iterator[str]:
        plan = self.plan
        search = invert_updates(self.target, mode, trials=plan.trials, steps=plan.search, seed=plan.seeds[0], after=plan.after)
        for found in search:
            if found is None:
                yield f"{mode}: inversion of updates"
            else:
                self.inversion.append(found)

    def _poisoning(self, mode: str) -> Iterator[str]:
        plan = self.plan
        how = {"attackers": plan.attackers, "shares": plan.shares, "rules": plan.rules, "seeds": plan.seeds}
        for run in poison(self.target, mode, **how):  # type: ignore[arg-type]  # as the plan has them
            self.poisoning.append(run)
            yield f"{mode}: {run.attack or 'no attack'} against {run.defence.words}"

    # -- what came of it

    def facts(self) -> dict[str, Any]:
        """Everything, as plain values."""
        study, population, plan = self.target.study, self.target.population, self.plan
        return {
            "study": study.name,
            "source": population.source,
            "simulated": population.simulated,
            "edges": len(population.edges),
            "examples": sum(len(e) for e in population.edges.values()),
            "held_back": len(population.held_back),
            "metric": self.target.metric,
            "rounds": study.rounds.count,
            "seeds": list(plan.seeds),
            "modes": list(MODES),
            "refused": self.refused,
            "not_tried": self.failed,
            "membership": [_membership_facts(m) for m in self.membership],
            "inversion": [_inversion_facts(i) for i in self.inversion],
            "poisoning": poisoning_facts(self.poisoning),
            "worst": self.worst(),
        }

    def worst(self) -> dict[str, dict[str, float]]:
        """By mode, what a pipeline is stopped by.

        `auc` and `rate`: the better of the attacks on membership. `read`: the share of its examples that is read out of the
        update of an edge that trains on all of them. `drop`: the worst drop of the score, under the defence that holds best.
        """
        found: dict[str, dict[str, float]] = {mode: {} for mode in self.modes}
        for m in self.membership:
            found[m.mode]["auc"] = max(m.loss_auc.value, m.lira_auc.value)
            found[m.mode]["rate"] = max(m.loss_true_rate.value, m.lira_true_rate.value)
        for i in (one for one in self.inversion if one.case.rows == ALL_ROWS):
            found[i.mode]["read"] = max(found[i.mode].get("read", 0.0), i.result().value)
        for row in poisoning_facts(self.poisoning):
            drops = [d["drop"]["value"] for d in row["attacks"]]
            if drops:
                worst = max(np.nan_to_num(drops, nan=1.0))
                found[row["mode"]]["drop"] = float(min(worst, found[row["mode"]].get("drop", np.inf)))
        return found


def poisoning_facts(runs_: Sequence[Poisoned]) -> list[dict[str, Any]]:
    """By mode and defence: the score without an attack, and with each what is lost of the mode's first defence without one.

    So what a defence itself costs is part of what is lost under it. Means over seeds.
    """
    rows: list[dict[str, Any]] = []
    for mode, defence in dict.fromkeys((r.mode, r.defence) for r in runs_):
        own = [r for r in runs_ if (r.mode, r.defence) == (mode, defence)]
        calm = [r for r in own if not r.attack]
        best = {r.seed: r.score for r in runs_ if not r.attack and r.mode == mode and r.defence == _first(runs_, mode)}
        attacks = []
        for attack, part in dict.fromkeys((r.attack, r.share) for r in own if r.attack):
            hit = [r for r in own if (r.attack, r.share) == (attack, part)]
            drops = mean(np.array([best[r.seed] - r.score for r in hit if r.seed in best]))
            attacks.append(
                {
                    "attack": attack,
                    "share": part,
                    "drop": _estimate(drops),
                    "struck": sum(r.struck for r in hit),
                    "struck_aside": sum(r.struck_aside for r in hit),
                    "innocent_aside": sum(r.innocent_aside for r in hit),
                }
            )
        rows.append(
            {
                "mode": mode,
                "rule": defence.rule,
                "screened": defence.screened,
                "score": _estimate(mean(np.array([r.score for r in calm]), float("nan"))),
                "innocent_aside": float(np.mean([r.innocent_aside for r in calm])) if calm else None,
                "attacks": attacks,
            }
        )
    return rows


def _first(runs_: Sequence[Poisoned], mode: str) -> Defence:
    return next(r.defence for r in runs_ if r.mode == mode)


def _estimate(e: Estimate) -> dict[str, float | None]:
    return {k: (None if np.isnan(v) else float(v)) for k, v in e._asdict().items()}


def _membership_facts(m: Membership) -> dict[str, Any]:
    named = {k: _estimate(getattr(m, k)) for k in ("loss_auc", "loss_true_rate", "lira_auc", "lira_true_rate")}
    plain = {k: getattr(m, k) for k in ("mode", "unit", "units", "models", "train_score", "other_score")}
    return {**plain, **named}


def _inversion_facts(i: Inversion) -> dict[str, Any]:
    errors = np.array(i.errors)
    return {
        "mode": i.mode,
        "seen": i.seen,
        "attack": i.attack,
        "rows": i.case.rows,
        "steps": "one" if i.case.whole else "study",
        "read": _estimate(i.result()),
        "examples": i.rows,
        "error_median": float(np.median(errors)) if len(errors) and np.isfinite(np.median(errors)) else None,
    }


def limits(text: str) -> Mapping[str, float]:
    """`--fail-above auc=0.6,rate=0.05,read=0.1,drop=0.05` as numbers by name.

    Raises:
        StudyError: one is none of these.
    """
    found: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            found[name.strip()] = float("nan")
        if name.strip() not in LIMITS or np.isnan(found[name.strip()]):
            raise StudyError(f"--fail-above {part!r} is no limit", remedy=f"write {LIMITS[0]}=0.6; names are {', '.join(LIMITS)}")
    return found


LIMITS = ("auc", "rate", "read", "drop")


def broken(worst: Mapping[str, Mapping[str, float]], allowed: Mapping[str, float]) -> list[str]:
    """Which limits are passed, in words; what was not measured is no pass."""
    return [
        f"{mode}: {name} was not measured" if name not in values else f"{mode}: {name} is {values[name]:.3g}, above {limit:g}"
        for mode, values in worst.items()
        for name, limit in allowed.items()
        if not values.get(name, limit + 1) <= limit
    ]


def _check(holds: bool, what: str, remedy: str) -> None:
    if not holds:
        raise StudyError(what, remedy=remedy)
