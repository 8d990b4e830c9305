"""What an edge's model is fed, against its own past: drift of a feature, and a feature that has died. Counts alone, no values.

Drift is the population stability index of the newest reports (their weights fade by FADE, which is as much as ten reports) to the
edge's own first ones, by feature. By chance alone it is about (bins - 1) (1/n_reference + 1/n_newest), so the score divides by
that and by FLOOR: what is significant and small is no alarm, nor is what is large and few. A feature that has died shows in one
report: its variance, from the bins' middles, falls far below what it was.
Sources: Siddiqi, Credit Risk Scorecards, Wiley 2006, for the index; the prototype's simulation for the limits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.row_counts import INPUT_BINS
from wardround.watch.detectors.own_past import KEYS_MAX, REFERENCE
from wardround.watch.detectors.seen import Counts, Found, RoundSeen, Scored, Sign

FADE = 0.82  # weights 1, .82, .67 ...: (sum w)^2 / sum w^2 = 10 reports
FADE_32 = np.float32(FADE)
FLOOR = 0.08  # of the index: with 640 newest rows and a full past the threshold is then 0.093
REPORTS_MIN = 10
MIDDLES = np.array([-2.5, -1.6, -0.9, -0.3, 0.3, 0.9, 1.6, 2.5])
VARIANCE_MIN = 0.02  # of a feature that is in one bin
VARIANCE_LOG10 = 0.46  # a third of the usual variance, in a report of ROWS rows; of fewer it may be further off by chance
ROWS, ROWS_MIN = 64.0, 8.0
SPREAD_SHARE, SPREAD_BINS = 0.05, 3  # a feature that is mostly in fewer bins says nothing by staying in one
PARTS = 3
DEFAULT = 1.0  # both scores are over their limits

Floats = NDArray[np.float64]


class _Edge(msgspec.Struct):
    """One edge's reports: sums of counts as float32 bytes, shape (n_features, INPUT_BINS)."""

    reports: int
    reference: bytes
    newest: bytes
    weight: float = 0.0  # rows of the newest, and the same with squared weights
    squares: float = 0.0


class Inputs:
    """Of one study. Memory: 72 bytes by edge and feature."""

    signs: Mapping[str, Sign] = MappingProxyType(
        {
            "inputs": Sign("input-drift", DEFAULT, "population stability index over its limit"),
            "input-variance": Sign("input-dead", DEFAULT, "fall of a feature's variance over its limit"),
        }
    )

    def __init__(self, features: Sequence[str] = ()) -> None:
        """`features` name the rows of the counts."""
        self._features = tuple(features)
        self._edges: dict[str, _Edge] = {}
        self._told: dict[str, NDArray[np.float32]] = {}  # the round's counts by edge

    def score(self, seen: RoundSeen) -> Found:
        drift: dict[str, Scored] = {}
        dead: dict[str, Scored] = {}
        self._told = {}
        by_shape: dict[int, list[tuple[str, Counts]]] = {}
        for edge, own in seen.edges.items():
            if own.inputs is not None and _are_counts(own.inputs):
                by_shape.setdefault(len(own.inputs), []).append((edge, own.inputs))
        for told in by_shape.values():
            judged = self._taken(told)
            if judged:
                self._judge(judged, drift, dead)
        while len(self._edges) > KEYS_MAX:
            del self._edges[next(iter(self._edges))]
        return {"inputs": drift, "input-variance": dead}

    def _taken(self, told: Sequence[tuple[str, Counts]]) -> list[str]:
        """Take the counts of edges with as many features, together; those with reports enough to be judged."""
        counts = np.array([own for _, own in told], np.float32)
        rows = counts[:, 0].sum(axis=1).tolist()
        before: list[bytes] = []
        for (edge, _), own, n in zip(told, counts, rows, strict=True):
            known = self._edges.pop(edge, None)
            if known is None or len(known.reference) != own.nbytes:
                known = _Edge(0, bytes(own.nbytes), bytes(own.nbytes))
            before.append(known.newest)
            if n > 0:
                self._told[edge] = own
                known.weight, known.squares = FADE * known.weight + n, FADE**2 * known.squares + n
            self._edges[edge] = known  # the newest last
        newest = FADE_32 * _array(b"".join(before), counts.shape) + counts
        judged: list[str] = []
        for (edge, _), own, n in zip(told, newest, rows, strict=True):
            if n > 0:
                self._edges[edge].newest = own.tobytes()
                if self._edges[edge].reports >= REPORTS_MIN:
                    judged.append(edge)
        return judged

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        """The first REFERENCE reports are what is usual, and stay it: a drift that creeps must not become usual."""
        del seen  # `score` has taken it
        for edge, counts in self._told.items():
            known = self._edges.get(edge)
            if known is not None and edge not in leave_out and known.reports < REFERENCE:
                known.reports += 1
                known.reference = (_array(known.reference, counts.shape) + counts).tobytes()

    def state(self) -> bytes:
        return msgspec.msgpack.encode(self._edges)

    def restore(self, state: bytes) -> None:
        self._edges = msgspec.msgpack.decode(state, type=dict[str, _Edge])

    def _judge(self, edges: Sequence[str], drift: dict[str, Scored], dead: dict[str, Scored]) -> None:
        """Edges with as many features, together."""
        known = [self._edges[edge] for edge in edges]
        counts = np.array([self._told[edge] for edge in edges], np.float64)
        reference = _together([k.reference for k in known], counts.shape)
        newest = _together([k.newest for k in known], counts.shape)
        rows = np.array([k.weight**2 / k.squares for k in known])[:, None, None]  # as many unweighted ones
        all_rows = reference.sum(axis=2, keepdims=True)
        usual = (reference + 0.5) / (all_rows + 0.5 * INPUT_BINS)
        now = (newest * (rows / newest.sum(axis=2, keepdims=True)) + 0.5) / (rows + 0.5 * INPUT_BINS)
        index = ((now - usual) * np.log(now / usual)).sum(axis=2)
        limit = FLOOR + (INPUT_BINS - 1) * (1 / all_rows[..., 0] + 1 / rows[..., 0])
        fall = _fall(reference, counts)
        over, tops, worsts = index / limit, *(np.argsort(-x, axis=1)[:, :PARTS] for x in (index / limit, fall))
        for place, edge in enumerate(edges):
            top, worst = tops[place], worsts[place]
            moved, fallen = float(over[place, top[0]]), float(fall[place, worst[0]])
            drift[edge] = Scored(moved, float(index[place, top[0]]), 0.0, self._parts(moved, index[place], top))
            dead[edge] = Scored(fallen, 0.0, 1.0, self._parts(fallen, fall[place], worst))

    def _parts(self, score: float, values: Floats, places: NDArray[np.int64]) -> tuple[tuple[str, float], ...]:
        """The features that say most, where they are an alarm: no threshold is below the shipped one."""
        if score <= DEFAULT:
            return ()
        return tuple((self._name(i), round(value, 3)) for i, value in zip(places.tolist(), values[places].tolist(), strict=True))

    def _name(self, place: int) -> str:
        return self._features[place] if place < len(self._features) else f"feature {place}"


def _fall(reference: Floats, counts: Floats) -> Floats:
    """How far variances are below what they were, over the limit; shape (n_edges, n_features), 0 where it says nothing."""
    there, rows = reference[..., :-1], counts[..., :-1].sum(axis=2)
    spread = (there > SPREAD_SHARE * np.maximum(1.0, there.sum(axis=2, keepdims=True))).sum(axis=2) >= SPREAD_BINS
    before, now = _variance(there), _variance(counts[..., :-1])
    fall = np.log10(np.maximum(before, VARIANCE_MIN) / np.maximum(now, VARIANCE_MIN))
    limit = VARIANCE_LOG10 * np.sqrt(np.maximum(1.0, ROWS / np.maximum(rows, 1.0)))
    return np.where(spread & (rows >= ROWS_MIN), np.maximum(fall, 0.0) / limit, 0.0)


def _variance(counts: Floats) -> Floats:
    """Variance of what is there, from the bins' middles, shape (n_edges, n_features)."""
    n = np.maximum(counts.sum(axis=2), 1.0)
    mean = counts @ MIDDLES / n
    return np.asarray(counts @ np.square(MIDDLES) / n - np.square(mean))


def _are_counts(given: Counts) -> bool:
    if given.ndim != 2 or given.shape[1] != INPUT_BINS:
        return False
    return given.dtype.kind == "u" or (bool(np.isfinite(given).all()) and not bool((given < 0).any()))


def _array(data: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.frombuffer(data, np.float32).reshape(shape)


def _together(data: Sequence[bytes], shape: tuple[int, ...]) -> Floats:
    return _array(b"".join(data), shape).astype(np.float64)
