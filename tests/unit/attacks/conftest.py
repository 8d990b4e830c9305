"""Small studies to attack: the drill's wards, which differ as wards do, and one whose model can only learn by heart."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.attacks.target import Target
from wardround.drill.synthetic import CLASSES, SyntheticWards
from wardround.learn.study import LearnerSettings, RoundSettings, Study
from wardround.records import Examples, concatenate
from wardround.rehearsal.data import Population


def study_of(rounds=6, **learner):
    settings = {"hidden": (), "epochs": 2, "batch": 16, "learning_rate": 0.1, "momentum": 0.0, **learner}
    return Study(
        name="small",
        task="activity",
        learner=LearnerSettings(**settings),
        rounds=RoundSettings(count=rounds, edges_min=3, examples_min=5),
    )


def population_of(edges, held_back):
    return Population(edges, held_back, "the tests", True)


@pytest.fixture(scope="session")
def wards():
    """Ten wards, two classes, 20 features."""
    made = SyntheticWards(3, edges=10)
    names = next(iter(made.tried().values())).feature_names
    return Target(study_of(), population_of(made.examples(0), concatenate(made.tried().values(), names)), CLASSES, "accuracy")


@pytest.fixture(scope="session")
def by_heart():
    """Labels are a coin's, and there are more features than examples: whoever is known, was trained on."""
    rng = np.random.default_rng(5)

    def edge(i):
        return Examples(
            features=rng.normal(size=(20, 100)).astype(np.float32),
            labels=rng.integers(0, 2, 20).astype(np.int32),
            subjects=np.repeat([f"p{i}-{j}" for j in range(5)], 4),
            t_us=np.zeros(20, np.int64),
            feature_names=tuple(f"f{j}" for j in range(100)),
        )

    edges = {f"edge-{i}": edge(i) for i in range(4)}
    return Target(study_of(12, epochs=5, learning_rate=0.3, l2=0.0), population_of(edges, edge(9)), 2, "accuracy")
