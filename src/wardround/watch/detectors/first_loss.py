"""An edge's loss against what it was before anything was learned: it was labelled otherwise than the others from the start.

An edge that was at fault from its first round has no past to be judged by, but the study has one: its first round, in which the
model knew nothing. Where the model has become better for most edges and clearly worse than nothing for one, that one's labels
mean another thing. Who was not in the first round is judged by the median of those who were. Of a study whose first round was
not watched nothing is said.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec

from wardround.watch.detectors.own_past import KEYS_MAX
from wardround.watch.detectors.seen import Found, RoundSeen, Scored, Sign

FIRST_ROUND = 1
RISE = 0.2  # of the first loss; honest edges of 40 that differ reached 0.07 in simulation, and swapped labels no less than 0.35
FALL_MIN = 0.05  # of the first loss, at the median edge: the model has become better
EDGES_MIN = 5  # of a round, for a median
NEWEST = 3  # losses whose mean is judged
RISE_MAX = 100.0


class _Edge(msgspec.Struct):
    first: float
    newest: list[float]


class _State(msgspec.Struct):
    untrained: float = 0.0  # the median loss of the first round; 0: it was not seen
    edges: dict[str, _Edge] = {}


class FirstLoss:
    """Of one study. Memory: four numbers an edge."""

    signs: Mapping[str, Sign] = MappingProxyType(
        {"first-loss": Sign("edge-loss", 1.0, "rise of the loss over the untrained model's, over its limit")}
    )

    def __init__(self) -> None:
        self._known = _State()

    def score(self, seen: RoundSeen) -> Found:
        told = {e: float(own.loss) for e, own in seen.edges.items() if own.loss is not None and math.isfinite(own.loss)}
        known = self._known
        first = seen.number <= FIRST_ROUND and len(told) >= EDGES_MIN
        if first:
            known.untrained = statistics.median(told.values())
        if known.untrained <= 0:
            return {"first-loss": {}}
        for edge, loss in told.items():
            own = known.edges.pop(edge, None) or _Edge(max(known.untrained, loss) if first else known.untrained, [])
            known.edges[edge] = own  # the newest last
            own.newest = [*own.newest[-(NEWEST - 1) :], loss]
        while len(known.edges) > KEYS_MAX:
            del known.edges[next(iter(known.edges))]
        rises = {e: _rise(known.edges[e]) for e in told if len(known.edges[e].newest) == NEWEST}
        if len(rises) < EDGES_MIN or statistics.median(rises.values()) > -FALL_MIN:
            return {"first-loss": {}}
        above = {e: rise for e, rise in rises.items() if rise > 0}  # below it there is nothing that calibration could learn
        return {"first-loss": {e: Scored(rise / RISE, told[e], known.edges[e].first) for e, rise in above.items()}}

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        """What was first stays it."""

    def state(self) -> bytes:
        return msgspec.msgpack.encode(self._known)

    def restore(self, state: bytes) -> None:
        self._known = msgspec.msgpack.decode(state, type=_State)


def _rise(own: _Edge) -> float:
    rise = sum(own.newest) / NEWEST / own.first - 1.0
    return max(-RISE_MAX, min(RISE_MAX, rise))
