"""The size of the hub's own step against its past: a wrong setting of the hub, or a poison that no screen saw.

z of the logarithm of the step's norm, in two of three rounds. A step that becomes smaller is what training does, and one that is
longer because fewer edges are in it is theirs (fewer.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec

from wardround.watch.detectors import fewer
from wardround.watch.detectors.own_past import WARM_UP, OwnPast, Saved
from wardround.watch.detectors.seen import Found, RoundSeen, Scored, Sign

SD_MIN = 0.15  # of the log: a step that is larger by a third is no sign


class StepNorm:
    """Of one study. Memory: a handful of numbers."""

    signs: Mapping[str, Sign] = MappingProxyType({"step": Sign("model-diverged", 3.0, "z of the log norm of the hub's step")})

    def __init__(self) -> None:
        self._past, self._rounds = OwnPast(sd_min=SD_MIN), 0

    def score(self, seen: RoundSeen) -> Found:
        if not seen.step_norm:
            return {"step": {}}
        own = math.log(seen.step_norm / fewer.longer(self._past, seen))
        if (judged := self._past.z("", own)) is None:
            return {"step": {}}
        return {"step": {"": Scored(self._past.two_of_three(""), float(seen.step_norm), math.exp(judged[1]))}}

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        self._rounds += 1
        if seen.step_norm and self._rounds > WARM_UP and "" not in leave_out:
            self._past.learn("", math.log(seen.step_norm / fewer.longer(self._past, seen)))
            self._past.learn(fewer.KEY, fewer.counted(seen))

    def state(self) -> bytes:
        return msgspec.msgpack.encode(Saved(self._past.save(), self._rounds))

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=Saved)
        self._past.load(saved.past)
        self._rounds = saved.rounds
