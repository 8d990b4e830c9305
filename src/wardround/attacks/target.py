"""What is attacked: a study over a population, in one privacy mode or another, and what a hub sees in each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from wardround.errors import StudyError
from wardround.learn.fleet import Fleet
from wardround.learn.models import MemoryTensors, Parameters, Tensor
from wardround.learn.privacy.accounting import Release, epsilon
from wardround.learn.privacy.groups import GROUPS_MIN
from wardround.learn.privacy.modes import GROUP_STRATEGIES, MODES, check_privacy
from wardround.learn.privacy.rehearsed import mean_of_sum, sees_updates, words_of
from wardround.learn.privacy.ring import Scale, Words, add_masks
from wardround.learn.study import Study
from wardround.records import Examples
from wardround.rehearsal.data import Population

GROUP_RULE = "trimmed-mean"
NOISE_RANGE, NOISE_STEP = (0.1, 1_000.0), 1.01
# Modes of the design in the order of the docs' table; those that this version does not have are said to be missing.
DESIGNED = ("clear", "clear-dp", "blind", "blind-dp", "blind-groups")


@dataclass(frozen=True, slots=True)
class Target:
    """A study and whose data it learns from."""

    study: Study
    population: Population
    classes: int
    metric: str
    usual: tuple[Tensor, Tensor] | None = None  # public scaling of the features, for a mode that may not ask edges for it


def fleet_of(target: Target, study: Study, edges: Mapping[str, Examples], **more: Any) -> Fleet:
    """Virtual edges of a study; the rest is Fleet's own.

    Raises:
        LearnError: no edge has enough examples.
    """
    return Fleet(study, edges, classes=target.classes, usual=target.usual, **more)


def every_mode() -> tuple[str, ...]:
    """The columns of the table: the modes of the design, and any that the code has beside."""
    return (*DESIGNED, *(m for m in MODES if m not in DESIGNED))


def in_mode(target: Target, mode: str, rule: str = "", share: float = 0.2) -> Study:
    """The target's study in a mode, its own settings of it kept, and under another rule of the fold where one is named.

    A study that is not written for a mode gets what the mode must have. With a budget: as many units as there are edges, no
    counts of rows nor of classes, and the noise that takes its rounds to `privacy.target_epsilon`. `blind-groups`: a quorum of
    as many groups as a rule compares, and GROUP_RULE, where its own rule gains nothing from groups.

    Args:
        share: of the edges that lie; rules that ask for it are told.

    Raises:
        StudyError: this version does not have the mode, or not for such a study.
    """
    study = target.study
    if rule:
        own = msgspec.structs.replace(study.strategy, name=rule, faulty_share=min(0.45, share + 0.05))
        study = msgspec.structs.replace(study, strategy=own)
    if mode not in MODES:
        raise StudyError(f"this version has no mode `{mode}`", remedy=f"choose from: {', '.join(MODES)}")
    given = study.privacy
    privacy = msgspec.structs.replace(given, mode=mode)
    if privacy.has_budget and given.mode != mode:
        units = given.population or len(target.population.edges)
        noise = _noise(study.rounds.count, given.target_epsilon, given.delta)
        privacy = msgspec.structs.replace(privacy, population=units, noise=noise)
        study = msgspec.structs.replace(
            study,
            watch=msgspec.structs.replace(study.watch, row_counts=False),
            learner=msgspec.structs.replace(study.learner, class_weighting="none"),
        )
    if mode == "blind-groups" and given.mode != mode:
        study = _in_groups(target, study, keep_rule=bool(rule))
    moved = msgspec.structs.replace(study, privacy=privacy)
    check_privacy(moved)
    return moved


def _in_groups(target: Target, study: Study, *, keep_rule: bool) -> Study:
    least, edges = GROUPS_MIN * study.privacy.group_edges, len(target.population.edges)
    if edges < least:
        raise StudyError(
            f"{edges} edges are too few for `blind-groups`: a rule compares {GROUPS_MIN} groups of {study.privacy.group_edges}",
            remedy=f"rehearse with {least} edges or more",
        )
    rounds = msgspec.structs.replace(study.rounds, edges_min=max(least, study.rounds.edges_min))
    own = study.strategy
    if not keep_rule and own.name not in GROUP_STRATEGIES:
        own = msgspec.structs.replace(own, name=GROUP_RULE)
    return msgspec.structs.replace(study, rounds=rounds, strategy=own)


def smallest_sum(study: Study) -> int:
    """Of how many updates the least that a hub sees is made."""
    if sees_updates(study.privacy):
        return 1
    return study.privacy.group_edges if study.privacy.mode == "blind-groups" else study.rounds.edges_min


def _noise(rounds: int, wanted: float, delta: float) -> float:
    """The least noise multiplier, to one part in a hundred, with which so many rounds of all edges cost no more than `wanted`."""
    low, high = NOISE_RANGE
    while high / low > NOISE_STEP:
        middle = math.sqrt(low * high)
        if epsilon({Release(middle): rounds}, delta) > wanted:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True, slots=True)
class View:
    """What a hub sees that holds an edge's update, read as if it were an update."""

    what: str
    update: Parameters


def views(study: Study, base: Parameters, victim: tuple[Parameters, int], others: Sequence[tuple[Parameters, int]]) -> list[View]:
    """What the hub of a study sees of the victim's update, others' beside it; each update with its examples.

    In a blind study: its masked vector, under masks of the product's own making, and the sum of all.
    """
    if sees_updates(study.privacy):
        return [View("the update", victim[0])]
    names = sorted(victim[0])
    edges = 1 + len(others)
    words = words_of(MemoryTensors(victim[0]), victim[1], study.privacy, edges)
    rng = np.random.default_rng([study.learner.seed, len(words)])
    add_masks(words, [rng.bytes(32)], [rng.bytes(32) for _ in others])  # its own, and one a partner
    masked = _read(words, study, edges, base, names)
    sources = [(MemoryTensors(u), n) for u, n in (victim, *others)]
    total, _ = mean_of_sum(sources, study.privacy, edges, MemoryTensors(base), names)
    return [View("the masked update", masked), View(f"the sum of {edges} edges", total)]


def _read(words: Words, study: Study, edges: int, base: Parameters, names: Sequence[str]) -> Parameters:
    """Masked words as the values they would be without masks."""
    own = study.privacy
    values = words.view(np.int32)[1:] * (own.clip / Scale(edges, own.clip, own.weight_max).levels)
    found: Parameters = {}
    at = 0
    for name in names:
        size = base[name].size
        found[name] = values[at : at + size].reshape(base[name].shape).astype(base[name].dtype)
        at += size
    return found
