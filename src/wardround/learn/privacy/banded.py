"""Noise that rounds share, so that much of it cancels in the model: banded matrix factorisation, without amplification by chance.

A model after round t is a sum of t updates. With noise of its own in each, errors add up; here each round's noise takes back a
part of the b - 1 before it. Released is u = M x + z, where row i of x is round i's sum of clipped updates, M a lower-triangular
banded Toeplitz matrix of whole numbers (about UNIT times the square root of the matrix of prefix sums, its first b diagonals),
and z a discrete Gaussian: whole numbers throughout, so the noise is exact. The hub then solves for y = M^-1 u = x + M^-1 z, one
row at a time; all of that looks at u alone.

A unit that takes part in rounds at least b apart meets columns of M without a common row: over k of them it moves u by sqrt(k)
times the length of a column. So one of every b rounds costs what a Gaussian does, and the others nothing. Whose turn it is hangs
on an edge's name alone (`slot`), so that one edge more or less moves no other; and on no chance, so nothing is gained by chance.

Sources: Kairouz et al., Practical and Private (Deep) Learning without Sampling or Shuffling, ICML 2021, arXiv:2103.00039;
Choquette-Choo et al., (Amplified) Banded Matrix Factorization, NeurIPS 2023, arXiv:2306.08153; the square root's closed form:
Fichtenberger, Henzinger, Upadhyay, Constant Matters, ICML 2023, arXiv:2202.11205.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.errors import StudyError
from wardround.learn.blobs import Blobs
from wardround.learn.privacy.noise import discrete_gaussian
from wardround.learn.privacy.samplers import Sampler

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

UNIT = 64  # of the diagonal
BAND_MAX = 128  # with it, and the most noise of a study, z can still be drawn (noise.SIGMA_MAX)
FOLDER = "noise"
SUMS, SAID = "sums/", "said/"  # of a row's tensors: x, and y


@functools.cache
def diagonals(band: int) -> tuple[int, ...]:
    """The first `band` entries of M's first column; of the identity for 1."""
    root = [1.0]
    for j in range(1, band):
        root.append(root[-1] * (2 * j - 1) / (2 * j))
    return tuple(round(UNIT * value) for value in root)


def column(band: int) -> float:
    """The length of a column of M: how far one participation can move u, in lengths of what takes part."""
    return math.sqrt(sum(m * m for m in diagonals(band)))


def prefix_error(rounds: int, band: int, apart: int) -> float:
    """Root mean square of the noise in the sums of the first t rounds, t = 1 to `rounds`, of a unit that takes part every `apart`
    rounds: with noise of the standard deviation that such a unit can move u by."""
    noise = np.zeros(rounds)  # of M^-1 z: the first column of the inverse, as both are Toeplitz
    m = diagonals(band)
    noise[0] = 1 / m[0]
    for i in range(1, rounds):
        noise[i] = -sum(m[j] * noise[i - j] for j in range(1, min(band, i + 1))) / m[0]
    sums = np.cumsum(noise)  # of prefix sums of it: Toeplitz too
    variance = np.cumsum(sums**2)  # of the sum of the first t rounds
    return float(np.sqrt(variance.mean()) * column(band) * math.sqrt(-(-rounds // apart)))


def slot(study: str, edge: str, band: int) -> int:
    """In which one of every `band` rounds an edge takes part, for the whole study."""
    digest = hashlib.sha256(b"wardround turn\0" + study.encode() + b"\0" + edge.encode()).digest()
    return int.from_bytes(digest[:8], "big") % band


class Banded:
    """The noise of one study's rounds. The last b - 1 rows are kept with the study; not safe by itself."""

    def __init__(self, study: str, band: int, blobs: Blobs, sampler: Sampler | None = None) -> None:
        """`sampler` draws the noise; our own if left out."""
        self._study, self.band, self._blobs, self._sampler = study, band, blobs, sampler

    def slot(self, edge: str) -> int:
        """As the function."""
        return slot(self._study, edge, self.band)

    def noisy(self, row: int, sums: Mapping[str, Integers], deviation: float) -> dict[str, Floats]:
        """Row `row` of y: the sums with their noise; when this returns it is on the disk.

        Args:
            sums: by name, shape (n,) each, in whole steps of a grid.
            deviation: of z, over the length of a column of M; in the same steps.

        Raises:
            StudyError: what was kept of an earlier row does not hold.
        """
        m, draw = diagonals(self.band), self._sampler or discrete_gaussian
        before = {r: found for r in range(max(0, row - self.band + 1), row) if (found := self._kept(r, sums))}
        said: dict[str, Floats] = {}
        for name, total in sums.items():
            u = m[0] * total + draw(deviation * column(self.band), len(total))
            for r, kept in before.items():
                u += m[row - r] * kept[SUMS + name]
            y = u.astype(np.float64)
            for r, kept in before.items():
                y -= m[row - r] * kept[SAID + name]
            said[name] = y / m[0]
        self._keep(row, sums, said)
        return said

    def _keep(self, row: int, sums: Mapping[str, Integers], said: Mapping[str, Floats]) -> None:
        out = io.BytesIO()
        arrays = {SUMS + n: t for n, t in sums.items()} | {SAID + n: t for n, t in said.items()}
        np.savez(out, **arrays)  # type: ignore[arg-type]  # its stubs take the names for options
        self._blobs.write(_name(row), out.getvalue())
        if row >= self.band - 1:
            self._blobs.delete(_name(row - self.band + 1))

    def _kept(self, row: int, sums: Mapping[str, Integers]) -> dict[str, NDArray[Any]]:
        """Empty where a kill came between ledger and noise: that row was never seen, and is as if nobody had taken part."""
        try:
            data = self._blobs.read(_name(row))
        except FileNotFoundError:
            return {}
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
        except (ValueError, OSError, EOFError) as exc:
            raise _broken(row) from exc
        if any(found.get(p + n, np.zeros(0)).shape != t.shape for n, t in sums.items() for p in (SUMS, SAID)):
            raise _broken(row)
        return found


def _name(row: int) -> str:
    return f"{FOLDER}/{row}.npz"


def _broken(row: int) -> StudyError:
    return StudyError(
        f"what the study keeps of its noise in row {row} cannot be read: without it the noise would not cancel",
        remedy="put the study's folder back as it was, or start another study",
    )
