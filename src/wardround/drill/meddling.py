"""A fault at work in a rehearsal: learn/interference.py, carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wardround.drill.faults import Fault, Scene
from wardround.drill.wards import Wards
from wardround.learn.faults import struck
from wardround.learn.models import Parameters
from wardround.learn.virtual_edges import Made
from wardround.records import Examples


class Meddling:
    """New examples in every round, as the wards make them, and from a round on what the fault makes of them."""

    def __init__(self, wards: Wards, names: tuple[str, ...], fault: Fault | None, *, from_round: int, seed: int) -> None:
        """`names` are the edges that take part; `from_round` 0 is the same as 1: from the start."""
        self._wards, self._fault, self._from, self._seed = wards, fault, max(1, from_round), seed
        self.struck = fault.edges(names, seed) if fault is not None else frozenset[str]()
        features = np.concatenate([e.features for e in wards.examples(0, names).values()]).astype(np.float64)
        self._mean, self._std = np.nan_to_num(np.nanmean(features, axis=0)), np.nan_to_num(np.nanstd(features, axis=0))
        self.now: dict[str, Examples] = dict(wards.examples(0, names))  # what each edge trained on last
        self.last_step: Parameters = {}  # of the hub; whoever drives the fleet keeps it

    def at_work(self, number: int) -> bool:
        """Whether the fault is there in this round."""
        return self._fault is not None and number >= self._from

    def stays_away(self, number: int, edge: str, attempt: int) -> bool:
        fault = self._fault
        return fault is not None and self.at_work(number) and struck(fault.absent, self._seed, "drill", edge, number, attempt)

    def seconds(self, number: int, edge: str, usual: float) -> float:
        fault = self._fault
        return fault.seconds(usual) if fault is not None and self.at_work(number) and edge in self.struck else usual

    def examples(self, number: int, edges: Sequence[str]) -> Mapping[str, Examples]:
        fault = self._fault
        hit = [e for e in edges if e in self.struck] if fault is not None and self.at_work(number) else []
        found = dict(self._wards.examples(number, edges if self._wards.fresh else hit))
        if fault is not None:
            scene = self._scene(number)
            found |= {e: fault.examples(scene, e, found[e]) for e in hit}
        self.now |= found
        return found

    def updates(self, number: int, base: Parameters, made: Mapping[str, Made]) -> Mapping[str, Made]:
        del base
        if self._fault is None or not self.at_work(number):
            return {}
        return self._fault.updates(self._scene(number), made)

    def step_factor(self, number: int) -> float:
        return self._fault.server_factor if self._fault is not None and self.at_work(number) else 1.0

    def _scene(self, number: int) -> Scene:
        since = number - self._from
        return Scene(self._seed, number, since, self.struck, self._wards.classes, self._mean, self._std, self.last_step)
