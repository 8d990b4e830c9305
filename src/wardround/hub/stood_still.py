"""How long the hub's own loop has stood still: what it did not hear in that time is nobody's silence."""

from __future__ import annotations

import asyncio

from wardround.clock import Clock

LOOK_S = 1.0
LATE_S = 1.0  # so much later than asked for is no standing still


class StoodStill:
    """One loop's. Used in that loop alone."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._stood_s, self._looked_s = clock, 0.0, clock.monotonic_s()

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Once a second, if the loop goes on."""
        now_s = self._clock.monotonic_s()
        self._stood_s += max(0.0, now_s - self._looked_s - LOOK_S - LATE_S)
        self._looked_s = now_s

    def take(self) -> float:
        """Seconds since it was asked last."""
        self.look()
        stood_s, self._stood_s = self._stood_s, 0.0
        return stood_s
