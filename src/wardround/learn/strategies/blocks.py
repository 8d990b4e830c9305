"""What every strategy needs: updates that fit the base, looked at a block at a time, so that memory does not grow with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wardround.errors import UpdateRefused
from wardround.learn.models import Parameters
from wardround.learn.strategies import WeightedUpdate

BLOCK_ELEMENTS = 32_768  # of all updates together: a block of each stays in a core's cache
BLOCK_ELEMENTS_MIN = 256

Stack = NDArray[np.float64]  # (n_updates, block)
Combine = Callable[[Stack], NDArray[np.float64]]


def counted(updates: Sequence[WeightedUpdate]) -> list[WeightedUpdate]:
    """Those with examples.

    Raises:
        UpdateRefused: there is none.
    """
    found = [u for u in updates if u.examples > 0]
    if not found:
        raise UpdateRefused("empty", "no update has examples to count")
    return found


def carried(base: Parameters, updates: Sequence[WeightedUpdate]) -> frozenset[str]:
    """The tensors that every update carries, checked against the base.

    Raises:
        UpdateRefused: an update does not fit.
    """
    names = frozenset(updates[0].tensors.shapes())
    for update in updates:
        shapes = update.tensors.shapes()
        if frozenset(shapes) != names:
            raise UpdateRefused("names", "the updates of this round do not carry the same tensors")
        for name, shape in shapes.items():
            if name not in base:
                raise UpdateRefused("names", f"the base model has no tensor `{name[:60]}`")
            if tuple(shape) != base[name].shape:
                raise UpdateRefused("shape", f"tensor `{name[:60]}`: {shape}, the base model has {base[name].shape}")
            if math.prod(shape) and update.tensors.dtype(name) != base[name].dtype:
                raise UpdateRefused("dtype", f"tensor `{name[:60]}`: {update.tensors.dtype(name)}, not {base[name].dtype}")
    return names


def stacks(base: Parameters, updates: Sequence[WeightedUpdate]) -> Iterator[tuple[str, int, int, Stack]]:
    """Name, start, stop and the updates' values there, block by block over every tensor that they carry."""
    size = max(BLOCK_ELEMENTS_MIN, BLOCK_ELEMENTS // len(updates))
    for name in sorted(carried(base, updates)):
        for start in range(0, base[name].size, size):
            stop = min(start + size, base[name].size)
            yield name, start, stop, np.stack([u.tensors.block(name, start, stop).astype(np.float64) for u in updates])


def fold_blocks(
    base: Parameters, updates: Sequence[WeightedUpdate], combine: Callable[[Stack], NDArray[np.float64]]
) -> Parameters:
    """The base plus what `combine` makes of each block, shape (n_updates, block) to (block,).

    dtypes are the base's; integer tensors are rounded to the nearest value.
    """
    folded: Parameters = dict(base)
    flat: dict[str, NDArray[np.generic]] = {}
    for name, start, stop, stack in stacks(base, updates):
        if name not in flat:
            flat[name] = np.array(base[name]).reshape(-1)
            folded[name] = flat[name].reshape(base[name].shape)
        moved = flat[name][start:stop].astype(np.float64) + combine(stack)
        flat[name][start:stop] = np.rint(moved) if flat[name].dtype.kind in "iub" else moved
    return folded
