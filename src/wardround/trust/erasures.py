"""Erasures: who is to be erased, who has been, and what was found afterwards.

What is kept for ever holds a digest of the pseudonym, never the pseudonym: it has 100 random-looking bits, so the digest cannot
be turned back, and a copy that comes back later is still recognised. The pseudonym itself stays in the book of the hub alone, and
only until the hub's own part is done.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wardround.trust.compaction import compact

BUSY_S = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS erasures (number INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL, asked_us INTEGER NOT NULL,
    who TEXT NOT NULL, reason TEXT NOT NULL, subject TEXT NOT NULL, receipt BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS answers (number INTEGER, edge TEXT, t_us INTEGER NOT NULL, receipt BLOB NOT NULL,
    PRIMARY KEY (number, edge)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS joins (edge TEXT PRIMARY KEY, t_us INTEGER NOT NULL) WITHOUT ROWID;
"""


def digest_of(subject: str) -> bytes:
    """What stands for an erased pseudonym: SHA-256, 32 bytes."""
    return hashlib.sha256(b"wardround erased subject\0" + subject.encode()).digest()


def mask_of(subject: str) -> str:
    """What is written over a pseudonym where a record must stay: as long, so that every format around it still holds."""
    return "x" * len(subject)


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure did in one home, and what a search of every byte found there afterwards."""

    place: str  # hub, or the edge's name
    t_us: int
    known: bool  # whether this place knew the subject at all
    removed: dict[str, int]  # by part: rows, files or marks that went
    seconds: float  # without the search
    files: int = 0  # searched
    bytes_searched: int = 0  # as they lie on the disk
    bytes_decoded: int = 0  # of compressed or paged formats, as they are when unpacked
    how: str = ""
    found: tuple[str, ...] = ()  # where the pseudonym still is: empty when the erasure is complete
    exports: tuple[dict[str, str | int], ...] = ()  # that the subject was in: copies that erasing does not reach
    models: tuple[dict[str, str | int], ...] = ()  # that were or may have been trained on it: erasing does not reach into them

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not self.found


@dataclass(frozen=True, slots=True)
class Erasure:
    """One request. `subject` is empty once the hub's own part is done; `receipt` is None until then."""

    number: int
    digest: bytes
    asked_us: int
    who: str
    reason: str
    subject: str
    receipt: Receipt | None


class ErasureBook:
    """Requests and receipts (SQLite, `synchronous=FULL`). Safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=BUSY_S)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def ask(self, subject: str, who: str, reason: str, now_us: int) -> int:
        """Note a request; its number."""
        with self._lock:
            values = (digest_of(subject), now_us, who, reason, subject)
            row = self._db.execute(
                "INSERT INTO erasures (digest, asked_us, who, reason, subject, receipt) VALUES (?, ?, ?, ?, ?, X'')", values
            )
            return int(row.lastrowid or 0)

    def all(self) -> list[Erasure]:
        """Every request, oldest first."""
        with self._lock:
            query = "SELECT number, digest, asked_us, who, reason, subject, receipt FROM erasures ORDER BY number"
            return [
                Erasure(n, digest, asked_us, who, why, subject, msgspec.json.decode(receipt, type=Receipt) if receipt else None)
                for n, digest, asked_us, who, why, subject, receipt in self._db.execute(query)
            ]

    def get(self, number: int) -> Erasure | None:
        """One of them."""
        return next((e for e in self.all() if e.number == number), None)

    def settle(self, number: int, receipt: Receipt) -> None:
        """This home's own part is done: keep its receipt, and forget the pseudonym."""
        with self._lock:
            values = (msgspec.json.encode(receipt), number)
            self._db.execute("UPDATE erasures SET receipt = ?, subject = '' WHERE number = ?", values)
            compact(self._db)

    def answer(self, number: int, edge: str, receipt: Receipt, now_us: int) -> None:
        """Keep an edge's receipt."""
        with self._lock:
            values = (number, edge, now_us, msgspec.json.encode(receipt))
            self._db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", values)

    def answers(self, number: int) -> dict[str, Receipt]:
        """The receipts of edges, by name."""
        with self._lock:
            rows = self._db.execute("SELECT edge, receipt FROM answers WHERE number = ? ORDER BY edge", (number,))
            return {edge: msgspec.json.decode(receipt, type=Receipt) for edge, receipt in rows}

    def joined(self, edge: str, now_us: int) -> None:
        """An edge has joined, perhaps anew from a backup that is older than an erasure: it is told of every one again."""
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO joins VALUES (?, ?)", (edge, now_us))

    def has_joined(self, edge: str) -> bool:
        """Whether `joined` was said of it."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM joins WHERE edge = ?", (edge,)).fetchone() is not None

    def newest(self) -> int:
        """The number of the newest request; 0 where there was none."""
        with self._lock:
            return int(self._db.execute("SELECT coalesce(max(number), 0) FROM erasures").fetchone()[0])

    def owed(self, edge: str) -> list[Erasure]:
        """What an edge has not answered yet, or not since it last joined, oldest first."""
        with self._lock:
            query = "SELECT number FROM answers WHERE edge = ? AND t_us >= coalesce((SELECT t_us FROM joins WHERE edge = ?), 0)"
            done = {n for (n,) in self._db.execute(query, (edge, edge))}
        return [e for e in self.all() if e.number not in done]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()
