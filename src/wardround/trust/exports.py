"""The book of exports: what left the hub with rows of subjects in it, and whose, so that an erasure can say where copies are.

A subject stands here as the digest by which the erased are known (trust/erasures.py), never by name: the book holds no pair of
names, nothing of it need go when a subject is erased, and the receipt of a second erasure says the same.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from wardround.trust.erasures import digest_of

BUSY_S = 10.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS exports (number INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT NOT NULL, t_us INTEGER NOT NULL,
    who TEXT NOT NULL, format TEXT NOT NULL, subjects INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS members (digest BLOB, number INTEGER, PRIMARY KEY (digest, number)) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Export:
    """One export. `study` is empty where the lake's own names went out."""

    number: int
    study: str
    t_us: int
    who: str
    format: str
    subjects: int


class ExportBook:
    """Exports on disk (SQLite, `synchronous=FULL`). Safe to use from several threads and processes."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=BUSY_S)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def add(self, study: str, who: str, format_: str, subjects: Collection[str], now_us: int) -> int:
        """Note an export, before a byte of it is written; its number."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            values = (study, now_us, who, format_, len(subjects))
            row = self._db.execute("INSERT INTO exports (study, t_us, who, format, subjects) VALUES (?, ?, ?, ?, ?)", values)
            number = int(row.lastrowid or 0)
            self._db.executemany("INSERT INTO members VALUES (?, ?)", [(digest_of(s), number) for s in set(subjects)])
        return number

    def all(self) -> list[Export]:
        """Every export, oldest first."""
        return self._select("ORDER BY number", ())

    def of(self, digest: bytes) -> list[Export]:
        """The exports that a subject was in, oldest first."""
        return self._select("WHERE number IN (SELECT number FROM members WHERE digest = ?) ORDER BY number", (digest,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _select(self, which: str, values: tuple[bytes, ...]) -> list[Export]:
        with self._lock:
            query = f"SELECT number, study, t_us, who, format, subjects FROM exports {which}"  # noqa: S608 - words of this file
            return [Export(*row) for row in self._db.execute(query, values)]
