"""How long an edge takes from its order to its update, against its own past: a link or a machine that has become slow.

z of the logarithm, in two of three rounds, or less of it in all three together. What the edge says of its training tells a slow
machine from a slow link.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec

from wardround.watch.detectors.own_past import OwnPast, Saved
from wardround.watch.detectors.seen import EdgeSeen, Found, RoundSeen, Scored, Sign

SD_MIN = 0.15  # of the log: with the default threshold an alarm is at least 1.7 times the usual
SECONDS_MIN = 0.01
DEFAULT, TOGETHER = 3.6, 5.2  # of two of three z; of their mean, in its own standard deviations


class Duration:
    """Of one study. Memory: two pasts an edge."""

    signs: Mapping[str, Sign] = MappingProxyType(
        {"duration": Sign("edge-slow", DEFAULT, "z of the log of the seconds to answer")}
    )

    def __init__(self) -> None:
        self._past, self._trained = OwnPast(sd_min=SD_MIN), OwnPast(sd_min=SD_MIN)

    def score(self, seen: RoundSeen) -> Found:
        found: dict[str, Scored] = {}
        for edge, own in seen.edges.items():
            if own.seconds is None or (judged := self._past.z(edge, _log(own.seconds))) is None:
                continue
            score = max(self._past.two_of_three(edge), self._past.three_together(edge) * DEFAULT / TOGETHER)
            parts = self._parts(edge, own)
            found[edge] = Scored(score, float(own.seconds), math.exp(judged[1]), parts)
        return {"duration": found}

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        for edge, own in seen.edges.items():
            if edge in leave_out:
                continue
            if own.seconds is not None:
                self._past.learn(edge, _log(own.seconds))
            if own.trained_s is not None:
                self._trained.learn(edge, _log(own.trained_s))

    def state(self) -> bytes:
        return msgspec.msgpack.encode([Saved(self._past.save()), Saved(self._trained.save())])

    def restore(self, state: bytes) -> None:
        past, trained = msgspec.msgpack.decode(state, type=tuple[Saved, Saved])
        self._past.load(past.past)
        self._trained.load(trained.past)

    def _parts(self, edge: str, own: EdgeSeen) -> tuple[tuple[str, float], ...]:
        """The training's seconds, and what is usual for them, where the edge says them."""
        if own.trained_s is None or (judged := self._trained.z(edge, _log(own.trained_s))) is None:
            return ()
        return (("training", float(own.trained_s)), ("training usually", math.exp(judged[1])))


def _log(seconds: float) -> float:
    return math.log(max(float(seconds), SECONDS_MIN))
