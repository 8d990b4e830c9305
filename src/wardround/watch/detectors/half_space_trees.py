"""Half-space trees over vectors of an edge's numbers: how empty the region is in which one lies.

An advisory detector (watch/advisory.py), off unless a study asks for it: it needs river, the extra `advisory`.
Source: Tan, Ting, Liu, Fast Anomaly Detection for Streaming Data, IJCAI 2011.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # its parts are loaded when they are used
from numpy.typing import NDArray

from wardround.watch.detectors.joint import Vectors

TREES, HEIGHT, MASS_OF, SEED = 50, 6, 250, 1  # of MASS_OF vectors the trees know how many lie where
SURE = 1e-6
WIDE = 4.0  # deviations: trees cut [0, 1] in two near its middle, and what is far out must not fall to one side with the rest


class HalfSpaceTrees:
    """River's, with a seed of its own: the same vectors make the same trees."""

    def __init__(self) -> None:
        """Raises ImportError: river is not installed."""
        from river import anomaly  # noqa: PLC0415 - an extra

        self._make = anomaly.HalfSpaceTrees
        self._trees: Any = None

    def fit(self, vectors: Vectors) -> None:
        self._trees = self._make(n_trees=TREES, height=HEIGHT, window_size=MASS_OF, seed=SEED)
        for one in _unit(vectors):
            self._trees.learn_one(one)

    def score(self, vectors: Vectors) -> NDArray[Any]:
        """-log of what the trees leave to 1: their own scores end there, and no threshold above health would fit below it."""
        own = np.array([self._trees.score_one(one) for one in _unit(vectors)])
        return -np.log(np.maximum(1.0 - own, SURE))


def _unit(vectors: Vectors) -> list[dict[int, float]]:
    """Each within 0 and 1."""
    return [dict(enumerate(row)) for row in scipy.special.ndtr(vectors / WIDE).tolist()]
