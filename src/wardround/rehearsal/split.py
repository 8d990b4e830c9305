"""Examples spread over many virtual edges, unevenly and with few labels in common, as hospitals and homes are.

Source: Li, Diao, Chen, He, Federated Learning on Non-IID Data Silos: An Experimental Study, ICDE 2022, arXiv:2102.02079: of each
class, the edges get shares p ~ Dirichlet(alpha). Here alpha is a vector with mean `alpha`, in proportion to how large each edge
is meant to be (log-normal), so that edges differ in size at any alpha.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from wardround.records import Examples

SIZE_SPREAD = 0.5  # sigma of the logarithm of an edge's size: two thirds lie within a factor of 1.6


def edge_names(n: int) -> list[str]:
    """Names in their order: edge-0001, edge-0002, ..."""
    width = max(4, len(str(n)))
    return [f"edge-{i:0{width}d}" for i in range(1, n + 1)]


def split_by_label(examples: Examples, edges: int, *, alpha: float, seed: int) -> Mapping[str, Examples]:
    """Every labelled example at exactly one of the edges; some edges may have none.

    Args:
        alpha: towards 0 an edge has one class alone; at 100 nearly the classes of all.
    """
    rng = np.random.default_rng([seed, edges])
    sizes = rng.lognormal(0.0, SIZE_SPREAD, edges)
    sizes *= edges / sizes.sum()
    owner = np.full(len(examples), -1, np.int64)
    for label in np.unique(examples.labels[examples.labels >= 0]):
        rows = rng.permutation(np.flatnonzero(examples.labels == label))
        shares = rng.standard_gamma(alpha * sizes) + 1e-300  # a gamma of a tiny shape may be zero
        counts = rng.multinomial(len(rows), shares / shares.sum())
        owner[rows] = np.repeat(np.arange(edges), counts)
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(edges + 1))
    return {name: examples.where(np.sort(order[bounds[i] : bounds[i + 1]])) for i, name in enumerate(edge_names(edges))}
