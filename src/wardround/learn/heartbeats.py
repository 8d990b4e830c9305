"""How often edges report: less often the more there are, and at once what somebody waits for.

Every heartbeat costs the hub's one event loop about a third of a millisecond. With one every two seconds from each of 5,000
edges that loop had no time left to let new ones in (`bench/hub_memory.py`). So the hub bounds how many come in a second, and
tells edges the interval that follows; each heartbeat says within what time the next one comes, by which the hub judges silence.
"""

from __future__ import annotations

HEARTBEAT_S = 2.0  # of few edges
HEARTBEATS_A_SECOND = 500  # that a hub wants, of all edges together
STEP = 1.25  # from one interval to the next: all edges are told of each
SETTLED = 2  # steps that an interval is too long before it is shortened: edges that come and go change nothing
INTERVAL_S_MIN, INTERVAL_S_MAX = 0.1, 60.0


class HeartbeatInterval:
    """The hub's half: the interval that it tells its edges."""

    def __init__(self, shortest_s: float, a_second: float = HEARTBEATS_A_SECOND) -> None:
        """`shortest_s` is that of few edges; of many, no more than `a_second` heartbeats come in a second."""
        self._shortest_s, self._a_second = min(max(shortest_s, INTERVAL_S_MIN), INTERVAL_S_MAX), a_second
        self.seconds = self._shortest_s

    def settle(self, edges: int) -> bool:
        """So many edges are attached: whether they are to be told another interval than before."""
        needed_s = max(self._shortest_s, edges / self._a_second)
        told_s = self.seconds
        while self.seconds < min(needed_s, INTERVAL_S_MAX):
            self.seconds = min(self.seconds * STEP, INTERVAL_S_MAX)
        if needed_s * STEP**SETTLED <= self.seconds:
            self.seconds = max(self._shortest_s, edges / self._a_second * STEP)
        return self.seconds != told_s


class Reports:
    """An edge's half: when it reports."""

    def __init__(self, interval_s: float) -> None:
        """`interval_s` goes until the hub says another; an edge looks so often whether it has something to say at once."""
        self._look_s = self.interval_s = interval_s
        self._said_s, self._said, self._promised_s = float("-inf"), object(), interval_s

    @property
    def look_s(self) -> float:
        """Seconds until the next look."""
        return min(self._look_s, self.interval_s)

    def told(self, interval_s: float) -> None:
        """The hub says how often it wants to hear of this edge; what makes no sense changes nothing."""
        if INTERVAL_S_MIN <= interval_s <= INTERVAL_S_MAX:
            self.interval_s = interval_s

    def due(self, now_s: float, urgent: object) -> bool:
        """Whether to report now, which then counts as done, and promises the next one within `interval_s`, whatever the hub says
        until then. `urgent` is what somebody waits for: it is said when it changes."""
        wait_s = min(self.interval_s, self._promised_s)
        if urgent == self._said and now_s - self._said_s < wait_s - self.look_s / 2:
            return False
        self._said_s, self._said, self._promised_s = now_s, urgent, self.interval_s
        return True
