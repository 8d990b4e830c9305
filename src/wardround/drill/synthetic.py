"""The drill's own study: 40 wards that differ as wards do, and new patients in every round.

Two classes, 20 features, logistic regression. Each ward has weights, an intercept, means and spreads of its own around those of
all, a size that is log-normal, and trains in every round on examples it has not trained on before. What differs is as in the
study that the watch's thresholds come from: own weights with a standard deviation of 0.35 around weights of 0.7, intercepts 0.8,
means 0.5, spreads a fifth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wardround.learn.study import LearnerSettings, RoundSettings, ScoreSettings, Study
from wardround.records import Examples
from wardround.rehearsal.split import edge_names

EDGES, FEATURES, CLASSES = 40, 20, 2
ROWS, ROWS_SPREAD, ROWS_RANGE = 64, 0.4, (32, 160)
TRIED_ROWS = 500  # of each edge, for its score
FEATURE_NAMES = tuple(f"feature-{i:02d}" for i in range(FEATURES))


def synthetic_study(rounds: int, seed: int) -> Study:
    """Five steps over all rows of a round, plain gradient descent."""
    learner = LearnerSettings(hidden=(), epochs=5, batch=256, learning_rate=0.15, momentum=0.0, l2=1e-3, seed=seed)
    return Study(
        name="synthetic",
        task="synthetic",
        learner=learner,
        rounds=RoundSettings(count=rounds),
        score=ScoreSettings(metric="accuracy", held_back=0.0),
    )


class SyntheticWards:
    """The wards of one seed."""

    fresh, classes = True, CLASSES

    def __init__(self, seed: int, edges: int = EDGES) -> None:
        rng = np.random.default_rng([seed, 40])
        self.names = tuple(edge_names(edges))
        self._seed = seed
        shared = 0.7 * rng.normal(size=FEATURES)
        self._weights = shared + 0.35 * rng.normal(size=(edges, FEATURES))
        self._intercepts = 0.8 * rng.normal(size=edges)
        self._means = 0.5 * rng.normal(size=(edges, FEATURES))
        self._spreads = np.exp(0.2 * rng.normal(size=(edges, FEATURES)))
        self._rows = np.clip(ROWS * np.exp(ROWS_SPREAD * rng.normal(size=edges)), *ROWS_RANGE).astype(int)

    def examples(self, number: int, edges: Sequence[str] | None = None) -> Mapping[str, Examples]:
        """What these edges train on in a round: always as many rows, never the same ones."""
        rng = np.random.default_rng([self._seed, 41, number])
        every = {name: self._drawn(i, int(self._rows[i]), rng) for i, name in enumerate(self.names)}
        return every if edges is None else {name: every[name] for name in edges}

    def tried(self) -> Mapping[str, Examples]:
        """What each edge's score is of: examples that nobody trains on."""
        rng = np.random.default_rng([self._seed, 42])
        return {name: self._drawn(i, TRIED_ROWS, rng) for i, name in enumerate(self.names)}

    def _drawn(self, place: int, rows: int, rng: np.random.Generator) -> Examples:
        features = self._means[place] + self._spreads[place] * rng.normal(size=(rows, FEATURES))
        logit = features @ self._weights[place] + self._intercepts[place]
        labels: NDArray[np.int32] = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int32)
        return Examples(
            features=features.astype(np.float32),
            labels=labels,
            subjects=np.full(rows, self.names[place]),
            t_us=np.zeros(rows, np.int64),
            feature_names=FEATURE_NAMES,
        )
