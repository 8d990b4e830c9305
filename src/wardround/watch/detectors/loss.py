"""An edge's loss against its own past: labels or concept have changed there, or its data have.

The statistic is Page and Hinkley's, upwards, of the edge's own z; it adds up what stays above its running mean by more than
DELTA. Rounds of the warm-up are not fed: a mean that holds the convergence raises alarms later, at any threshold.
Source: Page, Continuous Inspection Schemes, Biometrika 41, 1954; Hinkley, Biometrika 58, 1971; in the form of river.drift.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec

from wardround.watch.detectors.own_past import REFERENCE_MIN, WARM_UP, OwnPast, Saved
from wardround.watch.detectors.seen import Found, RoundSeen, Scored, Sign

DELTA = 0.5
HELD = 60.0  # the statistic goes no higher, so that it is over soon after the fault is


class Loss:
    """The losses of one study. Memory: eight numbers an edge."""

    signs: Mapping[str, Sign] = MappingProxyType({"loss": Sign("edge-loss", 20.0, "Page-Hinkley statistic of the loss")})

    def __init__(self) -> None:
        self._past = OwnPast(sd_min=1e-4, sd_share=0.03)
        self._running: dict[str, list[float]] = {}  # by edge: values, their mean, the statistic
        self._rounds = 0

    def score(self, seen: RoundSeen) -> Found:
        found: dict[str, Scored] = {}
        for edge, own in seen.edges.items():
            if own.loss is None or (judged := self._past.z(edge, own.loss)) is None:
                continue
            z, usual = judged
            n, mean, statistic = self._running.get(edge, [float(REFERENCE_MIN), 0.0, 0.0])
            n += 1
            mean += (z - mean) / n
            statistic = min(HELD, max(0.0, statistic + z - mean - DELTA))
            self._running[edge] = [n, mean, statistic]
            found[edge] = Scored(statistic, float(own.loss), usual)
        return {"loss": found}

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        self._rounds += 1
        if self._rounds <= WARM_UP:
            return
        for edge, own in seen.edges.items():
            if own.loss is not None and edge not in leave_out:
                self._past.learn(edge, own.loss)
        if len(self._running) > len(self._past.save()):
            self._running = {edge: r for edge, r in self._running.items() if edge in self._past.save()}

    def state(self) -> bytes:
        return msgspec.msgpack.encode(Saved(self._past.save(), self._rounds, self._running))

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=Saved)
        self._past.load(saved.past)
        self._rounds, self._running = saved.rounds, saved.running
