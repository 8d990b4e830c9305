"""An update tried on rows of its own edge before it is masked: the loss of the model that it began from, and of the one it makes.

On the edge's held-back rows where it has any, so that it is seen what the update is worth beyond what it was trained on; else
on the newest rows that it was trained on, which an honest update cannot fit much worse. The numbers stay at the edge.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wardround.errors import LearnError
from wardround.learn.learners import Learner
from wardround.learn.models import Parameters, Tensor, without_controls
from wardround.records import Examples

BEFORE, AFTER = "tried_before", "tried_after"
ROWS_MIN, ROWS_MAX = 8, 256
PROBABILITY_MIN = 1e-7


def tried(
    learner: Learner, base: Mapping[str, Tensor], update: Mapping[str, Tensor], held_back: Examples, usable: Examples
) -> dict[str, float]:
    """Mean log losses before and after, by BEFORE and AFTER; empty where there are few rows, or the model answers nothing.

    Args:
        held_back, usable: labelled rows that do not train, and that do.
    """
    rows = held_back if len(held_back) >= ROWS_MIN else usable
    if len(rows) < ROWS_MIN:
        return {}
    newest = np.argsort(rows.t_us, kind="stable")[-ROWS_MAX:]
    features, labels = rows.features[newest], rows.labels[newest]
    model = without_controls(base)
    made: Parameters = {n: t + update[n] if n in update and t.dtype.kind == "f" else t for n, t in model.items()}
    try:
        return {BEFORE: _loss(learner.predict(model, features), labels), AFTER: _loss(learner.predict(made, features), labels)}
    except LearnError:  # of another shape: the round's own checks say so
        return {}


def _loss(probabilities: Tensor, labels: Tensor) -> float:
    """NaN where a probability is."""
    here = labels < probabilities.shape[1]
    of_label = probabilities[np.arange(len(labels))[here], labels[here]].astype(np.float64)
    return float(-np.log(np.maximum(of_label, PROBABILITY_MIN)).mean()) if here.any() else float("nan")
