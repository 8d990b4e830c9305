"""How many edges answer, against what is usual: a network that fails, a schedule that leaves nobody, edges that were lost.

An EWMA of z of the count, downwards. Which edges are missing is not known to it: `edge-silent` is each one's own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec

from wardround.watch.detectors.own_past import OwnPast, Saved, ewma, ewma_score
from wardround.watch.detectors.seen import Found, RoundSeen, Scored, Sign

WEIGHT = 0.15
SD_MIN, SD_SHARE = 1.0, 0.1  # one edge, and a tenth of the usual count, are no sign by themselves


class Participation:
    """Of one study. Memory: a handful of numbers."""

    signs: Mapping[str, Sign] = MappingProxyType(
        {"participation": Sign("participation-low", 4.8, "EWMA of z of the edges that answer, downwards")}
    )

    def __init__(self) -> None:
        self._past, self._mean = OwnPast(sd_min=SD_MIN, sd_share=SD_SHARE), 0.0

    def score(self, seen: RoundSeen) -> Found:
        count = float(len(seen.edges))
        if (judged := self._past.z("", count)) is None:
            return {"participation": {}}
        self._mean = ewma(self._mean, -judged[0], WEIGHT)
        return {"participation": {"": Scored(ewma_score(self._mean, WEIGHT), count, judged[1])}}

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        if "" not in leave_out:
            self._past.learn("", float(len(seen.edges)))

    def state(self) -> bytes:
        return msgspec.msgpack.encode(Saved(self._past.save(), 0, {"": [self._mean]}))

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=Saved)
        self._past.load(saved.past)
        self._mean = saved.running[""][0]
