"""A device's clock against the edge's, from what its messages show: offset, drift, and how far to believe them.

A message arrives after the newest time in it, by the offset of the device's clock plus a delay that is never negative. The
least of that difference over a window is the offset plus the shortest delay (the minimum filter of V. Paxson, On calibrating
measurements of packet transit times, SIGMETRICS 1998, section 4). A device that runs ahead shows itself at once: nothing
arrives before it was measured. One that is behind looks like one that sends late; it counts as behind only when the
difference has held steady for STEADY_US, which no store of old data does while it is emptied.

Corrections move slowly, so that a series is not torn, and step only where they are far off. Pure: no clock of its own.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

import numpy as np

SLOT_US = 10_000_000
SLOTS_MAX = 60
STEADY_US = 120_000_000
STEADY_SPREAD_US = 1_000_000  # of the least differences of the slots
IGNORED_US = 2_000_000  # behind by less is a delay like any other
STEP_US = 500_000  # beyond it a correction steps
SLEW_US = 2_000  # otherwise it moves by so much a message; series join over twice that
DRIFT_US = 300_000_000  # of observation without which no drift is said
DEVICES_MAX = 10_000
BEFORE_US = 60_000_000  # a first message may be late by so much, and what was known before a restart still holds
MOVED_US = 50_000


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What is known of a device's clock: true time = device time + `offset_us`, give or take `error_us`."""

    offset_us: int = 0
    error_us: int = 0
    drift_ppm: float | None = None  # positive: the device's clock is slow
    synced: bool = True  # whether the error is that of a network, not of a clock nobody can tell


class DeviceClock:
    """One device's."""

    def __init__(self, offset_us: int = 0) -> None:
        """`offset_us` is the correction that was in force before a restart."""
        self._slots: deque[list[int]] = deque(maxlen=SLOTS_MAX)  # slot, least difference
        self._offset_us = offset_us

    def observe(self, newest_us: int, edge_us: int) -> ClockReading:
        """A message has come whose newest time is `newest_us`; what is known now."""
        slot, difference = edge_us // SLOT_US, edge_us - newest_us
        if not self._slots and self._offset_us and 0 <= difference - self._offset_us <= BEFORE_US:
            difference = self._offset_us  # what was known before a restart still fits
        if self._slots and slot < self._slots[-1][0]:
            self._slots.clear()  # our own clock was set back
        while self._slots and slot - self._slots[0][0] >= SLOTS_MAX:
            self._slots.popleft()
        if self._slots and self._slots[-1][0] == slot:
            self._slots[-1][1] = min(self._slots[-1][1], difference)
        else:
            self._slots.append([slot, difference])
        least = min(d for _, d in self._slots)
        target, steady = self._target(least)
        if target is not None:
            move = target - self._offset_us
            if abs(move) > STEP_US:
                self._offset_us = target
            else:
                self._offset_us += max(-SLEW_US, min(SLEW_US, move))
        left = abs(least - self._offset_us)
        return ClockReading(self._offset_us, left, self._drift_ppm(), synced=steady or left <= IGNORED_US)

    def _target(self, least: int) -> tuple[int | None, bool]:
        """The correction that the window asks for, None for no change; and whether it can be told."""
        if least < 0:
            return least, True
        if least <= IGNORED_US:
            return 0, True
        recent = [d for slot, d in self._slots if slot > self._slots[-1][0] - STEADY_US // SLOT_US]
        long_enough = (self._slots[-1][0] - self._slots[0][0]) * SLOT_US >= STEADY_US
        if long_enough and len(recent) >= 6 and max(recent) - min(recent) <= STEADY_SPREAD_US:
            return min(recent), True
        return None, False

    def _drift_ppm(self) -> float | None:
        """Least squares over the slots' least differences, where they lie close to a line."""
        if len(self._slots) < 6 or (self._slots[-1][0] - self._slots[0][0]) * SLOT_US < DRIFT_US:
            return None
        t, d = np.array(self._slots, np.float64).T
        t = (t - t[0]) * SLOT_US
        slope, start = np.polyfit(t, d - d[0], 1)
        off_us = np.median(np.abs(d - d[0] - (start + slope * t)))
        return float(slope * 1e6) if off_us <= STEADY_SPREAD_US / 10 else None


class DeviceClocks:
    """Every device's; the ones unheard longest are forgotten first."""

    def __init__(self, offsets_us: dict[str, int] | None = None) -> None:
        self._clocks: OrderedDict[str, DeviceClock] = OrderedDict()
        self._before = dict(offsets_us or {})
        self._told = dict(self._before)
        self.readings: dict[str, ClockReading] = {}

    def observe(self, device: str, newest_us: int, edge_us: int) -> ClockReading:
        """As DeviceClock.observe."""
        clock = self._clocks.get(device)
        if clock is None:
            clock = self._clocks[device] = DeviceClock(self._before.pop(device, 0))
        self._clocks.move_to_end(device)
        if len(self._clocks) > DEVICES_MAX:
            gone, _ = self._clocks.popitem(last=False)
            self.readings.pop(gone, None)
            self._told.pop(gone, None)
        reading = self.readings[device] = clock.observe(newest_us, edge_us)
        return reading

    def moved(self) -> dict[str, int]:
        """Corrections that have moved by more than MOVED_US since this was asked."""
        found = {d: r.offset_us for d, r in self.readings.items() if abs(r.offset_us - self._told.get(d, 0)) > MOVED_US}
        self._told.update(found)
        return found
