"""What share of each patient's signals came hour by hour: for the console while somebody looks, for the watch by the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import structlog

from wardround.clock import Clock
from wardround.collect.streams import HOUR_US, Hour
from wardround.console.completeness import HOURS
from wardround.console.model import SignalHours
from wardround.errors import WardroundError
from wardround.process.lake import Lake
from wardround.processing import completeness
from wardround.watch.detectors.completeness import HourShare, Incomplete, incomplete

log = structlog.get_logger(__name__)
AGAIN_S = 30.0  # trends change by the hour
WATCHED_S, WATCHED_HOURS = 600.0, 28  # between two looks of the watch, and what it looks at
WANTED_S = 60.0  # after somebody has last looked


class HoursBoard:
    """One hub's. `shown` may be called from any thread; `look` from one at a time."""

    def __init__(self, lake: Lake, clock: Clock, title: Callable[[str], str]) -> None:
        """`title(code)` is the signal's name."""
        self._lake, self._clock, self._title = lake, clock, title
        self._shown: tuple[SignalHours, ...] | None = None
        self._looked_s = self._wanted_s = float("-inf")

    def shown(self) -> tuple[SignalHours, ...] | None:
        """The newest look, the least complete first; None when there was none yet. Somebody is looking now."""
        self._wanted_s = self._clock.monotonic_s()
        return self._shown

    def look(self) -> None:
        """Look again if somebody looks and it is time."""
        now_s = self._clock.monotonic_s()
        if now_s - self._wanted_s > WANTED_S or now_s - self._looked_s < AGAIN_S:
            return
        now_us = self._clock.now_us()
        since_us = (now_us // HOUR_US - HOURS + 1) * HOUR_US
        try:
            self._shown = signal_hours(completeness(self._lake, now_us, since_us=since_us), since_us, self._title)
        except WardroundError as error:  # the last look stays
            log.error("completeness could not be read", error=str(error))
        self._looked_s = now_s


class HoursWatch:
    """One hub's: every ten minutes what comes with holes is told to the watch."""

    def __init__(
        self, lake: Lake, clock: Clock, edge_of: Callable[[str], str], tell: Callable[[Sequence[Incomplete]], None]
    ) -> None:
        """`edge_of(subject)` is empty where it is not known; `tell` gets everything that is incomplete now."""
        self._lake, self._clock, self._edge_of, self._tell = lake, clock, edge_of, tell
        self._looked_s = clock.monotonic_s()  # a hub that has just started waits for what was spooled meanwhile

    def look(self) -> None:
        """Look again if it is time."""
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s < WATCHED_S:
            return
        self._looked_s, now_us = now_s, self._clock.now_us()
        try:
            hours = completeness(self._lake, now_us, since_us=now_us - WATCHED_HOURS * HOUR_US)
        except WardroundError as error:  # what is open stays so
            log.error("completeness could not be read", error=str(error))
            return
        known = ((hour, self._edge_of(hour.subject)) for hour in hours if hour.complete is not None)
        shares = [HourShare(edge, h.code, h.subject, h.hour_us, h.complete or 0.0) for h, edge in known if edge]
        self._tell(incomplete(shares, now_us))


def signal_hours(hours: Iterable[Hour], first_us: int, title: Callable[[str], str]) -> tuple[SignalHours, ...]:
    """A row a subject and signal, over HOURS hours from `first_us`; the least complete first, those of no known rate last."""
    shares: dict[tuple[str, str], list[float | None]] = {}
    expected: dict[tuple[str, str], tuple[float, float]] = {}
    for hour in hours:
        place, key = (hour.hour_us - first_us) // HOUR_US, (hour.subject, hour.code)
        if 0 <= place < HOURS:
            shares.setdefault(key, [None] * HOURS)[place] = hour.complete
            came_s, asked_s = expected.get(key, (0.0, 0.0))
            expected[key] = (came_s + min(hour.covered_s, hour.expected_s), asked_s + hour.expected_s)
    rows = [
        SignalHours(subject, code, title(code), first_us, tuple(own), _mean(*expected[subject, code]))
        for (subject, code), own in shares.items()
    ]
    return tuple(sorted(rows, key=lambda r: (r.mean is None, r.mean, r.subject, r.code)))


def _mean(came_s: float, asked_s: float) -> float | None:
    return came_s / asked_s if asked_s else None
