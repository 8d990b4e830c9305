"""The lanes of the spool: each a queue of its own, with its own sequence, so that none waits behind another.

An alarm never waits behind a waveform, and what is measured now never waits behind what an outage left. All values, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from wardround.records import Observation


class Priority(IntEnum):
    """What an observation is to those who wait for it; the lower number goes first."""

    ALARM = 0  # a device's own alarm (IEC 60601-1-8): never shed, taken beyond the byte cap
    VITAL = 1  # a number or a word
    WAVEFORM = 2  # a run of samples: shed first, oldest first

    @classmethod
    def of(cls, observation: Observation, *, alarm: bool) -> Priority:
        """The priority of an observation; `alarm` is what the code table says of its signal."""
        if alarm:
            return cls.ALARM
        return cls.WAVEFORM if observation.n > 1 else cls.VITAL


@dataclass(frozen=True, slots=True)
class Lane:
    """One queue. Sequences run from 1 within `boot`, the lane's name on the wire; those up to `acknowledged` are at the hub.

    A lane that is not `live` is what an outage left: it takes no new rows, and is gone once the hub has all of it.
    """

    number: int
    boot: str
    priority: Priority
    live: bool
    last: int = 0
    acknowledged: int = 0
    shed: int = 0  # rows up to here were given up for the byte cap, if the hub did not have them
    rows: int = 0
    bytes: int = 0
    oldest_us: int = 0  # when the oldest row that waits was kept; 0: none waits

    @property
    def drained(self) -> bool:
        """Whether the hub knows of all of it."""
        return self.acknowledged >= self.last


def in_order_of_sending(lanes: Iterable[Lane]) -> list[Lane]:
    """Alarms, then what is measured now, vital signs first, then what outages left, oldest first."""
    return sorted(lanes, key=lambda lane: (lane.priority is not Priority.ALARM, not lane.live, lane.priority, lane.number))


def in_order_of_shedding(lanes: Iterable[Lane]) -> list[Lane]:
    """Waveforms before vital signs, oldest first; alarms never."""
    worth = [lane for lane in lanes if lane.priority is not Priority.ALARM and lane.rows]
    return sorted(worth, key=lambda lane: (-lane.priority, lane.number))


def to_be_parked(lanes: Sequence[Lane], *, rows_min: int, lanes_max: int) -> list[Lane]:
    """The live lanes whose queue is long enough that new rows should not wait behind it, as a connection begins."""
    room = lanes_max - sum(not lane.live for lane in lanes)
    behind = [lane for lane in lanes if lane.live and lane.priority is not Priority.ALARM and lane.rows >= rows_min]
    return in_order_of_sending(behind)[: max(0, room)]
