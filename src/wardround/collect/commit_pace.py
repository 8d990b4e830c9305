"""How soon the lake is given what waits in the inbox: soon after a quiet time, seldom in a long run of small commits.

A commit makes a file for each bucket and a page of the log, however little is in them, and all of it is kept for a while for
readers of earlier versions: 200 edges that trickle made 22,000 files and 335 MB in twenty minutes of half-second commits.
"""

from __future__ import annotations

from wardround.clock import Clock

BURST = 120  # small commits that may follow one another


class CommitPace:
    """A bucket of small commits, filled at so many an hour. Large ones are free: they cost what they hold."""

    def __init__(self, clock: Clock, interval_s: float, an_hour: float) -> None:
        """`interval_s` lies between any two commits."""
        self._clock, self._interval_s, self._per_s = clock, interval_s, an_hour / 3600.0
        self._left, self._at_s = float(BURST), clock.monotonic_s()

    def wait_s(self, moved: int, *, large: bool) -> float:
        """How long to wait, after a commit of so many observations; 0: there was none."""
        now_s = self._clock.monotonic_s()
        self._left = min(float(BURST), self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if not moved or large:
            return self._interval_s
        self._left -= 1.0
        return max(self._interval_s, (1.0 - self._left) / self._per_s)
