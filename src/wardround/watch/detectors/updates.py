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
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 128
BLOCK = 65_536  # elements looked at together
DOT = 8_192  # elements of one dot product: beyond 10,000 OpenBLAS wakes its threads, which spin
READ_MAX = 65_536  # elements of an update that are read, or about; of a larger one a secret part of every tensor
PIECE = 16_384  # elements read together of a tensor that is not read whole

Vector = NDArray[np.float64]


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


class Sketcher:
    """Makes sketches of one study. `seed` is the hub's own: an edge that knew the sketch could hide in what it does not see."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._secrets: dict[str, int] = {}  # of a model's tensors
        self._places: dict[tuple[str, int, int], list[tuple[int, int]]] = {}  # what is read of each, by name and sizes
        secret = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
        self._signs = np.random.default_rng(secret).choice(np.array([-1, 1], np.float32), 2 * BLOCK)

    def sketch(self, update: Tensors) -> Sketched:
        """Of all tensors but control variates and counters.

        The norm of what is not read whole is that of its part, scaled. An element's place is its column of DIMENSIONS, its sign
        the hub's secret: inner products stay right in expectation, and a block of any tensor costs one multiplication and one
        sum.
        """
        shapes = {n: math.prod(s) for n, s in sorted(update.shapes().items()) if not n.startswith("control.")}
        total, squares, elements = np.zeros(DIMENSIONS), 0.0, sum(shapes.values())
        whole_size = elements
        for name, size in shapes.items():
            key = (name, size, whole_size)
            pieces = self._places.get(key) or self._placed(*key)
            read = sum(length for _, length in pieces)
            for number, (start, length) in enumerate(pieces):
                found = update.block(name, start, start + length)
                if found.dtype.kind in "iub":  # counters are larger than any weight, and point nowhere
                    elements -= size
                    break
                block = np.asarray(found, np.float32)
                parts = (block[at : at + DOT] for at in range(0, length, DOT))
                squares += sum(float(np.dot(p, p)) for p in parts) * size / read
                whole = length // DIMENSIONS * DIMENSIONS
                place = (self._secret(name) + number * 7919 * DIMENSIONS) % BLOCK  # every piece reads the signs elsewhere
                signed = block * self._signs[place : place + length]
                total += signed[:whole].reshape(-1, DIMENSIONS).sum(axis=0)
                total[: length - whole] += signed[whole:]
        return Sketched(unit(total), math.sqrt(squares), elements)

    def _secret(self, text: str) -> int:
        if text not in self._secrets:
            self._secrets[text] = int.from_bytes(hashlib.sha256(f"{self._seed}/{text}".encode()).digest()[:8], "big")
        return self._secrets[text]

    def _placed(self, name: str, size: int, elements: int) -> list[tuple[int, int]]:
        """Where a tensor is read, as (start, length): everywhere if it is small or the model is, else at secret places.

        Of each run of pieces one is read, the same in every round, so that an update can be held against older ones.
        """
        apart = max(1, elements // READ_MAX)
        if size <= PIECE or apart == 1:
            places = [(start, min(BLOCK, size - start)) for start in range(0, size, BLOCK)]
            self._places[name, size, elements] = places
            return places
        chance = np.random.default_rng(self._secret(f"{name}/{size}/{elements}"))
        starts = range(0, size, apart * PIECE)
        chosen = [start + int(chance.integers(max(1, min(apart * PIECE, size - start) - PIECE))) for start in starts]
        places = self._places[name, size, elements] = [(start, min(PIECE, size - start)) for start in chosen]
        return places


def unit(vector: Vector) -> Vector:
    """The vector at length one; zero stays zero."""
    return vector / (float(np.linalg.norm(vector)) + 1e-12)
