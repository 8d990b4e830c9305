"""The hub's durable queue towards the lake. An edge's observation is acknowledged once it is here.

Keyed by (edge, boot, seq). `watermarks` outlive the rows, so that a repeat of what is long in the lake is recognised.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wardround.collect.storage import Storage
from wardround.errors import StorageFull
from wardround.trust.compaction import compact

LOOK_ROWS = 5_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS arrived (number INTEGER PRIMARY KEY AUTOINCREMENT, edge TEXT NOT NULL, boot TEXT NOT NULL,
    seq INTEGER NOT NULL, t_hub_us INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (edge, boot, seq));
CREATE TABLE IF NOT EXISTS watermarks (edge TEXT, boot TEXT, seq INTEGER NOT NULL, PRIMARY KEY (edge, boot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gaps (edge TEXT, boot TEXT, first_seq INTEGER, last_seq INTEGER, reason TEXT, t_hub_us INTEGER,
    PRIMARY KEY (edge, boot, first_seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class InboxRow(NamedTuple):
    """One observation on its way to the lake; `number` grows in the order of arrival."""

    number: int
    edge: str
    boot: str
    seq: int
    t_hub_us: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Gap:
    """Sequences that an edge says will never come, and why."""

    first_seq: int
    last_seq: int
    reason: str


class Inbox:
    """Safe to use from several threads."""

    def __init__(self, storage: Storage) -> None:
        self._lock = threading.RLock()
        self._db = storage.connect("inbox")
        self._db.executescript(_SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO facts VALUES ('inbox_id', ?)", (secrets.token_hex(8),))
        self.inbox_id = str(self._db.execute("SELECT value FROM facts WHERE key = 'inbox_id'").fetchone()[0])

    def watermark(self, edge: str, boot: str) -> int:
        """Everything of this edge and boot up to here has arrived."""
        with self._lock:
            row = self._db.execute("SELECT seq FROM watermarks WHERE edge = ? AND boot = ?", (edge, boot)).fetchone()
        return int(row[0]) if row else 0

    def put(self, edge: str, boot: str, upto: int, rows: Sequence[tuple[int, bytes]], gaps: Sequence[Gap], now_us: int) -> None:
        """Keep rows and move the watermark to `upto`, in one transaction, on the disk when this returns.

        Raises:
            StorageFull: the disk refused; nothing of it was kept.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(
                    "INSERT OR IGNORE INTO arrived (edge, boot, seq, t_hub_us, data) VALUES (?, ?, ?, ?, ?)",
                    [(edge, boot, seq, now_us, data) for seq, data in rows],
                )
                self._db.executemany(
                    "INSERT OR IGNORE INTO gaps VALUES (?, ?, ?, ?, ?, ?)",
                    [(edge, boot, g.first_seq, g.last_seq, g.reason, now_us) for g in gaps],
                )
                self._db.execute("INSERT OR REPLACE INTO watermarks VALUES (?, ?, ?)", (edge, boot, upto))
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as exc:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise StorageFull(
                    f"the inbox's disk refused: {exc}", remedy="free the hub's disk; edges keep their data"
                ) from exc

    def gaps(self) -> list[tuple[str, str, Gap]]:
        """What edges say will never come, with edge and boot."""
        query = "SELECT edge, boot, first_seq, last_seq, reason FROM gaps ORDER BY edge, boot, first_seq"
        with self._lock:
            return [(edge, boot, Gap(*gap)) for edge, boot, *gap in self._db.execute(query)]

    def pending(self, limit: int) -> list[InboxRow]:
        """The oldest rows that are not in the lake yet."""
        query = "SELECT number, edge, boot, seq, t_hub_us, data FROM arrived ORDER BY number LIMIT ?"
        with self._lock:
            return list(map(InboxRow._make, self._db.execute(query, (limit,))))

    def retire(self, upto_number: int) -> None:
        """These rows are in the lake: forget them."""
        with self._lock:
            self._db.execute("DELETE FROM arrived WHERE number <= ?", (upto_number,))

    def forget(self, subject: str) -> int:
        """Remove a subject's observations; how many. They have been acknowledged, and nobody sends them again."""
        gone: list[tuple[int]] = []
        after = 0
        while True:
            with self._lock:
                query = "SELECT number, data FROM arrived WHERE number > ? ORDER BY number LIMIT ?"
                rows = self._db.execute(query, (after, LOOK_ROWS)).fetchall()
                found = [(number,) for number, data in rows if subject.encode() in data]
                self._db.executemany("DELETE FROM arrived WHERE number = ?", found)
            gone += found
            if len(rows) < LOOK_ROWS:
                return len(gone)
            after = rows[-1][0]

    def waiting(self) -> int:
        """How many rows are not in the lake yet."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM arrived").fetchone()[0])

    def compact(self) -> bool:
        """Write the file anew without what was deleted; False when a reader kept the write-ahead log."""
        with self._lock:
            return compact(self._db)

    def close(self) -> None:
        """Close the database; what is not committed is gone."""
        with self._lock:
            self._db.close()
