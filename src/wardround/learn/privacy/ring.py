"""The ring that masked vectors are added in, and the masks themselves.

A vector is an array of uint32 words. Its elements are integers modulo 2^32, one word each, or modulo 2^(32 * limbs) in `limbs`
words, the lowest first. Numbers enter it quantised such that the sum over all edges cannot wrap: see `Scale` and `encode_sums`.
A mask is the key stream of AES-256 in counter mode; its seed is used for one mask alone, so the counter begins at zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Floats = NDArray[Any]

BLOCK: Final = 65_536  # words that are masked at once: they stay in the processor's cache
GROUP: Final = 64  # masks that are open at a time
AES_BLOCK: Final = 16
HALF: Final = 2**31 - 1
SUM_LIMBS: Final = 8  # of an element that holds a federated sum
SUM_FRACTION: Final = 80  # bits behind the point: squares of small readings keep digits
SUM_MAX: Final = 2.0**157  # of an edge's sum: 2^16 of them, shifted by SUM_FRACTION, are below 2^255
_ZEROS: Final = bytes(4 * BLOCK)


@dataclass(frozen=True, slots=True)
class Scale:
    """How updates of at most `edges` edges become words: [weight, values...], each value at most `levels` in size.

    An edge's weight is its examples, at most `weight_max`; its values are weight / weight_max * update / clip * levels, rounded
    to the nearest. As edges * levels < 2^31, no sum wraps. A mean is off by at most clip * weight_max / (2 levels * mean weight).
    """

    edges: int
    clip: float
    weight_max: int

    def __post_init__(self) -> None:
        if self.edges < 1 or not 0 < self.clip < math.inf or not 1 <= self.weight_max <= self.levels:
            raise ValueError(
                f"{self.edges} edges with clip {self.clip:g} and weights up to {self.weight_max} do not fit the ring"
            )

    @property
    def levels(self) -> int:
        """The largest size of a word before masks."""
        return HALF // self.edges

    def encode(self, update: Sequence[Floats], examples: int) -> tuple[Words, float]:
        """An update, flat arrays one after the other, as words of shape (1 + n,); and what it was scaled by to fit `clip`.

        Raises:
            ValueError: a value is not finite, or there are no examples.
        """
        largest = max((float(np.abs(part).max()) for part in update if part.size), default=0.0)
        if not math.isfinite(largest) or examples < 1:
            raise ValueError("an update with NaN, infinity or no examples cannot be masked")
        shrunk = min(1.0, self.clip / largest) if largest else 1.0
        weight = min(examples, self.weight_max)
        factor = weight / self.weight_max * shrunk / self.clip * self.levels
        words = np.empty(1 + sum(part.size for part in update), np.int32)
        words[0] = weight
        at, room = 1, np.empty(BLOCK)
        for part in update:
            flat = part.reshape(-1)
            for start in range(0, flat.size, BLOCK):
                some = flat[start : start + BLOCK]
                scaled = room[: some.size]
                np.multiply(some, factor, out=scaled, dtype=np.float64)
                np.rint(scaled, out=scaled)
                np.clip(scaled, -self.levels, self.levels, out=scaled)
                words[at : at + some.size] = scaled
                at += some.size
        return words.view(np.uint32), shrunk

    def decode(self, total: Words) -> tuple[NDArray[np.float64], int]:
        """The mean by weight, shape (n,), and the weights' sum, of an unmasked sum.

        Raises:
            ValueError: the sum is none of such updates.
        """
        signed = total.view(np.int32)
        weight = int(signed[0])
        if not 0 < weight <= self.edges * self.weight_max:
            raise ValueError(f"the sum of weights is {weight}: an edge has not sent what it should")
        return np.multiply(signed[1:], self.clip * self.weight_max / self.levels / weight, dtype=np.float64), weight


def encode_sums(sums: Mapping[str, Floats]) -> Words:
    """Federated sums (float64, names in order) as elements of SUM_LIMBS words, exact to 2^-80.

    Raises:
        ValueError: one is not finite, or beyond SUM_MAX.
    """
    values = [float(v) for name in sorted(sums) for v in np.asarray(sums[name], np.float64).reshape(-1)]
    if not all(abs(v) <= SUM_MAX for v in values):
        raise ValueError("a sum is not finite, or too large to be masked")
    size = 4 * SUM_LIMBS
    return np.frombuffer(b"".join(_fixed(v).to_bytes(size, "little", signed=True) for v in values), "<u4").astype(np.uint32)


def decode_sums(total: Words, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[np.float64]]:
    """The inverse of encode_sums, of a sum of such vectors."""
    size, data = 4 * SUM_LIMBS, total.astype("<u4").tobytes()
    values = [
        math.ldexp(int.from_bytes(data[at : at + size], "little", signed=True), -SUM_FRACTION) for at in range(0, len(data), size)
    ]
    found: dict[str, NDArray[np.float64]] = {}
    at = 0
    for name in sorted(shapes):
        count = math.prod(shapes[name])
        found[name] = np.array(values[at : at + count], np.float64).reshape(shapes[name])
        at += count
    return found


def _fixed(value: float) -> int:
    top, bottom = value.as_integer_ratio()
    return (top << SUM_FRACTION) // bottom


def add_masks(vector: Words, plus: Sequence[bytes], minus: Sequence[bytes] = (), *, limbs: int = 1, workers: int = 1) -> None:
    """Add the masks of the seeds (32 bytes each) to a vector, and subtract those of `minus`, in place and block by block.

    With `workers` the vector's ranges are worked at side by side; the key stream is sought to, so the result is the same.
    """
    seeds = [(seed, True) for seed in plus] + [(seed, False) for seed in minus]
    if limbs > 1:
        _add_wide(vector, seeds, limbs)
        return
    ranges = max(1, min(workers, len(vector) // BLOCK))
    step = -(-len(vector) // ranges // BLOCK) * BLOCK
    starts = range(0, len(vector), step or BLOCK)
    if len(starts) == 1:
        _add(vector, seeds, 0)
        return
    with ThreadPoolExecutor(len(starts)) as pool:
        for done in [pool.submit(_add, vector[start : start + step], seeds, start) for start in starts]:
            done.result()


def add_vector(total: Words, vector: Words, *, limbs: int = 1) -> None:
    """Add a vector to a sum, in place."""
    if limbs == 1:
        np.add(total, vector, out=total)
        return
    wide = total.reshape(-1, limbs).astype(np.int64) + vector.reshape(-1, limbs)
    _carry(wide, total)


def _stream(seed: bytes, word: int) -> Any:
    """The key stream of a seed from a word on."""
    counter = (4 * word // AES_BLOCK).to_bytes(AES_BLOCK)
    return Cipher(algorithms.AES(seed), modes.CTR(counter)).encryptor()


def _add(vector: Words, seeds: Sequence[tuple[bytes, bool]], first: int) -> None:
    room = np.empty(4 * BLOCK + AES_BLOCK - 1, np.uint8)
    zeros = memoryview(_ZEROS)
    for group in range(0, len(seeds), GROUP):
        opened = [(_stream(seed, first), np.add if up else np.subtract) for seed, up in seeds[group : group + GROUP]]
        for start in range(0, len(vector), BLOCK):
            own = vector[start : start + BLOCK]
            mask = room[: 4 * own.size].view(np.uint32)
            for stream, apply in opened:
                stream.update_into(zeros[: 4 * own.size], room)
                apply(own, mask, out=own)


def _add_wide(vector: Words, seeds: Sequence[tuple[bytes, bool]], limbs: int) -> None:
    """Elements of several limbs: limbs are added as they are, and carried at the end."""
    wide = vector.reshape(-1, limbs).astype(np.int64)  # 2^31 masks would fit
    for seed, up in seeds:
        mask = np.frombuffer(_stream(seed, 0).update(bytes(4 * vector.size)), "<u4").reshape(-1, limbs)
        if up:
            wide += mask
        else:
            wide -= mask
    _carry(wide, vector)


def _carry(wide: NDArray[np.int64], out: Words) -> None:
    carry = np.zeros(len(wide), np.int64)
    into = out.reshape(-1, wide.shape[1])
    for limb in range(wide.shape[1]):
        value = wide[:, limb] + carry
        into[:, limb] = value & 0xFFFFFFFF
        carry = value >> 32
