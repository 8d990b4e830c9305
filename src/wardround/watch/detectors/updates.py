"""What the screens know of an update: a count-sketch of it, its norm and its size, made in one pass.

Of a large update a part is read, at places that the hub alone knows and that are the same in every round: cost and memory are
those of the sketch, not of the model. Small tensors are read whole.
Source: Charikar, Chen, Farach-Colton, Finding Frequent Items in Data Streams, ICALP 2002. Inner products, and so cosines, of
sketches are those of the updates in expectation, with a standard deviation of at most 1/sqrt(DIMENSIONS).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 128
BLOCK = 65_536  # elements looked at together
DOT = 8_192  # elements of one dot product: beyond 10,000 OpenBLAS wakes its threads, which spin
READ_MAX = 65_536  # elements of an update that are read, or about; of a larger one a secret part of every tensor
PIECE = 16_384  # elements read together of a tensor that is not read whole

BATCH = 131_072  # elements that are read before they are summed
PLANS_MAX = 4  # kinds of updates of one study: what edges send, and the hub's step, which has more tensors

Vector = NDArray[np.float64]
Signs = NDArray[np.float32]
ONES = np.ones(DOT // DIMENSIONS, np.float32)


@dataclass(frozen=True, slots=True)
class Verdict:
    """As learn.triage.Verdict: a score above the threshold is refused."""

    accepted: bool
    reason: str
    score: float
    threshold: float


class Tensors(Protocol):
    """An update, read a block at a time."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def block(self, name: str, start: int, stop: int) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Sketched:
    """`direction` has length one (or is zero), shape (DIMENSIONS,); `size` counts the numbers of the update."""

    direction: Vector
    norm: float
    size: int

    @property
    def chance(self) -> float:
        """The standard deviation of the cosine of two directions that have nothing to do with each other.

        A model of 20 numbers has updates that point anywhere by chance: there a fall of the cosine by a half is no sign.
        """
        return 1.0 / math.sqrt(max(1, min(self.size, DIMENSIONS)))


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is read of an update into one buffer, every piece at a multiple of DIMENSIONS.

    `pieces`: (tensor, start, stop, place in the buffer, signs). `gaps` of the buffer belong to no piece. `spans` are of one
    tensor each, with what its squares count, as it is read in part: (start, stop, factor).
    """

    pieces: list[tuple[str, int, int, int, Signs]] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    spans: list[tuple[int, int, float]] = field(default_factory=list)

    @property
    def length(self) -> int:
        return self.spans[-1][1] if self.spans else 0


class Sketcher:
    """Makes sketches of one study. `seed` is the hub's own: an edge that knew the sketch could hide in what it does not see."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._secrets: dict[str, int] = {}  # of a model's tensors
        self._plans: dict[tuple[tuple[str, int], ...], list[_Batch]] = {}  # what is read, by the sizes of all tensors
        secret = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
        self._signs = np.random.default_rng(secret).choice(np.array([-1, 1], np.float32), 2 * BLOCK)

    def sketch(self, update: Tensors) -> Sketched:
        """Of all tensors but control variates and counters.

        The norm of what is not read whole is that of its part, scaled. An element's place is its column of DIMENSIONS, its sign
        the hub's secret: inner products stay right in expectation. What is read lies in one buffer, with its signs, so that its
        columns are summed and its squares added up by BLAS, in a few calls for all tensors.
        """
        shapes = {n: math.prod(s) for n, s in sorted(update.shapes().items()) if not n.startswith("control.")}
        sizes = tuple(shapes.items())
        total, squares, counters = np.zeros(DIMENSIONS), 0.0, set[str]()
        for batch in self._plans.get(sizes) or self._planned(sizes):
            buffer = np.empty(batch.length, np.float32)
            for name, start, stop, at, signs in batch.pieces:
                own = buffer[at : at + stop - start]
                found = update.block(name, start, stop)
                if found.dtype.kind in "iub":  # counters are larger than any weight, and point nowhere
                    counters.add(name)
                    own[:] = 0
                else:
                    np.multiply(found, signs, out=own, casting="same_kind")
            for start, stop in batch.gaps:
                buffer[start:stop] = 0
            squares += sum(factor * _squares(buffer[start:stop]) for start, stop, factor in batch.spans)
            total += _columns(buffer)
        return Sketched(unit(total), math.sqrt(squares), sum(shapes.values()) - sum(shapes[n] for n in counters))

    def _secret(self, text: str) -> int:
        if text not in self._secrets:
            self._secrets[text] = int.from_bytes(hashlib.sha256(f"{self._seed}/{text}".encode()).digest()[:8], "big")
        return self._secrets[text]

    def _planned(self, sizes: tuple[tuple[str, int], ...]) -> list[_Batch]:
        """The batches of an update of these sizes, none longer than BATCH and a piece."""
        elements, batches = sum(size for _, size in sizes), [_Batch()]
        for name, size in sizes:
            places = self._placed(name, size, elements)
            factor = size / max(1, sum(length for _, length in places))
            for number, (start, length) in enumerate(places):
                if batches[-1].length >= BATCH:
                    batches.append(_Batch())
                batch = batches[-1]
                at, signs = batch.length, (self._secret(name) + number * 7919 * DIMENSIONS) % BLOCK  # every piece's lie elsewhere
                batch.pieces.append((name, start, start + length, at, self._signs[signs : signs + length]))
                end = at + -(-length // DIMENSIONS) * DIMENSIONS
                if at + length < end:
                    batch.gaps.append((at + length, end))
                if number and batch.spans:
                    batch.spans[-1] = (batch.spans[-1][0], end, factor)
                else:
                    batch.spans.append((at, end, factor))
        while len(self._plans) >= PLANS_MAX:
            del self._plans[next(iter(self._plans))]
        self._plans[sizes] = batches
        return batches

    def _placed(self, name: str, size: int, elements: int) -> list[tuple[int, int]]:
        """Where a tensor is read, as (start, length): everywhere if it is small or the model is, else at secret places.

        Of each run of pieces one is read, the same in every round, so that an update can be held against older ones.
        """
        apart = max(1, elements // READ_MAX)
        if size <= PIECE or apart == 1:
            return [(start, min(BLOCK, size - start)) for start in range(0, size, BLOCK)]
        chance = np.random.default_rng(self._secret(f"{name}/{size}/{elements}"))
        starts = range(0, size, apart * PIECE)
        chosen = [start + int(chance.integers(max(1, min(apart * PIECE, size - start) - PIECE))) for start in starts]
        return [(start, min(PIECE, size - start)) for start in chosen]


def _squares(values: Signs) -> float:
    """The sum of squares, in products of DOT elements."""
    whole = len(values) // DOT * DOT
    rest = values[whole:]
    rows = values[:whole].reshape(-1, DOT)
    return float(np.vecdot(rows, rows).sum(dtype=np.float64)) + float(rest @ rest)


def _columns(values: Signs) -> Vector:
    """The sums of the columns of rows of DIMENSIONS, in products of DOT elements."""
    whole = len(values) // DOT * DOT
    rest = values[whole:].reshape(-1, DIMENSIONS)
    sums = np.matmul(ONES, values[:whole].reshape(-1, len(ONES), DIMENSIONS)).sum(axis=0, dtype=np.float64)
    return np.asarray(sums + ONES[: len(rest)] @ rest, np.float64)


def unit(vector: Vector) -> Vector:
    """The vector at length one; zero stays zero."""
    return vector / (float(np.linalg.norm(vector)) + 1e-12)
