"""`blind-dp`: the hub learns a sum that is noisy already. Each edge clips its update, adds its part of the noise, and masks that.

The sum of so many discrete Gaussians is, at these widths, a discrete Gaussian to far below any delta (Kairouz, Liu, Steinke, The
Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation, ICML 2021, arXiv:2102.06387, theorem 1).
The noise is enough when no more edges are left than a masked round needs to be opened; more edges, more noise. Edges in league
with the hub can take their own part away: of a quorum of q edges, k that do leave (q - k) / q of the variance.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.learn.models import Parameters, TensorSource
from wardround.learn.privacy.graph import plan
from wardround.learn.privacy.noise import discrete_gaussian
from wardround.learn.privacy.ring import HALF, Words

TAIL = 10.0  # standard deviations of the whole noise that have room in the ring; beyond, a sum wraps, which costs score alone
SIGMA_MIN = 64.0  # of an edge's part: below, a sum of discrete Gaussians would not be one
MARGIN = 1 - 2.0**-40


def levels(edges: int, noise: float) -> int:
    """Steps of the grid in the length that updates are clipped to, in a circle of so many edges, so that no sum wraps.

    Raises:
        ValueError: there is no room for this noise, or for so many edges.
    """
    quorum = plan(edges).quorum
    whole = TAIL * noise * math.sqrt(edges / quorum)  # if everybody is left
    found = int(HALF / (edges + whole))
    if noise * found / math.sqrt(quorum) < SIGMA_MIN:
        raise ValueError(f"{edges} edges with noise {noise:g} do not fit the ring")
    return found


def encode(update: Sequence[NDArray[Any]], *, clip_norm: float, noise: float, edges: int) -> tuple[Words, float]:
    """An update, flat arrays one after the other, as words of shape (1 + n,); and what it was scaled by to be short enough.

    The first word is a one, so that the sum says how many edges are in it.

    Raises:
        ValueError: a value is not finite, or the ring has no room.
    """
    flat = np.concatenate([np.asarray(part, np.float64).reshape(-1) for part in update])
    norm = float(np.linalg.norm(flat))
    if not math.isfinite(norm):
        raise ValueError("an update with NaN or infinity cannot be masked")
    steps = levels(edges, noise)
    shrunk = min(1.0, clip_norm / norm) if norm else 1.0
    scale = shrunk * steps / clip_norm * MARGIN
    values = np.trunc(flat * scale).astype(np.int64)  # towards zero: no rounding makes it longer
    while int(np.dot(values, values)) > steps**2:
        scale *= MARGIN**1024
        values = np.trunc(flat * scale).astype(np.int64)
    values += discrete_gaussian(noise * steps / math.sqrt(plan(edges).quorum), len(values))
    return np.concatenate([[1], values]).astype(np.int64).astype(np.uint32), shrunk


def decode(
    total: Words,
    *,
    clip_norm: float,
    noise: float,
    edges: int,
    expected: float,
    base: TensorSource,
    names: Collection[str],
) -> tuple[Parameters, int]:
    """The noisy mean over `expected` units of an unmasked sum, and how many edges are in it.

    Raises:
        ValueError: the sum is none of such updates.
    """
    signed = total.view(np.int32)
    came = int(signed[0])
    if not plan(edges).quorum <= came <= edges:
        raise ValueError(f"{came} edges are in the sum: an edge has not sent what it should")
    step = clip_norm / levels(edges, noise) / expected
    mean: Parameters = {}
    at, shapes = 1, base.shapes()
    for name in sorted(names):
        size = math.prod(shapes[name])
        mean[name] = (signed[at : at + size] * step).reshape(shapes[name]).astype(base.dtype(name))
        at += size
    return mean, came
