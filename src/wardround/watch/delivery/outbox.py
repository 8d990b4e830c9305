"""Messages on disk until their sink has them: one queue and one thread a sink, so one that hangs holds up no other.

At least once, with the same id: a message is written before it is sent, and forgotten after. What is urgent goes at once; the
rest waits `group_s` for others of its kind and study, and goes with them. A message that a sink refuses is tried again, with a
growing pause and behind those that are not refused, for GIVE_UP_S; then it is let go, loudly, and counted.
"""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from wardround.clock import Clock
from wardround.watch.alerts import Alert, Priority
from wardround.watch.delivery.messages import Message, message
from wardround.watch.delivery.sinks import DeliveryFailed, Sink

log = structlog.get_logger(__name__)
WAITING_MAX = 10_000  # a sink
KNOWN_MAX = 20_000  # ids that are remembered once they are delivered
GROUP_MAX = 50
RETRY_S_MIN, RETRY_S_MAX = 1.0, 300.0
GIVE_UP_S = 86_400.0
CLOSE_S = 6.0
_ORDER = {"high": 0, "medium": 1, "low": 2, "info": 3}


@dataclass(frozen=True, slots=True)
class Route:
    """A sink, and what it is given."""

    name: str
    sink: Sink
    priority_min: Priority = "low"
    level: int = 0  # of escalation: 1 gets what nobody has acknowledged in time, and what becomes of it
    group_s: float = 10.0
    refresh_s: float = 0.0  # a sign of life so often; 0: none

    def wants(self, alert: Alert) -> bool:
        """Whether an alert as it stands goes this way."""
        return alert.worth_telling and alert.level >= self.level and _ORDER[alert.finding.priority] <= _ORDER[self.priority_min]


@dataclass(frozen=True, slots=True)
class RouteState:
    """How a sink does."""

    waiting: int
    delivered: int
    given_up: int
    failing: str  # why the last try failed; empty: it did not
    last_us: int  # the last delivery


class Outbox:
    """The queues of all sinks."""

    def __init__(self, path: Path, routes: Sequence[Route], clock: Clock, open_alerts: Callable[[], Sequence[Alert]]) -> None:
        self._routes, self._clock, self._open_alerts = {r.name: r for r in routes}, clock, open_alerts
        self.behind = False  # a message could not be kept
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS waiting (number INTEGER PRIMARY KEY, sink TEXT NOT NULL, message_id TEXT NOT NULL,"
            " topic TEXT NOT NULL, body BLOB NOT NULL, made_us INTEGER NOT NULL, due_us INTEGER NOT NULL,"
            " tries INTEGER NOT NULL DEFAULT 0, UNIQUE (sink, message_id))"
        )
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS known (number INTEGER PRIMARY KEY, sink TEXT NOT NULL, message_id TEXT NOT NULL,"
            " UNIQUE (sink, message_id))"
        )
        names = list(self._routes)
        marks = ",".join("?" * len(names)) or "''"
        self._db.execute(f"DELETE FROM waiting WHERE sink NOT IN ({marks})", names)  # noqa: S608 - question marks
        self._states = {name: RouteState(0, 0, 0, "", 0) for name in names}
        self._stop = threading.Event()
        self._wakes = {name: threading.Event() for name in names}
        self._threads = [threading.Thread(target=self._run, args=(r,), name=f"outbox-{r.name}", daemon=True) for r in routes]

    def start(self) -> None:
        """Begin sending."""
        for thread in self._threads:
            thread.start()

    def put(self, alert: Alert) -> None:
        """Keep the message of an alert as it stands, durably, for every sink that wants it; again changes nothing.

        A disk that refuses does not stop whoever raises alerts: `behind` says that they are to be put again.
        """
        try:
            self._put(alert)
        except sqlite3.Error as error:
            self.behind = True
            log.error("outbox cannot be written", alert_id=alert.alert_id, reason=str(error))

    def _put(self, alert: Alert) -> None:
        for route in self._routes.values():
            if not route.wants(alert):
                continue
            out, now_us = message(alert), self._clock.now_us()
            due_us = now_us if alert.finding.priority == "high" else now_us + int(route.group_s * 1e6)
            self._keep(route.name, out, now_us, due_us)

    def test(self) -> list[str]:
        """Send every sink a message that says that it is a test; the names of the sinks."""
        now_us = self._clock.now_us()
        out = Message(
            message_id=f"test-{now_us}",
            alert_id="test",
            state="firing",
            kind="test",
            title="This is a test: alerts of Wardround reach you here",
            priority="low",
            category="technical",
            edge="",
            study="",
            since_us=now_us,
            raised_us=now_us,
            changed_us=now_us,
            level=0,
            flapping=False,
            response="",
            action="Nothing.",
            runbook="docs/runbooks.md#test",
        )
        for name in self._routes:
            self._keep(name, out, now_us, now_us)
        return list(self._routes)

    def states(self) -> dict[str, RouteState]:
        """How each sink does."""
        with self._lock:
            waiting = dict(self._db.execute("SELECT sink, count(*) FROM waiting GROUP BY sink").fetchall())
            return {
                name: RouteState(waiting.get(name, 0), s.delivered, s.given_up, s.failing, s.last_us)
                for name, s in self._states.items()
            }

    def close(self) -> None:
        """Stop sending; what waits stays on disk."""
        self._stop.set()
        for wake in self._wakes.values():
            wake.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(CLOSE_S)
        with self._lock:
            self._db.close()

    # -- how

    def _keep(self, sink: str, out: Message, now_us: int, due_us: int) -> None:
        topic = f"{out.kind}|{out.study}|{out.state}"
        with self._lock:
            known = self._db.execute("SELECT 1 FROM known WHERE sink = ? AND message_id = ?", (sink, out.message_id)).fetchone()
            if known is None:
                self._db.execute(
                    "INSERT OR IGNORE INTO waiting (sink, message_id, topic, body, made_us, due_us) VALUES (?, ?, ?, ?, ?, ?)",
                    (sink, out.message_id, topic, msgspec.json.encode(out), now_us, due_us),
                )
                self._bound(sink)
        self._wakes[sink].set()

    def _bound(self, sink: str) -> None:
        """Beyond WAITING_MAX the oldest message of a sink is let go."""
        over = self._db.execute("SELECT count(*) FROM waiting WHERE sink = ?", (sink,)).fetchone()[0] - WAITING_MAX
        if over > 0:
            self._db.execute(
                "DELETE FROM waiting WHERE number IN (SELECT number FROM waiting WHERE sink = ? ORDER BY number LIMIT ?)",
                (sink, over),
            )
            self._note(sink, given_up=over)
            log.error("outbox full: the oldest messages are let go", sink=sink, messages=over)

    def _run(self, route: Route) -> None:
        refresh_us = 0
        while not self._stop.is_set():
            now_us = self._clock.now_us()
            try:
                if route.refresh_s and now_us >= refresh_us:
                    refresh_us = now_us + int(route.refresh_s * 1e6)
                    self._refresh(route)
                group = self._due(route.name, now_us)
                if group:
                    self._deliver(route, group, now_us)
                    continue
            except sqlite3.Error as error:  # a full disk: what was sent and not forgotten is sent again, with its id
                log.error("outbox cannot be written", sink=route.name, reason=str(error))
                self._stop.wait(RETRY_S_MIN)
            self._wakes[route.name].wait(0.5)
            self._wakes[route.name].clear()

    def _due(self, sink: str, now_us: int) -> list[tuple[int, Message, int, int]]:
        """The messages to send now: the first that is due, and all that wait for the same topic and were never refused."""
        with self._lock:
            if self._stop.is_set():
                return []
            first = self._db.execute(
                "SELECT number, topic, tries FROM waiting WHERE sink = ? AND due_us <= ? ORDER BY tries > 0, number LIMIT 1",
                (sink, now_us),
            ).fetchone()
            if first is None:
                return []
            rows = self._db.execute(
                "SELECT number, body, made_us, tries FROM waiting WHERE sink = ? AND (number = ? OR (topic = ? AND tries = 0"
                " AND ? = 0)) ORDER BY number LIMIT ?",
                (sink, first[0], first[1], first[2], GROUP_MAX),
            ).fetchall()
        return [(n, msgspec.json.decode(b, type=Message), made, tries) for n, b, made, tries in rows]

    def _deliver(self, route: Route, group: list[tuple[int, Message, int, int]], now_us: int) -> None:
        try:
            route.sink.send([m for _, m, _, _ in group])
        except DeliveryFailed as error:
            self._failed(route.name, group, now_us, str(error))
        except Exception as error:  # a fault in a sink must not end the thread that all of its messages depend on
            log.exception("sink failed", sink=route.name)
            self._failed(route.name, group, now_us, f"{type(error).__name__}: {error}"[:300])
        else:
            with self._lock:
                self._db.execute("BEGIN IMMEDIATE")
                for number, out, _, _ in group:
                    self._db.execute("DELETE FROM waiting WHERE number = ?", (number,))
                    self._db.execute("INSERT OR IGNORE INTO known (sink, message_id) VALUES (?, ?)", (route.name, out.message_id))
                self._db.execute("DELETE FROM known WHERE number <= (SELECT max(number) FROM known) - ?", (KNOWN_MAX,))
                self._db.execute("COMMIT")
                self._note(route.name, delivered=len(group), last_us=now_us)

    def _failed(self, sink: str, group: list[tuple[int, Message, int, int]], now_us: int, why: str) -> None:
        with self._lock:
            for number, out, made_us, tries in group:
                if now_us - made_us > GIVE_UP_S * 1e6:
                    self._db.execute("DELETE FROM waiting WHERE number = ?", (number,))
                    self._note(sink, given_up=1)
                    log.error("message given up", sink=sink, alert_id=out.alert_id, reason=why)
                    continue
                pause_s = min(RETRY_S_MAX, RETRY_S_MIN * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
                self._db.execute(
                    "UPDATE waiting SET tries = tries + 1, due_us = ? WHERE number = ?", (now_us + int(pause_s * 1e6), number)
                )
            self._note(sink, failing=why)
        log.warning("sink did not take a message", sink=sink, reason=why)

    def _refresh(self, route: Route) -> None:
        try:
            route.sink.refresh(self._open_alerts())
        except DeliveryFailed as error:
            with self._lock:
                self._note(route.name, failing=str(error))
            log.warning("sink did not take a sign of life", sink=route.name, reason=str(error))
        except Exception:
            log.exception("sink failed", sink=route.name)

    def _note(self, sink: str, *, delivered: int = 0, given_up: int = 0, last_us: int = 0, failing: str = "") -> None:
        """Under the lock."""
        s = self._states[sink]
        self._states[sink] = RouteState(0, s.delivered + delivered, s.given_up + given_up, failing, last_us or s.last_us)
