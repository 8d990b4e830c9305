"""The loss of the whole federation against its own past: the model becomes worse, whoever's fault it is.

An EWMA of z of the edges' losses, weighted by their examples and without those that are set aside. It sees gross faults within
rounds and slow ones late, and names nobody. When two of three rounds are themselves as usual they show nothing, whatever those
before them were: once the cause is gone, so is the sign. Fewer edges deviate more (fewer.py).
Source: Roberts, Control Chart Tests Based on Geometric Moving Averages, Technometrics 1(3), 1959.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec

from wardround.watch.detectors import fewer
from wardround.watch.detectors.own_past import WARM_UP, OwnPast, Saved, ewma, ewma_score
from wardround.watch.detectors.seen import Found, RoundSeen, Scored, Sign

WEIGHT = 0.15
DEFAULT = 4.2  # of the EWMA in its own deviations; it shows no more than two of three z times this


class GlobalLoss:
    """Of one study. Memory: a handful of numbers."""

    signs: Mapping[str, Sign] = MappingProxyType({"global-loss": Sign("model-diverged", DEFAULT, "EWMA of z of the global loss")})

    def __init__(self) -> None:
        self._past = OwnPast(sd_min=1e-4, sd_share=0.01)
        self._mean, self._rounds = 0.0, 0

    def score(self, seen: RoundSeen) -> Found:
        loss = _loss(seen)
        if loss is None or (judged := self._past.z("", loss)) is None:
            return {"global-loss": {}}
        apart = fewer.longer(self._past, seen)
        self._mean = ewma(self._mean, judged[0] / apart, WEIGHT)
        score = min(ewma_score(self._mean, WEIGHT), DEFAULT * self._past.two_of_three("") / apart)
        return {"global-loss": {"": Scored(score, loss, judged[1])}}

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        self._rounds += 1
        loss = _loss(seen)
        if loss is not None and self._rounds > WARM_UP and "" not in leave_out:
            self._past.learn("", loss)
            self._past.learn(fewer.KEY, fewer.counted(seen))

    def state(self) -> bytes:
        return msgspec.msgpack.encode(Saved(self._past.save(), self._rounds, {"": [self._mean]}))

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=Saved)
        self._past.load(saved.past)
        self._rounds, self._mean = saved.rounds, saved.running[""][0]


def _loss(seen: RoundSeen) -> float | None:
    """The mean loss by examples; None where no edge says one."""
    said = [(float(own.loss), own.examples) for own in seen.edges.values() if own.loss is not None and not own.aside]
    total = sum(n for _, n in said)
    return sum(loss * n for loss, n in said) / total if total else None
