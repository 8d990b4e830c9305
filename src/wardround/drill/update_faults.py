"""Faults of what an edge sends, by accident or on purpose."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from wardround.drill.faults import CREEPING, Fault, Scene, Updates, Vector, flat, shaped
from wardround.learn.models import MemoryTensors, Parameters
from wardround.learn.virtual_edges import Made

SCALED = 10.0
ALIE_SD = 1.5
CREEP = 0.03  # of the mean norm, a round
STALE_NOISE, ZERO_NOISE, SYBIL_NOISE = 0.02, 1e-6, 0.08  # of a norm; of a value; of a norm, whatever the size of the model


class SignFlip(Fault):
    """A gradient is taken with the wrong sign, in a fork of the training code or on purpose: the edge climbs where all others
    descend."""

    name, title, share = "sign-flip", "updates point backwards", 3 / 40
    seen_by = "own history of updates"
    from_the_start = "trial"

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        return _each(scene, updates, lambda _, vector: -vector)


class Scaling(Fault):
    """An edge sends ten times what it learned, to outvote the others; or it counts a mean as a sum."""

    name, title, share = "scaling", "updates are ten times as large", 2 / 40
    seen_by = "triage's norm; own history of updates"
    from_the_start = "norm beside the peers'"

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        return _each(scene, updates, lambda _, vector: SCALED * vector)


class Noise(Fault):
    """An edge's memory is faulty, or it makes its update up: noise of the size that an honest update has."""

    name, title, share = "noise", "updates are noise of the usual size", 3 / 40
    seen_by = "own history of updates"
    from_the_start = "trial"

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        usual = _usual_norm(scene, updates)

        def noise(edge: str, vector: Vector) -> Vector:
            drawn: Vector = scene.rng("noise", edge, scene.number).normal(size=len(vector))
            return drawn * (usual / math.sqrt(len(vector)))

        return _each(scene, updates, noise)


class Alie(Fault):
    """Several edges collude: each sends the honest mean moved by one and a half standard deviations in every coordinate, which
    robust rules take for an honest outlier.

    Baruch, Baruch, Goldberg, A Little Is Enough, NeurIPS 2019, arXiv:1902.06156."""

    name, title, share = "alie", "colluding edges stay just within the honest spread", 6 / 40
    fewest: ClassVar[int] = 2
    seen_by = "own history of updates; twins"
    from_the_start = "twins"

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        honest = _honest(scene, updates)
        if not honest:
            return {}
        rows = np.array([flat(m) for m in honest.values()])
        moved = rows.mean(axis=0) - ALIE_SD * rows.std(axis=0)
        return _each(scene, updates, lambda _edge, _vector: moved)


class NotFinite(Fault):
    """A division by zero in an edge's training: one value of its update is NaN, which would make the whole model NaN."""

    name, title, share = "nan", "an update holds NaN", 1 / 40
    seen_by = "triage: not finite"

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        def spoilt(_: str, vector: Vector) -> Vector:
            vector[len(vector) // 2] = np.nan
            return vector

        return _each(scene, updates, spoilt)


class CreepingUpdate(Fault):
    """A patient attacker moves its updates a little further each round, in one direction, below what any single round shows."""

    name, title, share = "creeping-update", "updates drift slowly in one direction", 4 / 40
    seen_by = "own history of updates"
    delay_max: ClassVar[int] = CREEPING

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        usual = _usual_norm(scene, updates)

        def moved(_: str, vector: Vector) -> Vector:
            towards = scene.rng("creep").normal(size=len(vector))
            return vector + CREEP * scene.since * usual * towards / np.linalg.norm(towards)

        return _each(scene, updates, moved)


class StaleFreeRider(Fault):
    """An edge takes part and does not train: it sends the hub's own last step back, with a little noise, and gets the model.

    Fraboni, Vidal, Lorenzi, Free-rider Attacks, AISTATS 2021, arXiv:2006.11901."""

    name, title, share = "free-rider-stale", "the hub's last step is sent back", 4 / 40
    seen_by = "twins: stale step"

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        if not scene.last_step:
            return {}

        def stale(edge: str, made: Made) -> Made:
            rng = scene.rng("stale", edge, scene.number)
            found: Parameters = {}
            for name in made.tensors.shapes():
                step = scene.last_step[name]
                found[name] = (step + STALE_NOISE * float(np.std(step)) * rng.normal(size=step.shape)).astype(step.dtype)
            return replace(made, tensors=MemoryTensors(found))

        return {edge: stale(edge, updates[edge]) for edge in sorted(scene.struck & set(updates))}


class ZeroFreeRider(Fault):
    """An edge's training stops at once and reports success: its update is as good as nothing, and holds the model back by its
    weight."""

    name, title, share = "free-rider-zero", "updates are as good as empty", 4 / 40
    seen_by = "own history of updates: norm"
    from_the_start = "norm beside the peers'"

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        def nothing(edge: str, vector: Vector) -> Vector:
            return ZERO_NOISE * scene.rng("zero", edge, scene.number).normal(size=len(vector))

        return _each(scene, updates, nothing)


class Sybil(Fault):
    """One machine has enrolled as several edges, or several edges were set up on the same data: their updates are one update,
    which counts several times."""

    name, title, share = "sybil", "several edges send one update", 4 / 40
    fewest: ClassVar[int] = 2
    seen_by = "twins: peer"

    def updates(self, scene: Scene, updates: Mapping[str, Made]) -> Updates:
        there = sorted(scene.struck & set(updates))
        if not there:
            return {}
        original = flat(updates[there[0]])
        size = SYBIL_NOISE * float(np.linalg.norm(original)) / math.sqrt(len(original))

        def copied(edge: str, vector: Vector) -> Vector:
            return original + size * scene.rng("sybil", edge, scene.number).normal(size=len(vector))

        return _each(scene, updates, copied)


def _each(scene: Scene, updates: Mapping[str, Made], change: Callable[[str, Vector], Vector]) -> Updates:
    return {e: shaped(updates[e], change(e, flat(updates[e]))) for e in sorted(scene.struck & set(updates))}


def _honest(scene: Scene, updates: Mapping[str, Made]) -> dict[str, Made]:
    return {e: m for e, m in sorted(updates.items()) if e not in scene.struck}


def _usual_norm(scene: Scene, updates: Mapping[str, Made]) -> float:
    honest = _honest(scene, updates) or updates
    return float(np.mean([np.linalg.norm(flat(m)) for m in honest.values()])) if honest else 0.0
