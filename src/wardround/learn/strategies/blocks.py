"""What every strategy needs: updates that fit the base, read and folded a block at a time on every core.

A block is at most BLOCK elements of one tensor: 256 KiB of float32 an update. Integer tensors (counters) move by the same
formula as the others and are rounded to the nearest value; dtypes are the base's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wardround.errors import UpdateRefused
from wardround.learn.models import Parameters, TensorSource, is_running
from wardround.learn.strategies import Fold, WeightedUpdate

BLOCK = 65_536
INLINE = 4 * BLOCK  # elements of all updates that are folded sooner than threads start
GROUP = 8  # updates whose float32 products are added before float64 takes the sum: eight roundings at most
WORKERS = min(4, os.cpu_count() or 1)

T = TypeVar("T")
Floats = NDArray[np.float64]
Values = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Block:
    """Elements [start, stop) of one tensor, in every update of a round."""

    name: str
    start: int
    stop: int
    base: TensorSource
    updates: Sequence[WeightedUpdate]

    def stack(self) -> Values:
        """The updates' values, shape (n_updates, stop - start): float32 as it is, anything else as float64."""
        dtype = self.base.dtype(self.name)
        stack = np.empty((len(self.updates), self.stop - self.start), dtype if dtype == np.float32 else np.float64)
        for row, update in zip(stack, self.updates, strict=True):
            row[:] = update.tensors.block(self.name, self.start, self.stop)
        return stack

    def weighted(self, weights: Sequence[float] | Floats) -> Floats:
        """The weighted sum of the updates, shape (stop - start,)."""
        total = np.zeros(self.stop - self.start)
        if self.base.dtype(self.name) != np.float32:
            for weight, update in zip(weights, self.updates, strict=True):
                total += weight * update.tensors.block(self.name, self.start, self.stop).astype(np.float64)
            return total
        product = np.empty(len(total), np.float32)
        pairs = list(zip(weights, self.updates, strict=True))
        for start in range(0, len(pairs), GROUP):
            (weight, update), *others = pairs[start : start + GROUP]
            some = np.multiply(update.tensors.block(self.name, self.start, self.stop), np.float32(weight))
            for weight, update in others:
                np.multiply(update.tensors.block(self.name, self.start, self.stop), np.float32(weight), out=product)
                some += product
            total += some
        return total

    def of(self, values: dict[str, Values]) -> Values:
        """This block's part of flat arrays by name, to read or to write."""
        return values[self.name][self.start : self.stop]


def counted(given: Fold) -> list[WeightedUpdate]:
    """The updates with examples.

    Raises:
        UpdateRefused: there is none.
    """
    found = [u for u in given.updates if u.examples > 0]
    if not found:
        raise UpdateRefused("empty", "no update has examples to count")
    return found


def by_examples(updates: Sequence[WeightedUpdate]) -> Floats:
    """Each update's share of the examples; what is stale counts less by 1/sqrt(1 + staleness), as in FedBuff.

    Source: Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, AISTATS 2022, arXiv:2106.06639, section 5.
    Fresh updates keep their full share: what a stale one loses is not given to the others.
    """
    examples = np.array([u.examples for u in updates], np.float64)
    return np.asarray(examples / examples.sum() / np.sqrt(1.0 + np.array([u.staleness for u in updates], np.float64)))


def carried(base: TensorSource, updates: Sequence[WeightedUpdate]) -> tuple[str, ...]:
    """The tensors that every update carries, checked against the base, in order.

    Raises:
        UpdateRefused: an update does not fit.
    """
    names = frozenset(updates[0].tensors.shapes())
    known = base.shapes()
    for update in updates:
        shapes = update.tensors.shapes()
        if frozenset(shapes) != names:
            raise UpdateRefused("names", "the updates of this round do not carry the same tensors")
        for name, shape in shapes.items():
            if name not in known:
                raise UpdateRefused("names", f"the base model has no tensor `{name[:60]}`")
            if tuple(shape) != tuple(known[name]):
                raise UpdateRefused("shape", f"tensor `{name[:60]}`: {shape}, the base model has {known[name]}")
            if math.prod(shape) and update.tensors.dtype(name) != base.dtype(name):
                raise UpdateRefused("dtype", f"tensor `{name[:60]}`: {update.tensors.dtype(name)}, not {base.dtype(name)}")
    return tuple(sorted(names))


def blocks(base: TensorSource, updates: Sequence[WeightedUpdate], names: Iterable[str] | None = None) -> Iterator[Block]:
    """Every block of the tensors that the updates carry (or of `names` alone)."""
    shapes = base.shapes()
    for name in carried(base, updates) if names is None else names:
        for start in range(0, size := math.prod(shapes[name]), BLOCK):
            yield Block(name, start, min(start + BLOCK, size), base, updates)


def measured(base: TensorSource, updates: Sequence[WeightedUpdate]) -> Iterator[Block]:
    """As `blocks`, without integer tensors: how many batches an edge has seen is no distance."""
    return blocks(base, updates, [name for name in carried(base, updates) if base.dtype(name).kind == "f"])


def each_block(work: Callable[[Block], T], these: Iterable[Block]) -> list[T]:
    """`work` of every block, on every core; results in the blocks' order."""
    all_ = list(these)
    reads = sum((b.stop - b.start) * len(b.updates) for b in all_)
    if len(all_) < 2 or WORKERS == 1 or reads <= INLINE:
        return [work(b) for b in all_]
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(work, all_))


def move(
    base: TensorSource,
    updates: Sequence[WeightedUpdate],
    step: Callable[[Block], Values],
    running: Callable[[Block], Values] | None = None,
) -> Parameters:
    """The base plus `step` of each block, shape (stop - start,).

    `running` tensors (BatchNorm's) move by the mean by examples whatever the step is: a variance that an optimiser of the hub
    carried further could end below zero. A strategy that must not believe everybody passes its own way, which has to stay
    between the edges' values.
    """
    shares = by_examples(updates)

    def mean(block: Block) -> Values:
        return block.weighted(shares)

    follow = running or mean
    shapes = base.shapes()
    flat = {name: np.empty(math.prod(shape), base.dtype(name)) for name, shape in shapes.items()}
    moving = carried(base, updates)

    def work(block: Block) -> None:
        old, new = base.block(block.name, block.start, block.stop), block.of(flat)
        change = follow(block) if is_running(block.name) else step(block)
        if new.dtype.kind in "iub":
            new[:] = np.rint(old.astype(np.float64) + change)
        else:
            new[:] = old + change

    each_block(work, blocks(base, updates, moving))
    for name in set(shapes) - set(moving):
        flat[name][:] = base.block(name, 0, len(flat[name]))
    return {name: flat[name].reshape(shape) for name, shape in shapes.items()}
