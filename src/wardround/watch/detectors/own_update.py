"""An edge's update against the edge's own past, by the edge itself: what needs no other edge's update.

Three signs. How long it is, over the median of the newest ones. How far it has turned from the edge's own usual way. And what it
does to the loss on the edge's own rows: training that goes well lowers it, or hardly moves it. The second and third are judged in
standard deviations of the edge's own newest rounds, as a study that comes to its end teaches less in every round.
Source: the guard and the fall of the cosine as in own_history.py, which a hub uses that sees every update.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec
import numpy as np

from wardround.watch.detectors.own_past import LARGEST
from wardround.watch.detectors.seen import EdgeSeen, Found, RoundSeen, Scored, Sign
from wardround.watch.detectors.updates import Vector, unit

KIND = "own-update"
NORM, DIRECTION, GAIN = "own-norm", "own-direction", "own-gain"
LONGER = 4.5  # times the usual norm, as own_history.py has it: six deviations of a quarter of its logarithm
NORMS, NORMS_MIN = 8, 3  # newest updates whose median is usual
ROUNDS_MIN = 10  # of a past, before directions and losses are judged
FADE = 0.1  # the weight of a new round in a full past: about as much as twenty
COSINE_SD_MIN, CHANCE_SD = 0.12, 1.4  # as own_history.py has them
WORSE_SD_MIN = 0.01  # of the loss before: less is no sign
WORSE = 0.5  # of the loss before: an update that makes it worse by half is a sign without any past
DIRECTION_Z, GAIN_Z = 5.0, 6.0
SCORE_MAX = 100.0


class _Course(msgspec.Struct):
    """Running mean and variance of a number whose past fades (West, CACM 22(9), 1979, in its weighted form)."""

    n: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def above(self, value: float, sd_min: float) -> float:
        """How many deviations a value lies above the mean."""
        sd = max(math.sqrt(self.variance), sd_min) * math.sqrt(1 + 1 / max(1, self.n))
        return (value - self.mean) / sd

    def learn(self, value: float) -> None:
        self.n += 1
        weight = max(1.0 / self.n, FADE)
        deviation = value - self.mean
        self.mean += weight * deviation
        self.variance = (1 - weight) * (self.variance + weight * deviation * deviation)


class _Edge(msgspec.Struct):
    norms: list[float] = []
    way: bytes = b""  # mean direction, float64
    cosine: _Course = msgspec.field(default_factory=_Course)
    gain: _Course = msgspec.field(default_factory=_Course)


class OwnUpdate:
    """Of one edge, or of a few. Memory: one sketch and a dozen numbers an edge."""

    signs: Mapping[str, Sign] = MappingProxyType(
        {
            NORM: Sign(KIND, math.log(LONGER), "logarithm of the update's length over the usual one"),
            DIRECTION: Sign(KIND, DIRECTION_Z, "fall of the cosine to its own usual way, in its deviations"),
            GAIN: Sign(KIND, GAIN_Z, "rise of the loss by the update, in its deviations"),
        }
    )

    def __init__(self) -> None:
        self._edges: dict[str, _Edge] = {}

    def score(self, seen: RoundSeen) -> Found:
        found: dict[str, dict[str, Scored]] = {NORM: {}, DIRECTION: {}, GAIN: {}}
        for edge, own in seen.edges.items():
            past = self._edges.get(edge, _Edge())
            if own.update is not None and len(past.norms) >= NORMS_MIN and own.update.norm > 0:
                usual = float(np.median(past.norms))
                found[NORM][edge] = Scored(max(0.0, math.log(own.update.norm / usual)), own.update.norm, usual)
            if own.update is not None and past.cosine.n >= ROUNDS_MIN:
                cosine = _cosine(own.update.direction, past.way)
                fall = -past.cosine.above(cosine, max(COSINE_SD_MIN, CHANCE_SD * own.update.chance))
                found[DIRECTION][edge] = Scored(max(0.0, fall), cosine, past.cosine.mean)
            if (rise := _rise(own)) is not None:
                z = past.gain.above(rise, WORSE_SD_MIN) if past.gain.n >= ROUNDS_MIN else 0.0
                score = min(SCORE_MAX, max(0.0, z, rise / WORSE * GAIN_Z))
                found[GAIN][edge] = Scored(score, rise, past.gain.mean)
        return found

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        for edge, own in seen.edges.items():
            if edge in leave_out:
                continue
            past = self._edges.setdefault(edge, _Edge())
            if own.update is not None and own.update.norm > 0:
                past.norms = [*past.norms[-(NORMS - 1) :], own.update.norm]
                if past.way:
                    past.cosine.learn(_cosine(own.update.direction, past.way))
                way = np.frombuffer(past.way, np.float64) if past.way else np.zeros_like(own.update.direction)
                past.way = (way + 1 / len(past.norms) * (own.update.direction - way)).tobytes()  # it fades as the norms do
            if (rise := _rise(own)) is not None:
                past.gain.learn(rise)

    def state(self) -> bytes:
        return msgspec.msgpack.encode(self._edges)

    def restore(self, state: bytes) -> None:
        self._edges = msgspec.msgpack.decode(state, type=dict[str, _Edge])


def _rise(own: EdgeSeen) -> float | None:
    """By what share of itself the update makes the loss on the edge's own rows worse; below zero: better. None: not known."""
    before, after = own.tried_before, own.tried_after
    if before is None or after is None or not math.isfinite(before):
        return None
    rise = (after - before) / max(before, 1e-6)
    return max(-SCORE_MAX, min(SCORE_MAX, rise)) if abs(after) < LARGEST else SCORE_MAX  # NaN is no small number either


def _cosine(direction: Vector, way: bytes) -> float:
    return float(direction @ unit(np.frombuffer(way, np.float64)))
