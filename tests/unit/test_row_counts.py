"""Counts of rows: what they count, that they travel whole, and that what cannot be read is said so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wardround.learn.learners import make_learner
from wardround.learn.rows_said import ROWS_MAX, ROWS_MIN, rows_said
from wardround.learn.study import LearnerSettings
from wardround.records import Examples
from wardround.row_counts import (
    BYTES_MAX,
    CONFIDENCE_BINS,
    INPUT_BINS,
    INPUT_EDGES,
    RowCounts,
    confidence_counts,
    decode_rows,
    encode_rows,
    input_counts,
)

VALUES = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(arrays(np.float32, st.tuples(st.integers(0, 30), st.integers(1, 5)), elements=VALUES))
def test_every_row_is_counted_once_a_feature(features):
    counts = input_counts(features, np.zeros(features.shape[1]), np.ones(features.shape[1]))
    assert counts.shape == (features.shape[1], INPUT_BINS)
    assert (counts.sum(axis=1) == len(features)).all()
    assert (counts[:, -1] == (~np.isfinite(features)).sum(axis=0)).all()
    assert counts[:, 0].sum() == (np.isfinite(features) & (features < INPUT_EDGES[0])).sum()


@given(st.integers(1, 20), st.booleans(), st.integers(0, 2**32 - 1))
def test_counts_travel_whole(features, sure, value):
    counts = RowCounts(
        np.full((features, INPUT_BINS), value, np.uint32), np.ones((CONFIDENCE_BINS, 3), np.uint32) if sure else None
    )
    found = decode_rows(encode_rows(counts))
    assert (found.inputs == counts.inputs).all()
    assert (found.confidence is None) == (counts.confidence is None)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_counts_are_refused_with_words(data):
    with pytest.raises(ValueError, match=r"row counts|counts of"):
        decode_rows(data)


def test_more_than_is_allowed_is_not_read():
    with pytest.raises(ValueError, match="at most"):
        decode_rows(b"0" * (BYTES_MAX + 1))


def test_how_sure_a_model_is():
    counts = confidence_counts(np.array([[0.95, 0.05], [0.45, 0.55], [1.0, 0.0]]), np.array([0, -1, 1], np.int32))
    assert counts[9].tolist() == [2, 2, 1]
    assert counts[5].tolist() == [1, 0, 0]


def examples(n, change_at=0):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, 3)).astype(np.float32)
    features[change_at:, 0] = 9.0
    order = rng.permutation(n)
    return Examples(
        features=features[order],
        labels=np.zeros(n, np.int32),
        subjects=np.full(n, "s"),
        t_us=np.arange(n)[order],
        feature_names=("a", "b", "c"),
    )


def test_an_edge_says_its_newest_rows_alone_and_nothing_of_a_few():
    learner = make_learner(LearnerSettings(), 3, 2)
    base = learner.initial(0)
    found = decode_rows(rows_said(learner, base, examples(1_000, change_at=1_000 - ROWS_MAX)))
    assert found.inputs[0].tolist() == [0] * 7 + [ROWS_MAX, 0]
    assert found.confidence.sum(axis=0).tolist()[:2] == [ROWS_MAX, ROWS_MAX]
    assert len(rows_said(learner, base, examples(1_000))) < 400
    assert rows_said(learner, base, examples(ROWS_MIN - 1)) == b""
    assert rows_said(learner, {n: t for n, t in base.items() if not n.startswith("scale.")}, examples(100)) == b""
