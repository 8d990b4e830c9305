"""Every example is at one edge; a small alpha keeps labels apart, a large one does not."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.records import Examples
from wardround.rehearsal.split import split_by_label

CLASSES = 4


def pool(n=4_000):
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, CLASSES, n).astype(np.int32)
    return Examples(
        features=np.arange(n, dtype=np.float32)[:, None],
        labels=labels,
        subjects=np.full(n, "s"),
        t_us=np.arange(n, dtype=np.int64),
        feature_names=("number",),
    )


def unlike(edges):
    """Mean over edges of the distance of their labels' shares from those of all, by size."""
    counts = np.array([np.bincount(e.labels, minlength=CLASSES) for e in edges.values()])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return float((np.abs(shares - counts.sum(axis=0) / counts.sum()).sum(axis=1) * counts.sum(axis=1)).sum() / counts.sum())


@pytest.mark.parametrize("alpha", [0.01, 0.5, 100.0])
def test_every_labelled_example_is_at_exactly_one_edge(alpha):
    whole = pool()
    edges = split_by_label(whole, 30, alpha=alpha, seed=3)
    assert len(edges) == 30
    numbers = np.sort(np.concatenate([e.features[:, 0] for e in edges.values()]))
    np.testing.assert_array_equal(numbers, np.flatnonzero(whole.labels >= 0))
    for e in edges.values():
        np.testing.assert_array_equal(e.labels, whole.labels[e.t_us])


def test_a_small_alpha_keeps_labels_apart():
    apart, mixed = (unlike(split_by_label(pool(), 30, alpha=a, seed=3)) for a in (0.05, 1_000.0))
    assert apart > 0.9
    assert mixed < 0.3


def test_edges_differ_in_size_even_when_labels_are_alike():
    sizes = sorted(len(e) for e in split_by_label(pool(), 30, alpha=1_000.0, seed=3).values())
    assert sizes[0] < 0.6 * sizes[15]
    assert sizes[-1] > 1.6 * sizes[15]


def test_the_same_seed_gives_the_same_split():
    one, same, other = (split_by_label(pool(), 10, alpha=0.5, seed=s) for s in (1, 1, 2))
    assert all(np.array_equal(one[n].t_us, same[n].t_us) for n in one)
    assert not all(np.array_equal(one[n].t_us, other[n].t_us) for n in one)
