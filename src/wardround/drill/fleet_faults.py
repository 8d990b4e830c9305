"""Faults of the fleet and of the hub: nobody's data, nobody's update."""

from __future__ import annotations

from typing import ClassVar

from wardround.drill.faults import Fault

SLOWER = 2.5
STAYS_AWAY = 0.5
TOO_LARGE = 12.0


class Straggler(Fault):
    """A gateway runs out of memory and swaps, or a ward's Wi-Fi fails over to a modem: some edges need two and a half times as
    long, and every synchronous round waits for them."""

    name, title, share = "straggler", "edges take two and a half times as long", 4 / 40
    seen_by = "own history of durations"

    def seconds(self, usual: float) -> float:
        return SLOWER * usual


class ServerStep(Fault):
    """Someone sets strategy.server_learning_rate twelve times too high: honest updates are overshot, and the model diverges.
    No edge is at fault."""

    name, title, share = "server-step", "the hub's step is twelve times too large", 0.0
    seen_by = "size of the hub's step; loss of all"
    server_factor: ClassVar[float] = TOO_LARGE


class Participation(Fault):
    """A network between wards and hub fails in part: half of those who used to answer do not. Rounds go on with the rest, whose
    patients may be others."""

    name, title, share = "participation", "half of the edges stay away", 0.0
    seen_by = "number of answers"
    absent: ClassVar[float] = STAYS_AWAY
