"""The hub's own numbers, once a minute, to the watch of what was never seen of them (watch/hub_numbers.py)."""

from __future__ import annotations

from collections.abc import Callable

from wardround.clock import Clock
from wardround.console.model import Overview
from wardround.store import Store
from wardround.watch.hub_numbers import HubNumbers
from wardround.watch.watcher import Watch

STATE = "hub-numbers"
MINUTE_S = 60.0


class Minutes:
    """One hub's. `look` may be called from one thread at a time."""

    def __init__(self, store: Store, clock: Clock, watch: Watch, overview: Callable[[], Overview]) -> None:
        self._store, self._clock, self._watch, self._overview = store, clock, watch, overview
        self._numbers = HubNumbers(store.load_state(STATE) or b"")
        self._looked_s = clock.monotonic_s()

    def look(self) -> None:
        """Look if a minute is over; what was learnt is kept with it."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s < MINUTE_S:
            return
        self._looked_s, view = now_s, self._overview()
        values = {
            "samples": view.samples_per_s,
            "waiting": float(view.waiting),
            "edges": float(sum(e.state != "silent" for e in view.edges)),
        }
        if view.behind_s is not None:
            values["behind"] = view.behind_s
        now_us = self._clock.now_us()
        self._watch.unusual(self._numbers.minute(now_us, values), self._numbers.standing(now_us))
        self._store.save_state(STATE, self._numbers.state())
