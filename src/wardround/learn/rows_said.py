"""What an edge says of its rows beside an update: see wardround/row_counts.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wardround.errors import LearnError
from wardround.learn.learners import Learner
from wardround.learn.models import Tensor, without_controls
from wardround.records import Examples
from wardround.row_counts import RowCounts, confidence_counts, encode_rows, input_counts

ROWS_MIN, ROWS_MAX = 8, 256


def rows_said(learner: Learner, base: Mapping[str, Tensor], examples: Examples) -> bytes:
    """Counts of the newest ROWS_MAX rows, labelled or not; empty where there are few, or the model holds no scaling.

    The newest, because a sensor that dies today would be lost among the rows of a month. How sure `base` is, is left out where
    the learner cannot say it of this model.
    """
    if len(examples) < ROWS_MIN or "scale.mean" not in base:
        return b""
    newest = np.argsort(examples.t_us, kind="stable")[-ROWS_MAX:]
    features, labels = examples.features[newest], examples.labels[newest]
    inputs = input_counts(features, base["scale.mean"], base["scale.std"])
    try:
        confidence = confidence_counts(learner.predict(without_controls(base), features), labels)
    except LearnError:
        return encode_rows(RowCounts(inputs))
    return encode_rows(RowCounts(inputs, confidence))
