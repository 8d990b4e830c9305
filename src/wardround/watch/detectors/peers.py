"""An update beside those of its round: for an edge that was at fault from the start, whose own history says nothing.

Honest edges differ, so these signs alone are used. Size: the logarithm of its norm lies far outside those of the round, in two
of an edge's last three, on their average; of an edge's first update eight times the usual is enough.
Direction: no single round tells a fault from an edge whose patients are others. Over an edge's first rounds together, large
updates and long steps counting most:

    climb  when the model has gone a step, an edge wants less of that step than before, wherever its own optimum lies: for a
           convex loss the change of its update never points along the step (gradients are monotone). One whose sign is wrong
           wants more of it, the further the model goes.
    path   what an edge learns from its examples is where its loss falls, so its updates point along the way that the model goes
           while that becomes better for it. An edge whose updates point against that way, and far outside the spread of the
           others, has swapped labels or a wrong sign.
    self   an edge learns from the same patients in round after round, so its updates resemble each other. Noise does not.

Path asks who is unlike most, and that has an honest answer, too: edges come in kinds (five wards of one unit), and a kind may be
drawn where the others are not. Where most edges have companions, that is two others to which they are three times closer than is
usual, an edge with companions is one of its kind, and path says nothing of it. Where edges do not come in kinds, companions
excuse nobody: liars who are alike gain nothing by it.

Each of the three is a sum over rounds, so that it sees what no single round shows, and all are of the first rounds alone: once
training has come to its end updates agree no more, and nothing is said of directions: nothing can be.
Source: Rockafellar, Monotone Operators and the Proximal Point Algorithm, SIAM J. Control Optim. 14(5), 1976: why gradients of
convex losses are monotone.
Robust z: deviation from the median in 1.4826 median absolute deviations (Rousseeuw, Croux, JASA 88(424), 1993).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.malformed import MALFORMED
from wardround.watch.detectors.updates import DIMENSIONS, Sketched, Vector, Verdict, unit

EDGES_MIN = 8  # of a round: with fewer, their spread is not known
NORM_Z, NORM_MAD_MIN = 6.0, 0.3
NORM_ALONE = 1.15  # of an edge's first update, which is enough: at least eight times the usual, or an eighth
CLIMB_Z, CLIMB_MAD_MIN = 3.0, 0.04
CLIMB_SHARE, CLIMB_CHANCES = 0.25, 1.5  # of what is usual, or of chance's deviation, upwards; less may be an edge that is done
COMPANIONS, CLOSER = 2, 3.0  # others of an edge's kind, and so many times closer than is usual, in 1 - cosine
KINDS_SAMPLE, MOST = 64, 0.5  # edges that are asked whether they have companions, and the share that has
PRODUCT = 250_000  # multiplications at a time: beyond 262,144 OpenBLAS wakes its threads, which spin
PATH_Z, PATH_MAD_MIN = 3.5, 0.06
PATH_SHARE, PATH_CHANCES = 0.15, 1.5  # of what is usual, and of chance's standard deviations, backwards: less is merely unlike
PATH_MIN = 0.25  # median cosine of updates to the path: less, and training does not go anywhere
PATH_FROM = 5  # steps: who begins later has not seen the long ones, and is not judged by the rest
SELF_MIN, SELF_SHARE = 0.3, 0.25  # of updates to those before: the median, and the share of it under which an edge speaks,
SELF_CHANCES = 1.5  # if it is no more than chance gives besides, in standard deviations
CHANCES_APART = 4.0  # standard deviations that what is usual lies above what chance gives, or neither sum says anything
CLIMB_PAIRS, SELF_PAIRS, PAIRS_MAX = 3, 6, 30  # of an edge's updates: before the sums speak, and after which they are silent
PATH_PAIRS, PATH_PAIRS_MAX = 1, 15  # the first steps are the longest; later an honest edge may want back a little
SEEN = 3  # rounds of an edge that are looked at
NEEDED = 2  # of them, in which a sign must be seen, and on their average speak
THRESHOLD = 1.0  # every sign is scaled to it
CONFIRMS = 0.6  # of it: a sign is seen
MAD_SD = 1.4826


_Sums = tuple[float, float, float]  # of pairs of vectors: inner products, products of lengths, and the squares of these


class _Edge(msgspec.Struct):
    seen: list[tuple[int, dict[str, float]]] = []  # newest last: round, and the scores of the signs that were seen
    first: int = 0  # steps of the hub before its first update
    newest: int = -1  # round of its newest update
    pairs: int = 0  # of its updates, each with the one before
    update: bytes = b""  # its newest update, float64
    place: bytes = b""  # on the path, where that was made
    along: _Sums = (0.0, 0.0, 0.0)  # of its updates to the way that the model went
    alike: _Sums = (0.0, 0.0, 0.0)  # of its updates to those before
    climb: _Sums = (0.0, 0.0, 0.0)  # of the changes of its updates to the way that the model went meanwhile
    whole: bytes = b""  # the sum of its updates, float64


class _Saved(msgspec.Struct):
    edges: dict[str, _Edge]
    path: bytes = b""
    steps: int = 0


class Peers:
    """Of one study. Memory: two sketches an edge in its first rounds, then three numbers."""

    def __init__(self) -> None:
        self._edges: dict[str, _Edge] = {}
        self._path, self._steps = np.zeros(DIMENSIONS), 0  # the sum of the hub's steps, and how many

    def judge(self, round_number: int, updates: Mapping[str, Sketched]) -> dict[str, Verdict]:
        """A verdict for each edge; the score is that of its largest sign, 1 at the threshold."""
        names = sorted(updates)
        if len(names) < EDGES_MIN:
            return {e: Verdict(accepted=True, reason="", score=0.0, threshold=THRESHOLD) for e in names}
        signs = {"peers-norm": _far([math.log(updates[e].norm + 1e-12) for e in names], NORM_MAD_MIN, NORM_Z, both=True)}
        signs |= self._of_first_rounds(round_number, names, updates)
        return {edge: self._verdict(edge, place, round_number, signs) for place, edge in enumerate(names)}

    def stepped(self, step: Sketched) -> None:
        """The round's global step."""
        self._path, self._steps = self._path + step.norm * step.direction, self._steps + 1

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        return msgspec.msgpack.encode(_Saved(self._edges, self._path.tobytes(), self._steps))

    def restore(self, state: bytes) -> None:
        """Take up a kept state; what another version kept is forgotten."""
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
        except MALFORMED:
            return
        self._edges, self._steps = saved.edges, saved.steps
        self._path = np.frombuffer(saved.path, np.float64) if len(saved.path) == 8 * DIMENSIONS else np.zeros(DIMENSIONS)

    def _verdict(self, edge: str, place: int, round_number: int, signs: Mapping[str, NDArray[np.float64]]) -> Verdict:
        scores = {reason: float(each[place]) for reason, each in signs.items()}
        known = self._edges.setdefault(edge, _Edge())
        before = [s for s in known.seen if s[0] != round_number]  # a round may be judged again
        known.seen = [*before[-(SEEN - 1) :], (round_number, {r: s for r, s in scores.items() if s > CONFIRMS})]
        spoke = {r: s for r, s in scores.items() if self._speaks(known, r, s)}
        if spoke:
            reason = max(spoke, key=lambda r: spoke[r])
            return Verdict(accepted=False, reason=reason, score=round(max(THRESHOLD, spoke[reason]), 3), threshold=THRESHOLD)
        return Verdict(accepted=True, reason="", score=round(max(scores.values()), 3), threshold=THRESHOLD)

    def _speaks(self, known: _Edge, sign: str, score: float) -> bool:
        if sign == "peers-norm" and score > NORM_ALONE and known.pairs == 0:
            return True
        rounds = sorted(seen[sign] for _, seen in known.seen if sign in seen)[-NEEDED:]
        return score > CONFIRMS and len(rounds) == NEEDED and sum(rounds) > NEEDED * THRESHOLD

    def _of_first_rounds(
        self, round_number: int, names: list[str], updates: Mapping[str, Sketched]
    ) -> dict[str, NDArray[np.float64]]:
        """The sums over each edge's first rounds: how it takes the model's steps, how far it goes against the path, how little it
        repeats itself."""
        for edge in names:
            self._pair(edge, round_number, updates[edge].norm * updates[edge].direction)
        known = [self._edges[e] for e in names]
        judged = np.array([SELF_PAIRS <= k.pairs <= PAIRS_MAX for k in known])
        early = np.array([k.first <= PATH_FROM and PATH_PAIRS <= k.pairs <= PATH_PAIRS_MAX for k in known])
        stepped = np.array([k.first <= PATH_FROM and CLIMB_PAIRS <= k.pairs <= PAIRS_MAX for k in known])
        chance = np.array([updates[e].chance for e in names])
        along, alike, climbs = (_Cosines([getattr(k, sums) for k in known], chance) for sums in ("along", "alike", "climb"))
        climb, path, self_ = np.zeros(len(names)), np.zeros(len(names)), np.zeros(len(names))
        usual, by_chance = _middle(climbs.mean, stepped), _middle(climbs.chance, stepped)
        if usual < 0:
            below = MAD_SD * (usual - float(np.quantile(climbs.mean[stepped], 0.25)))  # above it there may be faults
            climb[stepped] = (climbs.mean[stepped] - usual) / max(CLIMB_MAD_MIN, by_chance, below) / CLIMB_Z
            climb = np.where(climbs.mean > np.minimum(-CLIMB_SHARE * usual, CLIMB_CHANCES * climbs.chance), climb, 0.0)
        usual, by_chance = _middle(along.mean, early), _middle(along.chance, early)
        if usual >= max(PATH_MIN, CHANCES_APART * by_chance):
            path[early] = _far(along.mean[early], max(PATH_MAD_MIN, by_chance), PATH_Z)
            path = np.where(along.mean < -np.maximum(PATH_SHARE * usual, PATH_CHANCES * along.chance), path, 0.0)
            backwards = np.flatnonzero(path > CONFIRMS)
            if len(backwards):
                there = np.flatnonzero(early)
                kind = _of_a_kind([known[i] for i in there], np.searchsorted(there, backwards))
                path[backwards[kind]] = 0.0
        usual, by_chance = _middle(alike.mean, judged), _middle(alike.chance, judged)
        if usual >= max(SELF_MIN, CHANCES_APART * by_chance):
            limit = np.minimum(SELF_SHARE * usual, SELF_CHANCES * alike.chance)
            self_[judged] = ((usual - alike.mean) / (usual - limit))[judged]
        return {"peers-climb": climb, "peers-path": path, "peers-self": self_}

    def _pair(self, edge: str, round_number: int, update: Vector) -> None:
        """Take an edge's update together with the one before, and with the way that the model went in between."""
        known = self._edges.setdefault(edge, _Edge(first=self._steps))
        if known.pairs > PAIRS_MAX or known.newest == round_number:  # a round may be judged again
            return
        known.newest = round_number
        if known.update:
            before, way = np.frombuffer(known.update, np.float64), self._path - np.frombuffer(known.place, np.float64)
            mean = (before + update) / 2  # along it the loss falls as it does for a quadratic one between the two
            known.pairs += 1
            known.along = _added(known.along, mean, way)
            known.alike = _added(known.alike, before, update)
            known.climb = _added(known.climb, update - before, way)
        whole = update + (np.frombuffer(known.whole, np.float64) if known.whole else 0.0)
        full = known.pairs > PAIRS_MAX
        kept = (b"", b"", b"") if full else (update.tobytes(), self._path.tobytes(), whole.tobytes())
        known.update, known.place, known.whole = kept


def _of_a_kind(known: Sequence[_Edge], asked: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of those asked, places in `known`, have companions, in a federation where most have; shape (asked,)."""
    rows = np.array([unit(np.frombuffer(k.whole, np.float64)) for k in known])
    sample = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), KINDS_SAMPLE)).astype(int))
    usual = float(np.median(np.concatenate([far[np.isfinite(far)] for far in _far_apart(rows, sample)])))

    def have_companions(places: NDArray[np.int64]) -> NDArray[np.bool_]:
        nearest = [np.partition(far, COMPANIONS - 1, axis=1)[:, COMPANIONS - 1] for far in _far_apart(rows, places)]
        near: NDArray[np.bool_] = np.concatenate(nearest) < usual / CLOSER
        return near

    return have_companions(asked) if np.mean(have_companions(sample)) > MOST else np.zeros(len(asked), np.bool_)


def _far_apart(rows: NDArray[np.float64], places: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """1 - cosine of some rows to all, infinite to itself, a few at a time: shape (a few, rows)."""
    block = max(1, PRODUCT // rows.size)
    for start in range(0, len(places), block):
        own = places[start : start + block]
        far = 1.0 - rows[own] @ rows.T
        far[np.arange(len(own)), own] = np.inf
        yield far


class _Cosines:
    """Of edges, each the mean over its pairs weighted by their lengths, with the standard deviation that chance gives it."""

    def __init__(self, sums: list[_Sums], chance: NDArray[np.float64]) -> None:
        inner, lengths, squares = np.array(sums).T
        self.mean: NDArray[np.float64] = inner / (lengths + 1e-12)
        self.chance: NDArray[np.float64] = chance * np.sqrt(squares) / (lengths + 1e-12)


def _middle(values: NDArray[np.float64], there: NDArray[np.bool_]) -> float:
    """The median of those that are there; 0 where they are too few."""
    return float(np.median(values[there])) if there.sum() >= EDGES_MIN else 0.0


def _added(sums: _Sums, one: Vector, other: Vector) -> _Sums:
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return sums[0] + float(one @ other), sums[1] + lengths, sums[2] + lengths**2


def _far(values: list[float] | NDArray[np.float64], mad_min: float, z: float, *, both: bool = False) -> NDArray[np.float64]:
    """How far each lies below the median (or on either side), 1 at a robust z of `z`."""
    array = np.asarray(values, np.float64)
    middle = float(np.median(array))
    spread = max(mad_min, MAD_SD * float(np.median(np.abs(array - middle))))
    away = (middle - array) / spread / z
    return np.abs(away) if both else np.maximum(0.0, away)
