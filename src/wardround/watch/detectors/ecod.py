"""ECOD over vectors of an edge's numbers: how far out in the tails all of them are together, by the ranks of what was seen.

An advisory detector (watch/advisory.py), off unless a study asks for it: it needs PyOD, the extra `advisory`.
Source: Li et al., ECOD: Unsupervised Outlier Detection Using Empirical Cumulative Distribution Functions, IEEE TKDE 35(12), 2023.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from wardround.watch.detectors.joint import Vectors


class Ecod:
    """PyOD's, in one thread."""

    def __init__(self) -> None:
        """Raises ImportError: PyOD is not installed."""
        from pyod.models.ecod import ECOD  # noqa: PLC0415 - an extra, and slow to import

        self._make = ECOD
        self._model: Any = None

    def fit(self, vectors: Vectors) -> None:
        self._model = self._make(n_jobs=1).fit(vectors)

    def score(self, vectors: Vectors) -> NDArray[Any]:
        return self._model.decision_function(vectors)  # type: ignore[no-any-return]  # of a library without types
