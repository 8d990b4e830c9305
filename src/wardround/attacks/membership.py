"""Membership inference on the final model: did this example, or this patient, train it?

Models are trained in pairs on random halves of the units, one on each half. Every model is attacked in turn; the others are the
attacker's shadow models. Two attacks: a threshold on the loss (Yeom et al. 2018, arXiv:1709.01604), and the likelihood ratio of
the confidence under models that had the unit and models that had not, with one variance for all units as shadow models are few
(Carlini et al., Membership Inference Attacks From First Principles, 2022, arXiv:2112.03570: LiRA, online).

The attacker knows the study, data of the same people, and the model: more than most have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.attacks.measures import Estimate, Floats, Truth, auc, by_unit, true_rate
from wardround.attacks.target import Target, fleet_of, in_mode
from wardround.errors import StudyError
from wardround.learn.study import Study
from wardround.records import Examples, concatenate

MODELS_MIN, MODELS_MAX = 6, 64
FALSE_RATE = 0.01
UNITS = ("example", "patient")
UNITS_MIN = 8
CONFIDENCE_MAX = 30.0  # of a logit, beyond which float32 probabilities say nothing


@dataclass(frozen=True, slots=True)
class Membership:
    """What became of the attacks in a mode."""

    mode: str
    unit: str
    units: int
    models: int
    loss_auc: Estimate
    loss_true_rate: Estimate
    lira_auc: Estimate
    lira_true_rate: Estimate
    train_score: float  # mean accuracy on what a model trained on, and on the units that it did not
    other_score: float


class _Pool(NamedTuple):
    """Every labelled training example, and who owns it."""

    examples: Examples
    edges: NDArray[np.int64]
    names: tuple[str, ...]
    units: NDArray[np.int64]
    size: int  # units


def infer_membership(target: Target, mode: str, *, unit: str, models: int, seed: int) -> Iterator[Membership | None]:
    """None after each model that was trained, and the result at the end.

    Raises:
        StudyError: the mode is not to be had, or the attack cannot be tried on these data.
        LearnError: as Fleet.run.
    """
    if not MODELS_MIN <= models <= MODELS_MAX or models % 2:
        raise StudyError(f"{models} is no number of models", remedy=f"train an even number, {MODELS_MIN} to {MODELS_MAX}")
    study = in_mode(target, mode)
    pool = _pool(target, unit)
    if pool.size < UNITS_MIN:
        raise StudyError(f"{pool.size} units ({unit}) are too few to tell members from others", remedy="give more data")
    inside = halves(models, pool.size, seed)
    known, confident = np.empty((models, pool.size)), np.empty((models, pool.size))
    right = np.empty((models, pool.size))
    for i in range(models):
        losses, logits, hits = _trained(target, study, pool, inside[i][pool.units], seed + i)
        known[i], confident[i], right[i] = (_by_unit(v, pool) for v in (-losses, logits, hits))
        yield None
    ratio = likelihood_ratios(confident, inside)
    yield Membership(
        mode,
        unit,
        pool.size,
        models,
        by_unit(auc, known, inside, 0.5, seed),
        by_unit(_true_rate, known, inside, FALSE_RATE, seed),
        by_unit(auc, ratio, inside, 0.5, seed),
        by_unit(_true_rate, ratio, inside, FALSE_RATE, seed),
        float(right[inside].mean()),
        float(right[~inside].mean()),
    )


def halves(models: int, units: int, seed: int) -> Truth:
    """Which units each model trains on, shape (models, units): of models 0 and 1, 2 and 3, ... one has a unit, the other not.

    Halves are of one size, so that all models are compiled once.
    """
    first = np.argsort(np.random.default_rng([seed, models]).random((models // 2, units)), axis=1) < units // 2
    return np.stack([first, ~first], axis=1).reshape(models, units)


def likelihood_ratios(confident: Floats, inside: Truth) -> Floats:
    """Log of how much likelier a unit's confidence is under models with it than without.

    Left out are the model itself and its other half: then as many models have a unit as have not, and the odds hang on nothing
    but the confidences.

    Args:
        confident: shape (models, units), on the scale of a logit, on which it is about normal.
    """
    found = np.empty_like(confident)
    for i in range(len(confident)):
        others = np.arange(len(confident)) // 2 != i // 2
        own, here = confident[others], inside[others]
        with_it, without = _normal(own, here), _normal(own, ~here)
        found[i] = _log_density(confident[i], *with_it) - _log_density(confident[i], *without)
    return found


def _normal(confident: Floats, here: Truth) -> tuple[Floats, float]:
    """Mean by unit, and one variance for all."""
    counts = here.sum(axis=0)
    means = (confident * here).sum(axis=0) / np.maximum(counts, 1)
    free = float(np.maximum(counts - 1, 0).sum())
    return means, float((np.square(confident - means) * here).sum() / max(free, 1.0)) + 1e-12


def _log_density(values: Floats, means: Floats, variance: float) -> Floats:
    found: Floats = -0.5 * np.square(values - means) / variance - 0.5 * np.log(variance)
    return found


def _true_rate(scores: Floats, truth: Truth) -> float:
    return true_rate(scores, truth, FALSE_RATE)


def _pool(target: Target, unit: str) -> _Pool:
    if unit not in UNITS:
        raise StudyError(f"there is no unit {unit!r}", remedy=f"choose one of: {', '.join(UNITS)}")
    own = {n: e.where(e.labels >= 0) for n, e in target.population.edges.items()}
    names = tuple(n for n, e in own.items() if len(e))
    every = concatenate((own[n] for n in names), own[names[0]].feature_names)
    edges = np.repeat(np.arange(len(names)), [len(own[n]) for n in names])
    if unit == "patient":
        people = np.array([f"{names[e]}/{s}" for e, s in zip(edges, every.subjects, strict=True)])
        _, units = np.unique(people, return_inverse=True)
    else:
        units = np.arange(len(every))
    return _Pool(every, edges, names, units, int(units.max()) + 1)


def _trained(target: Target, study: Study, pool: _Pool, here: Truth, seed: int) -> tuple[Floats, Floats, Floats]:
    """Loss, confidence and correctness of every example under a model of those that are here."""
    seeded = msgspec.structs.replace(study, learner=msgspec.structs.replace(study.learner, seed=seed))
    edges = {n: pool.examples.where(here & (pool.edges == i)) for i, n in enumerate(pool.names)}
    fleet = fleet_of(target, seeded, {n: e for n, e in edges.items() if len(e)})
    for _ in fleet.run():
        pass
    probabilities = np.asarray(fleet.learner.predict(fleet.model, pool.examples.features), np.float64)
    own = np.clip(probabilities[np.arange(len(here)), pool.examples.labels], 1e-13, 1.0)
    others = np.clip(probabilities.sum(axis=1) - own, 1e-13, 1.0)
    logits = np.clip(np.log(own) - np.log(others), -CONFIDENCE_MAX, CONFIDENCE_MAX)
    return -np.log(own), logits, (probabilities.argmax(axis=1) == pool.examples.labels).astype(np.float64)


def _by_unit(values: Floats, pool: _Pool) -> Floats:
    found: Floats = np.bincount(pool.units, values, pool.size) / np.bincount(pool.units, minlength=pool.size)
    return found
