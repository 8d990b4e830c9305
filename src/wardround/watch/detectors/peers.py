"""An update beside those of its round: for an edge that was at fault from the start, whose own history says nothing.

Honest edges differ, so three signs alone are used. Size: the logarithm of its norm lies far outside those of the round, in two
of an edge's last three. Direction: while training goes somewhere (the updates of a round agree, as they do at first), the update
points against the others, and far outside their spread, in two of three. Self: over the rounds that agree, an edge whose updates
do not even agree with each other sends noise. Once training has come to its end updates agree no more, and nothing is said of
directions: nothing can be.
Robust z: deviation from the median in 1.4826 median absolute deviations (Rousseeuw, Croux, JASA 88(424), 1993).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.watch.detectors.updates import DIMENSIONS, Sketched, Vector, Verdict, unit

EDGES_MIN = 8  # of a round: with fewer, their spread is not known
NORM_Z, NORM_MAD_MIN = 6.0, 0.3
DIRECTION_Z, DIRECTION_MAD_MIN = 5.0, 0.08
AGREE_MIN = 0.25  # median cosine of an update of the round to the others
SELF_Z, SELF_ROUNDS, SELF_MAD_MIN = 5.0, 3, 0.06
SELF_SHARE = 0.4  # of what is usual; more is an edge that is merely unlike the others
SEEN = 3  # rounds of an edge that are looked at
NEEDED = {"peers-norm": 2, "peers-direction": 2, "peers-self": 1}  # of them, that must speak; the last is of many rounds already
THRESHOLD = 1.0  # every sign is scaled to it
MAD_SD = 1.4826


class _Edge(msgspec.Struct):
    seen: list[tuple[int, str]] = []  # newest last: round, and the sign that spoke ("": none)
    mean: bytes = b""  # sum of its directions in rounds that agreed, float64
    own: float = 0.0  # sum of the cosines of each to the ones before
    rounds: int = 0  # of that


class _Saved(msgspec.Struct):
    edges: dict[str, _Edge]


class Peers:
    """Of one study. Memory: one sketch an edge."""

    def __init__(self) -> None:
        self._edges: dict[str, _Edge] = {}

    def judge(self, round_number: int, updates: Mapping[str, Sketched]) -> dict[str, Verdict]:
        """A verdict for each edge; the score is that of its largest sign, 1 at the threshold."""
        names = sorted(updates)
        if len(names) < EDGES_MIN:
            return {e: Verdict(accepted=True, reason="", score=0.0, threshold=THRESHOLD) for e in names}
        rows = np.array([updates[e].direction for e in names])
        signs = {"peers-norm": _far([math.log(updates[e].norm + 1e-12) for e in names], NORM_MAD_MIN, NORM_Z, both=True)}
        usual = np.median(rows, axis=0) * len(names)  # of a few that point elsewhere, a median takes less notice than a mean
        cosines = np.array([float(row @ unit(usual - row)) for row in rows])
        if float(np.median(cosines)) >= AGREE_MIN:
            chance = max(u.chance for u in updates.values())
            against = np.where(cosines < 0, _far(cosines, max(DIRECTION_MAD_MIN, chance / 2), DIRECTION_Z), 0.0)
            signs["peers-direction"] = against
            signs["peers-self"] = self._alike(names, rows, chance)
        return {edge: self._verdict(edge, place, round_number, signs) for place, edge in enumerate(names)}

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        return msgspec.msgpack.encode(_Saved(self._edges))

    def restore(self, state: bytes) -> None:
        """Take up a kept state."""
        self._edges = msgspec.msgpack.decode(state, type=_Saved).edges

    def _verdict(self, edge: str, place: int, round_number: int, signs: Mapping[str, NDArray[np.float64]]) -> Verdict:
        reason, score = max(((r, float(s[place])) for r, s in signs.items()), key=lambda sign: sign[1])
        known = self._edges.setdefault(edge, _Edge())
        before = [s for s in known.seen if s[0] != round_number]  # a round may be judged again
        known.seen = [*before[-(SEEN - 1) :], (round_number, reason if score > THRESHOLD else "")]
        spoke = score > THRESHOLD and sum(sign == reason for _, sign in known.seen) >= NEEDED[reason]
        return Verdict(not spoke, reason if spoke else "", round(score, 3), THRESHOLD)

    def _alike(self, names: list[str], rows: NDArray[np.float64], chance: float) -> NDArray[np.float64]:
        """How far an edge's updates agree less with each other than those of other edges do."""
        found = np.full(len(names), np.nan)
        for place, (edge, row) in enumerate(zip(names, rows, strict=True)):
            known = self._edges.setdefault(edge, _Edge())
            before: Vector = np.frombuffer(known.mean, np.float64) if known.mean else np.zeros(DIMENSIONS)
            if known.mean:
                known.own, known.rounds = known.own + float(row @ unit(before)), known.rounds + 1
            known.mean = (before + row).tobytes()
            if known.rounds >= SELF_ROUNDS:
                found[place] = known.own / known.rounds
        there = np.isfinite(found)
        if there.sum() < EDGES_MIN:
            return np.zeros(len(names))
        floor = max(SELF_MAD_MIN, chance / math.sqrt(SELF_ROUNDS))
        far = np.zeros(len(names))
        far[there] = _far(found[there], floor, SELF_Z)
        return np.where(found < SELF_SHARE * float(np.nanmedian(found)), far, 0.0)


def _far(values: list[float] | NDArray[np.float64], mad_min: float, z: float, *, both: bool = False) -> NDArray[np.float64]:
    """How far each lies below the median (or on either side), 1 at a robust z of `z`."""
    array = np.asarray(values, np.float64)
    middle = float(np.median(array))
    spread = max(mad_min, MAD_SD * float(np.median(np.abs(array - middle))))
    away = (middle - array) / spread / z
    return np.abs(away) if both else np.maximum(0.0, away)
