"""Poisoning: some edges lie from the first round on. What does it cost the people at honest edges, under each rule of the fold?

The attackers are the drill's (drill/data_faults.py, drill/update_faults.py), and two that a drill of accidents has not. They know
each other and the honest updates of the round. Rounds, triage, screens and quarantine are the fleet's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec
import numpy as np

from wardround.attacks.target import Target, fleet_of, in_mode
from wardround.drill.catalogue import FAULTS
from wardround.drill.faults import Fault, Scene, Updates, flat, shaped
from wardround.drill.meddling import Meddling
from wardround.drill.wards import OwnWards
from wardround.errors import LearnError, StudyError
from wardround.learn.fleet import Fleet
from wardround.learn.models import Parameters, is_buffer
from wardround.learn.scores import METRICS
from wardround.learn.study import Study
from wardround.learn.virtual_edges import Made
from wardround.watch.detectors.screens import Screens

IPM = 1.5  # of the honest mean, backwards
CLAIMED = 10_000  # examples that an edge says it has
RULES = ("fedavg", "trimmed-mean", "coordinate-median", "geometric-median", "multi-krum", "centered-clipping")
FROM_DRILL = ("label-flip", "sign-flip", "scaling", "noise", "alie", "free-rider-stale", "free-rider-zero", "sybil")
SCREENED_MODE = "clear"
SCORED_ROUNDS = 3  # the last ones, whose mean is the score


class InnerProduct(Fault):
    """Colluding edges send the honest mean turned round, so that its inner product with the sum becomes negative.

    Xie, Koyejo, Gupta, Fall of Empires: Breaking Byzantine-tolerant SGD, UAI 2019, arXiv:1903.03936."""

    name, title, share, seen_by = "inner-product", "colluding edges send the honest mean turned round", 0.2, "twins"

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        honest = [flat(m) for e, m in sorted(updates.items()) if e not in scene.struck]
        if not honest:
            return {}
        turned = -IPM * np.mean(honest, axis=0)
        return {e: shaped(updates[e], turned) for e in sorted(scene.struck & set(updates))}


class Overweight(Fault):
    """An edge turns its update round and says that it has ten thousand examples, as nobody can count them."""

    name, title, share, seen_by = "overweight", "updates turned round, with a weight that is a lie", 0.2, "own history"

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        found: Updates = {}
        for edge in sorted(scene.struck & set(updates)):
            own = shaped(updates[edge], -flat(updates[edge]))
            found[edge] = Made(own.tensors, CLAIMED, own.metrics, own.keep, own.bytes)
        return found


ATTACKERS: Mapping[str, Fault] = MappingProxyType(
    {**{n: FAULTS[n] for n in FROM_DRILL}, InnerProduct.name: InnerProduct(), Overweight.name: Overweight()}
)


@dataclass(frozen=True, slots=True)
class Defence:
    """What stands between a bad update and the model."""

    rule: str  # of the fold
    screened: bool  # triage and screens look at single updates, and quarantine

    @property
    def words(self) -> str:
        return f"{self.rule}, {'screened' if self.screened else 'bare'}"


@dataclass(frozen=True, slots=True)
class Poisoned:
    """A run. `score` is of held-back subjects; NaN where the study came to a stop."""

    mode: str
    defence: Defence
    attack: str  # empty: none
    share: float
    seed: int
    score: float
    struck: int = 0
    struck_aside: int = 0
    innocent_aside: int = 0


def chosen_attackers(text: str) -> list[Fault]:
    """By their names, separated by commas; `all`.

    Raises:
        StudyError: there is none of that name.
    """
    names = list(ATTACKERS) if text == "all" else [n.strip() for n in text.split(",") if n.strip()]
    wrong = [n for n in names if n not in ATTACKERS]
    if wrong or not names:
        raise StudyError(f"there is no attacker {wrong[0] if wrong else text!r}", remedy=f"choose from: {', '.join(ATTACKERS)}")
    return [ATTACKERS[n] for n in names]


def defences(target: Target, mode: str, rules: Sequence[str] = RULES) -> list[Defence]:
    """Those that a mode allows.

    A hub that sees no single update has no screens and few rules; one whose noise hides each unit sets nobody aside for others.
    """
    found: list[Defence] = []
    for rule in rules:
        try:
            in_mode(target, mode, rule)
        except StudyError:
            continue
        found += [Defence(rule, screened) for screened in ((False, True) if mode == SCREENED_MODE else (False,))]
    return found


def poison(
    target: Target, mode: str, *, attackers: Sequence[Fault], shares: Sequence[float], rules: Sequence[str], seeds: Sequence[int]
) -> Iterator[Poisoned]:
    """Every run: for each defence and seed one without an attack, then each attack at each share.

    Raises:
        StudyError: the mode is not to be had.
        LearnError: as Fleet.run, in a run without attack.
    """
    in_mode(target, mode)
    for defence in defences(target, mode, rules):
        for seed in seeds:
            for share in shares:
                if share == shares[0]:
                    yield _run(target, mode, defence, None, share, seed)
                for attacker in attackers:
                    yield _run(target, mode, defence, attacker, share, seed)


def runs(target: Target, mode: str, attackers: int, shares: int, rules: Sequence[str], seeds: int) -> int:
    """How many `poison` gives."""
    return len(defences(target, mode, rules)) * seeds * (1 + attackers * shares)


def _run(target: Target, mode: str, defence: Defence, attacker: Fault | None, share: float, seed: int) -> Poisoned:
    study = in_mode(target, mode, defence.rule, share)
    study = msgspec.structs.replace(study, learner=msgspec.structs.replace(study.learner, seed=seed))
    edges = target.population.edges
    names = tuple(sorted(n for n, e in edges.items() if int((e.labels >= 0).sum()) >= study.rounds.examples_min))
    fault = _of_share(attacker, share) if attacker is not None else None
    meddling = Meddling(OwnWards(target.population, target.classes), names, fault, from_round=1, seed=seed)
    screen = _screens(study) if defence.screened else None
    fleet = fleet_of(target, study, {n: edges[n] for n in names}, screen=screen, interference=meddling)
    name, before = attacker.name if attacker is not None else "", fleet.first_model()
    aside: set[str] = set()
    scores: list[float] = []
    try:
        for done in fleet.run():
            meddling.last_step = _step(before, done.model)
            before = done.model
            aside |= {*done.aside, *done.refused}
            if study.rounds.count - done.number < SCORED_ROUNDS:
                scores.append(_score(target, fleet, done.model))
    except LearnError:
        if attacker is None:
            raise
        scores = [float("nan")]
    struck = meddling.struck
    score = float(np.mean(scores))
    return Poisoned(mode, defence, name, share, seed, score, len(struck), len(aside & struck), len(aside - struck))


def _of_share(attacker: Fault, share: float) -> Fault:
    """The same attacker at another share of the edges."""
    own = type(attacker)
    return type(own.__name__, (own,), {"share": share})()  # type: ignore[no-any-return]  # a Fault, as its parent is


def _screens(study: Study) -> Screens:
    own = study.triage
    return Screens(
        f"attack/{study.learner.seed}",
        threshold=own.screen_threshold,
        rounds_min=own.screen_rounds_min,
        twin_threshold=own.twin_cosine_max,
        trial_rounds=own.trial_rounds,
    )


def _score(target: Target, fleet: Fleet, model: Parameters) -> float:
    held = target.population.held_back
    return METRICS[target.metric](held.labels, fleet.learner.predict(model, held.features))


def _step(base: Parameters, model: Parameters) -> Parameters:
    return {name: model[name] - base[name] for name in model if not is_buffer(name)}
