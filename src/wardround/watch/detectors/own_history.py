"""The own-history screen: an update against its own edge's past, before it is folded.

Edges differ from each other for good reasons; an edge seldom differs from itself. Three signs, each on a scale where about 1 is
healthy: the size of the update relative to the others of its round; its direction relative to the others' and to its own; and,
once there is enough history, an EWMA of the deviation of its sketch from its own mean in its own standard deviations (chi
square over the dimensions), which sees what is too small to see once. What is refused does not become history.
Source: own-history consistency, Zhang et al., FLDetector, KDD 2022, arXiv:2207.09209, whose idea this is without the Hessian.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import msgspec
import numpy as np

from wardround.watch.detectors.updates import DIMENSIONS, Sketched, Sketcher, Tensors, Vector, Verdict, unit

ROUNDS_MIN = 4  # of an edge's own past, before the screen says anything, unless the study says
REFERENCE_ROUNDS = 20  # of its own past, before the slow sign is used
EWMA = 0.2
CLIP = 5.0
NORM_SD_MIN = 0.25  # of log norm: less than a factor of 1.3 is no sign
COSINE_SD_MIN = 0.12
DRIFT_SD_MIN = 0.35  # of the whole direction: honest training turns, slowly and all one way, by 16 degrees and less
NORM_Z, COSINE_Z, CHI2 = 6.0, 5.0, 6.0
THRESHOLD = 6.0  # every sign is scaled to this one threshold, which a study may move
FORGET = 0.05  # the weight of a new round in an edge's running mean and variance, once the reference is full


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
        self._sketcher, self._threshold, self._rounds_min = Sketcher(seed), threshold, rounds_min
        self._past: dict[str, _Past] = {}

    def judge_round(self, round_number: int, updates: Mapping[str, Tensors]) -> dict[str, Verdict]:
        """A verdict for each edge; each update is read once, a block at a time."""
        return self.judge(round_number, {edge: self._sketcher.sketch(update) for edge, update in updates.items()})

    def judge(self, round_number: int, updates: Mapping[str, Sketched], refused: Collection[str] = ()) -> dict[str, Verdict]:
        """As judge_round, of sketches; those of `refused` are judged and teach nothing."""
        del round_number
        usual = float(np.median([math.log(u.norm + 1e-12) for u in updates.values()])) if updates else 0.0
        learns = {edge: edge not in refused for edge in updates}
        together = np.sum([u.direction for u in updates.values()], axis=0)
        others = len(updates) - 1
        return {
            edge: self._judge(edge, u, math.log(u.norm + 1e-12) - usual, together - u.direction, others, learn=learns[edge])
            for edge, u in updates.items()
        }

    def stepped(self, step: Tensors) -> None:
        """What the round's updates were folded to says nothing of an edge's own history."""

    def state(self) -> bytes:
        """The history."""
        return msgspec.msgpack.encode(_Saved(self._past))

    def restore(self, state: bytes) -> None:
        """Take up a kept history."""
        self._past = msgspec.msgpack.decode(state, type=_Saved).edges

    def _judge(self, edge: str, update: Sketched, log_norm: float, rest: Vector, others: int, *, learn: bool) -> Verdict:
        direction, chance = update.direction, update.chance
        peers = float(direction @ unit(rest)) if others > 1 else 0.0
        past = self._past.get(edge)
        if past is None:
            if learn:
                self._past[edge] = _first(direction, log_norm, peers)
            return Verdict(accepted=True, reason="", score=0.0, threshold=self._threshold)
        own = float(direction @ unit(_vector(past.mean)))
        signs = {"norm": 0.0, "direction": 0.0, "drift": 0.0}
        ewma = _vector(past.ewma)
        if past.rounds >= self._rounds_min:
            signs["norm"] = abs(log_norm - past.norm[0]) / max(_sd(past.norm), NORM_SD_MIN) * THRESHOLD / NORM_Z
            falls = [
                (mean_var[0] - now) / max(_sd(mean_var), COSINE_SD_MIN, chance)
                for mean_var, now in ((past.own, own), *([(past.peers, peers)] if others > 2 else []))
            ]
            signs["direction"] = max(0.0, *falls) * THRESHOLD / COSINE_Z
        if past.rounds >= REFERENCE_ROUNDS:
            sd = np.sqrt(np.maximum(_vector(past.variance), DRIFT_SD_MIN**2 / DIMENSIONS))
            z = np.clip((direction - _vector(past.mean)) / sd, -CLIP, CLIP)
            ewma = ewma + EWMA * (z - ewma)
            signs["drift"] = float(np.mean(ewma**2)) / (EWMA / (2 - EWMA)) * THRESHOLD / CHI2
        reason, score = max(signs.items(), key=lambda sign: sign[1])
        accepted = score <= self._threshold
        if accepted and learn:
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


def _vector(data: bytes) -> Vector:
    return np.frombuffer(data, np.float64)


def _sd(mean_var: tuple[float, float]) -> float:
    return float(np.sqrt(mean_var[1]))


def _moved(mean_var: tuple[float, float], value: float, weight: float) -> tuple[float, float]:
    """Running mean and variance with the newest value at `weight` (West, CACM 22(9), 1979, in its weighted form)."""
    mean, variance = mean_var
    deviation = value - mean
    return mean + weight * deviation, (1 - weight) * (variance + weight * deviation * deviation)
