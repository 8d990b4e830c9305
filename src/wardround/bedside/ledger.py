"""The file of an edge's bedside watch: its alerts, what its detectors remember, what people ask and order.

One transaction a turn: an alert and the memory that it came from are on the disk together, or neither is. So a crash can neither
forget an alert that was told nor raise it a second time. The running edge writes; other processes read, and put requests.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from wardround.collect.storage import Storage
from wardround.errors import StorageFull
from wardround.trust.compaction import compact
from wardround.watch.alerts import Alert, AlertBook

REQUESTS_MAX = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS alerts (number INTEGER PRIMARY KEY, alert_id TEXT NOT NULL UNIQUE, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS states (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS requests (number INTEGER PRIMARY KEY, request_id TEXT NOT NULL UNIQUE, act TEXT NOT NULL,
    body TEXT NOT NULL, who TEXT NOT NULL, t_us INTEGER NOT NULL, state TEXT NOT NULL DEFAULT 'asked',
    answer TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS orders (subject TEXT PRIMARY KEY, spo2_scale INTEGER NOT NULL, who TEXT NOT NULL,
    t_us INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks of a running edge's alerts."""

    request_id: str
    act: str
    body: Mapping[str, Any]
    who: str


class BedsideLedger:
    """Safe to use from several threads."""

    def __init__(self, storage: Storage) -> None:
        self._lock = threading.RLock()
        self._db = storage.connect("bedside")
        self._db.executescript(_SCHEMA)
        self._written: dict[str, Alert] = {}  # as they are on the disk
        self._head = b""

    # -- the running edge

    def load(self, book: AlertBook) -> None:
        """Take the alerts up into an empty book."""
        with self._lock:
            bodies = [body for (body,) in self._db.execute("SELECT body FROM alerts ORDER BY number")]
            head = self.state("book")
            if head:
                book.restore(head, bodies)
            self._written = {a.alert_id: a for a in book.alerts()}

    def keep(self, book: AlertBook, states: Mapping[str, bytes]) -> None:
        """Keep the alerts that are not on the disk as they are, and these states, all or nothing.

        Raises:
            StorageFull: the disk refused; it is all tried again with the next call.
        """
        with self._lock:
            now = {a.alert_id: a for a in book.alerts()}
            changed = [a for i, a in now.items() if self._written.get(i) is not a]
            gone = [i for i in self._written if i not in now]
            head = book.head()
            if not changed and not gone and not states and head == self._head:
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(
                    "INSERT INTO alerts (alert_id, body) VALUES (?, ?) ON CONFLICT (alert_id) DO UPDATE SET body = excluded.body",
                    [(a.alert_id, msgspec.json.encode(a)) for a in sorted(changed, key=lambda a: (a.raised_us, a.alert_id))],
                )
                self._db.executemany("DELETE FROM alerts WHERE alert_id = ?", [(i,) for i in gone])
                self._db.executemany("INSERT OR REPLACE INTO states VALUES (?, ?)", [*states.items(), ("book", head)])
                self._db.executemany("DELETE FROM states WHERE name = ?", [(name,) for name, data in states.items() if not data])
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as exc:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise StorageFull(f"the bedside watch's disk refused: {exc}", remedy="free the disk") from exc
            self._written, self._head = now, head

    def asked(self) -> list[Request]:
        """What nobody has answered yet, oldest first."""
        with self._lock:
            query = "SELECT request_id, act, body, who FROM requests WHERE state = 'asked' ORDER BY number"
            rows = self._db.execute(query).fetchall()
        return [Request(request_id, act, json.loads(body), who) for request_id, act, body, who in rows]

    def answer(self, request_id: str, answer: str, *, refused: bool = False) -> None:
        """Note the answer to a request; the oldest ones go."""
        with self._lock:
            state = "refused" if refused else "done"
            self._db.execute("UPDATE requests SET state = ?, answer = ? WHERE request_id = ?", (state, answer, request_id))
            oldest = "(SELECT max(number) FROM requests) - ?"
            self._db.execute(f"DELETE FROM requests WHERE state != 'asked' AND number <= {oldest}", (REQUESTS_MAX,))  # noqa: S608

    def forget(self, subject: str) -> None:
        """Take out what is ordered for a subject, and every free page of the file: alerts and states are the caller's to keep."""
        with self._lock:
            self._db.execute("DELETE FROM orders WHERE subject = ?", (subject,))
            self._db.execute("DELETE FROM states WHERE name LIKE ?", (f"%{subject}%",))
            self._db.execute("DELETE FROM requests WHERE body LIKE ?", (f"%{subject}%",))
            compact(self._db)

    # -- any process

    def alerts(self) -> list[Alert]:
        """Every alert as it is on the disk, newest first."""
        with self._lock:
            rows = self._db.execute("SELECT body FROM alerts ORDER BY number DESC").fetchall()
        return sorted((msgspec.json.decode(b, type=Alert) for (b,) in rows), key=lambda a: (-a.raised_us, a.alert_id))

    def state(self, name: str) -> bytes:
        """A state; empty when there is none."""
        with self._lock:
            row = self._db.execute("SELECT value FROM states WHERE name = ?", (name,)).fetchone()
        return bytes(row[0]) if row else b""

    def states(self, prefix: str) -> list[tuple[str, bytes]]:
        """The states whose names begin so."""
        with self._lock:
            query = "SELECT name, value FROM states WHERE substr(name, 1, ?) = ? AND length(value) > 0 ORDER BY name"
            return [(str(name), bytes(value)) for name, value in self._db.execute(query, (len(prefix), prefix))]

    def ask(self, act: str, body: Mapping[str, Any], who: str, now_us: int) -> str:
        """Ask something of the running edge; the request's id."""
        request_id = uuid.uuid4().hex
        with self._lock:
            self._db.execute(
                "INSERT INTO requests (request_id, act, body, who, t_us) VALUES (?, ?, ?, ?, ?)",
                (request_id, act, json.dumps(body), who, now_us),
            )
        return request_id

    def answered(self, request_id: str) -> tuple[str, str] | None:
        """How a request stands (done, refused) and the answer; None: not answered yet."""
        with self._lock:
            row = self._db.execute("SELECT state, answer FROM requests WHERE request_id = ?", (request_id,)).fetchone()
        return None if row is None or row[0] == "asked" else (str(row[0]), str(row[1]))

    def withdraw(self, request_id: str) -> None:
        """Nobody waits for the answer any more: it is not to be done later, unseen."""
        with self._lock:
            self._db.execute("DELETE FROM requests WHERE request_id = ? AND state = 'asked'", (request_id,))

    def order_scale(self, subject: str, scale: int, who: str, now_us: int) -> None:
        """The scale of oxygen saturation that a clinician orders for a subject."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?)", (subject, scale, who, now_us))

    def scales(self) -> dict[str, int]:
        """What is ordered, by subject; 1 is not kept apart from nothing."""
        with self._lock:
            return {str(s): int(n) for s, n in self._db.execute("SELECT subject, spo2_scale FROM orders")}

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
