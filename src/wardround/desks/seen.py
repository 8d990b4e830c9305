"""Who sees patients' data, for the audit log: an open page looks every second, and is one entry in ten minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from wardround.clock import Clock

SEEN_S, SEEN_MAX = 600.0, 10_000  # the same again within so long is the same entry


class Seen:
    """What was recorded lately. May be used from any thread; of two at once both may record."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._seen_s: dict[Hashable, float] = {}

    def record(self, what: Hashable, record: Callable[[], None]) -> None:
        """Record it unless that was done lately; what `record` raises is raised, and it counts as not recorded."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            if now_s - self._seen_s.get(what, -SEEN_S) < SEEN_S:
                return
        record()
        with self._lock:
            if len(self._seen_s) >= SEEN_MAX:
                self._seen_s.clear()
            self._seen_s[what] = now_s
