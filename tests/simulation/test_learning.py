"""The real learner in the simulation: the same seed gives the same model, byte by byte, kills or not in between."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from wardround.learn.learners import make_learner
from wardround.learn.messages import Done
from wardround.learn.models import decode_model, encode_model
from wardround.learn.study import LearnerSettings
from wardround.records import Examples
from wardround.simulation.runs import Faults, Simulation
from wardround.simulation.toy import CLASSES, FEATURES

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:jax.*")


def examples_of(edge: str) -> Examples:
    """Three classes that a line parts, shifted a little from edge to edge."""
    rng = np.random.default_rng(zlib.crc32(edge.encode()))
    labels = rng.integers(0, CLASSES, 60)
    features = rng.normal(size=(60, FEATURES)) + np.eye(CLASSES, FEATURES)[labels] * 3.0 + rng.normal(size=FEATURES) * 0.3
    return Examples(
        features=features.astype(np.float32),
        labels=labels.astype(np.int32),
        subjects=np.full(60, edge),
        t_us=np.arange(60),
        feature_names=tuple(f"f{i}" for i in range(FEATURES)),
    )


class Training:
    """What an edge's worker does, in this process."""

    def __init__(self) -> None:
        self.learner = make_learner(LearnerSettings(hidden=(), epochs=2, batch=16), FEATURES, CLASSES)

    def __call__(self, edge, order, model, kept):
        examples = examples_of(edge)
        if order.task == "statistics":
            return Done(encode_model(self.learner.statistics(examples)), len(examples))
        trained = self.learner.train(decode_model(model), examples, seed=0, round=order.round_number)
        return Done(encode_model(trained.update), trained.examples, {k: float(v) for k, v in trained.metrics.items()})


def run(seed: int, faults: Faults):
    training = Training()
    simulation = Simulation(seed, edges=3, rounds=3, faults=faults, train=training)
    # The simulation's first model is a toy; the learner's own goes in its place.
    import wardround.simulation.runs as module

    real = module.toy_model
    module.toy_model = training.learner.initial
    try:
        outcome = simulation.run()
        return outcome, decode_model(simulation.hub_blobs.read(f"models/{outcome.model}.safetensors")), training.learner
    finally:
        module.toy_model = real


def test_the_same_seed_gives_the_same_model():
    faults = Faults(kill=0.01, lose=0.05, twice=0.05, until_s=4.0)
    (first, model, learner), (second, _, _) = run(5, faults), run(5, faults)
    assert not first.violations
    assert first.model == second.model
    assert first.kills == second.kills
    examples = examples_of("someone-else")
    assert (learner.predict(model, examples.features).argmax(axis=1) == examples.labels).mean() > 0.8
