"""Everything the hub does by the clock, and whether it is late. Pure: what is expected and what ran go in, one table comes out.

A routine is late when it has not come to a good end within its interval and its grace; one that fails every time is late too.
After a start it has its grace anew: what could not run while no hub ran is no fault. Its newest runs are kept across restarts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import msgspec

RUNS_KEPT = 10  # of each routine
ROUTINES_MAX = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Routine:
    """What is expected. `next_us` is when it is due, 0: nothing is; it is late `grace_s` after that."""

    name: str
    title: str
    schedule: str  # in words: every 10 s
    next_us: int
    grace_s: float = 600.0
    study: str = ""  # of whose rounds it is


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run that has ended."""

    started_us: int
    seconds: float
    ok: bool
    detail: str = ""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table."""

    name: str
    title: str
    schedule: str
    last: Run | None
    running_since_us: int  # 0: it does not run
    next_us: int  # 0: nothing is due
    late_s: float  # 0: it is not late
    study: str = ""

    @property
    def outcome(self) -> str:
        """Of the last run, in one word."""
        if self.running_since_us:
            return "running"
        return "never" if self.last is None else "ok" if self.last.ok else "failed"


class _Saved(msgspec.Struct):
    runs: dict[str, list[Run]]


class Timetable:
    """One hub's. Memory: RUNS_KEPT runs of each of at most ROUTINES_MAX routines."""

    def __init__(self, started_us: int, saved: bytes = b"") -> None:
        """`started_us` is when this hub began."""
        self._started_us = started_us
        self._running: dict[str, int] = {}
        self._runs = msgspec.json.decode(saved, type=_Saved).runs if saved else {}

    def save(self) -> bytes:
        """The runs, oldest first."""
        return msgspec.json.encode(_Saved(self._runs))

    def began(self, name: str, now_us: int) -> None:
        """A routine runs."""
        self._running[name] = now_us

    def ended(self, name: str, now_us: int, *, ok: bool, detail: str = "") -> None:
        """A run has come to its end; one that had not begun here took no time."""
        began = self._running.pop(name, now_us)
        runs = [
            *self._runs.pop(name, []),
            Run(started_us=began, seconds=max(0, now_us - began) / 1e6, ok=ok, detail=detail[:300]),
        ]
        self._runs[name] = runs[-RUNS_KEPT:]
        while len(self._runs) > ROUTINES_MAX:
            del self._runs[next(iter(self._runs))]

    def last_ok_us(self, name: str) -> int:
        """When it last came to a good end; 0: never."""
        return next((r.started_us + round(r.seconds * 1e6) for r in reversed(self._runs.get(name, [])) if r.ok), 0)

    def runs(self, name: str) -> list[Run]:
        """Its newest runs, newest first."""
        return self._runs.get(name, [])[::-1]

    def due_us(self, name: str, every_s: float) -> int:
        """When it should run next: an interval after its last good end, or after the start of a hub that has never run it."""
        return (self.last_ok_us(name) or self._started_us) + round(every_s * 1e6)

    def rows(self, expected: Collection[Routine], now_us: int) -> list[Row]:
        """The table: late ones first, then in the order they are expected in."""
        rows = []
        for routine in expected:
            last = next(iter(self.runs(routine.name)), None)
            from_us = max(routine.next_us, self._started_us) + round(routine.grace_s * 1e6)
            late = routine.next_us and routine.name not in self._running and now_us > from_us
            rows.append(
                Row(
                    name=routine.name,
                    title=routine.title,
                    schedule=routine.schedule,
                    last=last,
                    running_since_us=self._running.get(routine.name, 0),
                    next_us=routine.next_us,
                    late_s=(now_us - routine.next_us) / 1e6 if late else 0.0,
                    study=routine.study,
                )
            )
        return sorted(rows, key=lambda r: not r.late_s)
