"""Faults of what is measured at an edge: its labels, its sensors, its patients."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import msgspec
import numpy as np

from wardround.drill.faults import CREEPING, Fault, Scene, Vector
from wardround.learn.faults import flipped
from wardround.records import Examples

DEAD_AT = 0.3  # standard deviations from the fleet's mean: a plausible value, so that no range check sees it
UNIT_SLOPE, UNIT_OFFSET = 1.8, 3.2  # of Celsius taken for Fahrenheit, on the scale of standard deviations
CREEP = 0.02  # standard deviations a round
TILT = 1.0  # standard deviations by which another population lies apart


class LabelFlip(Fault):
    """A ward's coding table is updated and its classes are swapped: every label is another one than was meant. Training
    goes on without an error and pulls the shared model the wrong way."""

    name, title, share = "label-flip", "labels are swapped", 1 / 8
    seen_by = "own history of updates; loss"
    from_the_start = "direction beside the peers', trial"

    def examples(self, scene: Scene, edge: str, examples: Examples) -> Examples:
        del edge
        return flipped(examples, scene.classes)


class ConceptDrift(Fault):
    """A third of the wards follow a new guideline: the same measurements now mean another label for half of their
    patients. The inputs look as before, so nothing that looks at inputs alone can see it."""

    name, title, share = "concept-drift", "the same measurements mean something else", 0.3
    seen_by = "own history of updates; loss"

    def examples(self, scene: Scene, edge: str, examples: Examples) -> Examples:
        del edge
        towards = scene.rng("concept").normal(size=len(scene.mean))
        along = _standard(scene, examples) @ towards
        beyond = along > np.median(along)
        swapped = flipped(examples, scene.classes).labels
        return msgspec.structs.replace(examples, labels=np.where(beyond, swapped, examples.labels).astype(np.int32))


class CovariateDrift(Fault):
    """A third of the wards now admit other patients: one measurement lies a standard deviation higher, and what it means
    is what it always meant. Not a fault of anybody, but the model was never tried on them."""

    name, title, share = "covariate-drift", "other patients", 0.3
    seen_by = "histograms of the inputs"

    def examples(self, scene: Scene, edge: str, examples: Examples) -> Examples:
        feature = _feature(scene)
        z = np.clip(_standard(scene, examples)[:, feature], -4, 4)
        weights = np.exp(TILT * z)  # exponential tilting moves a normal distribution's mean, and leaves what follows from x
        rows = scene.rng("covariate", edge, scene.number).choice(len(z), len(z), p=weights / weights.sum())
        return examples.where(np.sort(rows))


class DeadSensor(Fault):
    """A cable breaks and the monitor repeats its last value: one feature is constant, at a value that nobody would doubt.
    Updates hardly change."""

    name, title, share = "dead-sensor", "a sensor repeats one value", 3 / 40
    seen_by = "variance of the inputs"

    def examples(self, scene: Scene, edge: str, examples: Examples) -> Examples:
        del edge
        return _changed(scene, examples, lambda z: np.full_like(z, DEAD_AT))


class UnitError(Fault):
    """A new device reports degrees Fahrenheit where the mapping says Celsius: one feature is stretched and moved."""

    name, title, share = "unit-error", "a feature comes in another unit", 1 / 40
    seen_by = "histograms of the inputs"

    def examples(self, scene: Scene, edge: str, examples: Examples) -> Examples:
        del edge
        return _changed(scene, examples, lambda z: UNIT_SLOPE * z + UNIT_OFFSET)


class CreepingSensor(Fault):
    """A sensor ages: its reading drifts by a fiftieth of a standard deviation a round, too slowly for any single round."""

    name, title, share = "creeping-sensor", "a sensor drifts slowly", 3 / 40
    seen_by = "histograms of the inputs"
    delay_max: ClassVar[int] = CREEPING

    def examples(self, scene: Scene, edge: str, examples: Examples) -> Examples:
        del edge
        return _changed(scene, examples, lambda z: z + CREEP * scene.since)


def _feature(scene: Scene) -> int:
    """Which feature it is: one that varies, drawn by the seed."""
    varying = np.flatnonzero(scene.std > 0)
    return int(varying[scene.rng("feature").integers(len(varying))])


def _standard(scene: Scene, examples: Examples) -> Vector:
    """Features in the fleet's standard deviations; missing values and constant features are 0."""
    std = np.where(scene.std > 0, scene.std, np.inf)
    return np.nan_to_num((np.asarray(examples.features, np.float64) - scene.mean) / std, nan=0.0, posinf=0.0, neginf=0.0)


def _changed(scene: Scene, examples: Examples, change: Callable[[Vector], Vector]) -> Examples:
    """The examples with one feature changed, on the scale of standard deviations."""
    feature = _feature(scene)
    features = examples.features.copy()
    z = (features[:, feature].astype(np.float64) - scene.mean[feature]) / scene.std[feature]
    features[:, feature] = (scene.mean[feature] + scene.std[feature] * change(z)).astype(np.float32)
    return msgspec.structs.replace(examples, features=features)
