"""What a drill may do to a rehearsal's fleet: other examples, other updates, other durations, edges that stay away.

The fleet asks at the places where the world would have its say, and takes the answer as the world's. Without one it asks nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from wardround.learn.models import Parameters, is_buffer
from wardround.records import Examples

if TYPE_CHECKING:
    from wardround.learn.virtual_edges import Made


@dataclass(frozen=True, slots=True)
class Answer:
    """What the hub knows of an edge's answer beside its tensors."""

    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # on the virtual clock, from its order to its update


class Interference(Protocol):
    """Asked by learn/fleet.py in this order; `number` is the round's."""

    def stays_away(self, number: int, edge: str, attempt: int) -> bool:
        """Whether an edge that is asked goes away before it delivers."""
        ...

    def seconds(self, number: int, edge: str, usual: float) -> float:
        """How long the edge takes, where `usual` is what it would take."""
        ...

    def examples(self, number: int, edges: Sequence[str]) -> Mapping[str, Examples]:
        """What these edges train on from now on; those not named keep what they have. The same number of rows is faster."""
        ...

    def updates(self, number: int, base: Parameters, made: Mapping[str, Made]) -> Mapping[str, Made]:
        """What is sent instead of the updates that were made from `base`, by edge."""
        ...

    def step_factor(self, number: int) -> float:
        """What the hub's own step is multiplied by: 1 where it is set right."""
        ...


class OwnScreens(Protocol):
    """What the edges of a blind study make of their own updates, before they mask them."""

    def sits_out(self, number: int, edge: str, base: Parameters, made: Made) -> str:
        """The screen for which an edge gives no update in round `number`, made from `base`; empty: it gives one. Asked once for
        each attempt at a round."""
        ...


def overshot(base: Parameters, model: Parameters, factor: float) -> Parameters:
    """The model that a step `factor` times as large would have made; buffers and new tensors stay."""
    if factor == 1.0:
        return model
    moved = {n: base[n] + np.float32(factor) * (t - base[n]) for n, t in model.items() if n in base and not is_buffer(n)}
    return {**model, **moved}
