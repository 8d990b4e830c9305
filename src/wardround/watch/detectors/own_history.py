"""The own-history screen: an update against its own edge's past, before it is folded.

Edges differ from each other for good reasons; an edge seldom differs from itself. Three signs, each on a scale where about 1 is
healthy: the size of the update relative to the others of its round; its direction relative to the others' and to its own; and,
once there is enough history, an EWMA of the deviation of its sketch from its own mean in its own standard deviations (chi
square over the dimensions), which sees what is too small to see once. What is refused does not become history.
Sources: count-sketch, Charikar, Chen and Farach-Colton, ICALP 2002; own-history consistency, Zhang et al., FLDetector, KDD
2022, arXiv:2207.09209, whose idea this is without the Hessian.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

DIMENSIONS = 128
BLOCK = 65_536  # elements looked at together
PIECE = 8_192  # elements of one dot product: beyond 10,000 OpenBLAS wakes its threads, which spin
ROUNDS_MIN = 4  # of an edge's own past, before the screen says anything, unless the study says
REFERENCE_ROUNDS = 20  # of its own past, before the slow sign is used
EWMA = 0.2
CLIP = 5.0
NORM_SD_MIN = 0.25  # of log norm: less than a factor of 1.3 is no sign
COSINE_SD_MIN = 0.12
NORM_Z, COSINE_Z, CHI2 = 6.0, 5.0, 6.0
THRESHOLD = 6.0  # every sign is scaled to this one threshold, which a study may move
FORGET = 0.05  # the weight of a new round in an edge's running mean and variance, once the reference is full

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


class _Past(msgspec.Struct):
    """One edge's past: running means and sums of squared deviations."""

    rounds: int
    norm: tuple[float, float]  # mean and variance of the log norm relative to the round's median
    peers: tuple[float, float]  # of the cosine to the others' mean direction
    own: tuple[float, float]  # of the cosine to its own mean direction
    mean: bytes  # sketch, float64
    variance: bytes
    ewma: bytes


class _Saved(msgspec.Struct):
    edges: dict[str, _Past]


class OwnHistory:
    """The screen of one study. Memory: three sketches an edge, whatever the size of the model."""

    def __init__(self, seed: str, *, threshold: float = THRESHOLD, rounds_min: int = ROUNDS_MIN) -> None:
        """`seed` is the hub's own: an edge that knew the sketch could hide in what it does not see."""
        self._seed, self._threshold, self._rounds_min = seed, threshold, rounds_min
        self._past: dict[str, _Past] = {}
        secret = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
        self._signs = np.random.default_rng(secret).choice(np.array([-1, 1], np.float32), 2 * BLOCK)

    def judge_round(self, round_number: int, updates: Mapping[str, Tensors]) -> dict[str, Verdict]:
        """A verdict for each edge; each update is read once, a block at a time."""
        del round_number
        sketches: dict[str, Vector] = {}
        norms: dict[str, float] = {}
        for edge, update in updates.items():
            sketches[edge], norms[edge] = self._sketch(update)
        usual = float(np.median([math.log(n + 1e-12) for n in norms.values()])) if norms else 0.0
        chance = max((_cosine_of_chance(update) for update in updates.values()), default=0.0)
        return {edge: self._judge(edge, sketches, math.log(norms[edge] + 1e-12) - usual, chance) for edge in sketches}

    def state(self) -> bytes:
        """The history."""
        return msgspec.msgpack.encode(_Saved(self._past))

    def restore(self, state: bytes) -> None:
        """Take up a kept history."""
        self._past = msgspec.msgpack.decode(state, type=_Saved).edges

    def _judge(self, edge: str, sketches: Mapping[str, Vector], log_norm: float, chance: float) -> Verdict:
        direction = _unit(sketches[edge])
        others = [_unit(s) for e, s in sketches.items() if e != edge]
        peers = float(direction @ _unit(np.sum(others, axis=0))) if len(others) > 1 else 0.0
        past = self._past.get(edge)
        if past is None:
            self._past[edge] = _first(direction, log_norm, peers)
            return Verdict(accepted=True, reason="", score=0.0, threshold=self._threshold)
        own = float(direction @ _unit(_vector(past.mean)))
        signs = {"norm": 0.0, "direction": 0.0, "drift": 0.0}
        ewma = _vector(past.ewma)
        if past.rounds >= self._rounds_min:
            signs["norm"] = abs(log_norm - past.norm[0]) / max(_sd(past.norm), NORM_SD_MIN) * THRESHOLD / NORM_Z
            falls = [
                (mean_var[0] - now) / max(_sd(mean_var), COSINE_SD_MIN, chance)
                for mean_var, now in ((past.own, own), *([(past.peers, peers)] if len(others) > 2 else []))
            ]
            signs["direction"] = max(0.0, *falls) * THRESHOLD / COSINE_Z
        if past.rounds >= REFERENCE_ROUNDS:
            z = np.clip((direction - _vector(past.mean)) / np.sqrt(_vector(past.variance) + 1e-9), -CLIP, CLIP)
            ewma = ewma + EWMA * (z - ewma)
            signs["drift"] = float(np.mean(ewma**2)) / (EWMA / (2 - EWMA)) * THRESHOLD / CHI2
        reason, score = max(signs.items(), key=lambda sign: sign[1])
        accepted = score <= self._threshold
        if accepted:
            self._learn(past, direction, log_norm, peers, own, ewma)
        return Verdict(accepted, "" if accepted else f"own-history-{reason}", round(score, 2), self._threshold)

    def _learn(self, past: _Past, direction: Vector, log_norm: float, peers: float, own: float, ewma: Vector) -> None:
        past.rounds += 1
        weight = max(FORGET, 1.0 / past.rounds)
        past.norm = _moved(past.norm, log_norm, weight)
        past.peers = _moved(past.peers, peers, weight)
        past.own = _moved(past.own, own, weight) if past.rounds > 2 else (own, 0.0)
        mean, variance = _vector(past.mean), _vector(past.variance)
        deviation = direction - mean
        past.mean = (mean + weight * deviation).tobytes()
        past.variance = ((1 - weight) * (variance + weight * deviation**2)).tobytes()
        past.ewma = ewma.tobytes()

    def _sketch(self, update: Tensors) -> tuple[Vector, float]:
        """A count-sketch of all tensors but control variates, shape (DIMENSIONS,), and their L2 norm, in one pass.

        An element's place is its column of DIMENSIONS, its sign the hub's secret: inner products stay right in expectation,
        and a block of any tensor costs one multiplication and one sum.
        """
        total, squares = np.zeros(DIMENSIONS), 0.0
        for name, shape in sorted(update.shapes().items()):
            if name.startswith("control."):
                continue
            first = int.from_bytes(hashlib.sha256(f"{self._seed}/{name}".encode()).digest()[:8], "big")
            for number, start in enumerate(range(0, size := math.prod(shape), BLOCK)):
                read = update.block(name, start, min(start + BLOCK, size))
                if read.dtype.kind in "iub":  # counters are larger than any weight, and point nowhere
                    break
                block = np.asarray(read, np.float32)
                squares += sum(float(np.dot(p, p)) for p in (block[at : at + PIECE] for at in range(0, len(block), PIECE)))
                whole = len(block) // DIMENSIONS * DIMENSIONS
                place = (first + number * 7919 * DIMENSIONS) % BLOCK  # every block reads the signs from another place
                signed = block * self._signs[place : place + len(block)]
                total += signed[:whole].reshape(-1, DIMENSIONS).sum(axis=0)
                total[: len(block) - whole] += signed[whole:]
        return total, math.sqrt(squares)


def _first(direction: Vector, log_norm: float, peers: float) -> _Past:
    zero = np.zeros(DIMENSIONS).tobytes()
    return _Past(
        rounds=1,
        norm=(log_norm, 0.0),
        peers=(peers, 0.0),
        own=(1.0, 0.0),
        mean=direction.tobytes(),
        variance=zero,
        ewma=zero,
    )


def _cosine_of_chance(update: Tensors) -> float:
    """The standard deviation of the cosine of two directions that have nothing to do with each other.

    A model of 20 numbers has updates that point anywhere by chance: there a fall of the cosine by a half is no sign.
    """
    size = sum(math.prod(shape) for name, shape in update.shapes().items() if not name.startswith("control."))
    return 1.0 / math.sqrt(max(1, min(size, DIMENSIONS)))


def _unit(vector: Vector) -> Vector:
    return vector / (float(np.linalg.norm(vector)) + 1e-12)


def _vector(data: bytes) -> Vector:
    return np.frombuffer(data, np.float64)


def _sd(mean_var: tuple[float, float]) -> float:
    return float(np.sqrt(mean_var[1]))


def _moved(mean_var: tuple[float, float], value: float, weight: float) -> tuple[float, float]:
    """Running mean and variance with the newest value at `weight` (West, CACM 22(9), 1979, in its weighted form)."""
    mean, variance = mean_var
    deviation = value - mean
    return mean + weight * deviation, (1 - weight) * (variance + weight * deviation * deviation)
