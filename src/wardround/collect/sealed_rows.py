"""What the durable queues share when their rows are sealed: rows that do not open are put apart, older plain ones are sealed.

Nothing that does not open is thrown away. Under a key that was never here it stays where it is and the program stops, for the
right keys may come back; what is damaged is kept in `unreadable`, with its place, so that nothing behind it waits. Only what was
sealed under a destroyed key, that is of an erased patient, goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from wardround.errors import KeyRefused, StorageFull, Unreadable
from wardround.trust.at_rest import MARK, Place, Seal
from wardround.trust.compaction import compact

log = structlog.get_logger(__name__)
STEP_ROWS = 500  # sealed in one transaction
PAUSE_S = 0.02  # between two: devices come first
AGAIN_S = 600.0  # after there was no room
APART_MAX = 10_000  # rows that do not open; beyond, the oldest go
SCHEMA = """
CREATE TABLE IF NOT EXISTS unreadable (number INTEGER PRIMARY KEY, place TEXT NOT NULL, reason TEXT NOT NULL, data BLOB NOT NULL,
    UNIQUE (place, data));
CREATE TABLE IF NOT EXISTS sealed (whole INTEGER PRIMARY KEY);
"""
DESTROYED, UNKNOWN_KEY = "destroyed", "unknown-key"


class Sealable(Protocol):
    """A store whose rows can be sealed in place."""

    def seal_some(self, after: int) -> int | None:
        """Seal some of the plain rows after a place, in one transaction; where to go on, or None when no row is left."""
        ...

    def is_sealed(self) -> bool:
        """Whether no plain row is left, and no free page that held one."""
        ...

    def compact(self) -> bool:
        """Write the file anew without what was deleted."""
        ...

    def note_sealed(self) -> None:
        """From now on it is."""
        ...


def seal_all(stores: Sequence[Sealable], pause: Callable[[], None] = lambda: None) -> int:
    """Seal what stores held before their home was encrypted, step by step (`pause` between two); how many steps it took.

    Cut off at any point it begins again: rows that are sealed are passed over, and a file is written anew at the end.
    """
    steps = 0
    for store in stores:
        if store.is_sealed():
            continue
        after: int | None = 0
        while after is not None:
            after = store.seal_some(after)
            steps += 1
            pause()
        if store.compact():
            store.note_sealed()
    return steps


async def run_sealing(stores: Sequence[Sealable], seal: Seal) -> None:
    """Seal what is plain beside a program that runs, and stay until cancelled."""
    while seal.on:
        try:
            if await asyncio.to_thread(seal_all, stores, lambda: time.sleep(PAUSE_S)):
                log.info("what was kept before is encrypted")
            break
        except (StorageFull, sqlite3.OperationalError) as error:
            log.warning("what was kept before is not all encrypted yet", reason=str(error))
            await asyncio.sleep(AGAIN_S)
    await asyncio.Event().wait()


def look_into(path: Path) -> tuple[bool, int]:
    """Whether a file holds nothing plain from before, and how many rows of it do not open; another process may be using it."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sealed'").fetchone():
            return False, 0
        return is_noted(db), int(db.execute("SELECT count(*) FROM unreadable").fetchone()[0])


def is_plain(data: bytes) -> bool:
    """Whether there is something, and it was never sealed."""
    return len(data) > 0 and data[:1] != MARK


def check_first(seal: Seal, rows: Sequence[tuple[Place, bytes]], where: str) -> None:
    """Whether what lies here was sealed under this home's keys: the oldest and the newest rows are tried.

    Raises:
        KeyRefused: one of them names a key that was never here.
    """
    for place, data in rows:
        try:
            seal.unseal(place, data)
        except Unreadable as error:
            if error.reason == UNKNOWN_KEY:
                raise _unknown(where) from error


def _unknown(where: str) -> KeyRefused:
    return KeyRefused(
        f"{where} is sealed under keys that keys/keys.sqlite does not have",
        remedy="put the newest copy of the folder keys/ back; nothing was changed",
    )


def put_apart(db: sqlite3.Connection, rows: Sequence[tuple[str, Unreadable, bytes]]) -> None:
    """Keep rows that do not open, in the transaction that takes them out of the way.

    Raises:
        KeyRefused: one of them is under a key that was never here.
    """
    for place, error, data in rows:
        if error.reason == UNKNOWN_KEY:
            raise _unknown(place)
        if error.reason != DESTROYED:
            db.execute("INSERT OR IGNORE INTO unreadable (place, reason, data) VALUES (?, ?, ?)", (place, error.reason, data))
            log.error("a row that is encrypted does not open, and is kept apart", place=place, reason=error.reason)
    db.execute("DELETE FROM unreadable WHERE number <= (SELECT max(number) FROM unreadable) - ?", (APART_MAX,))


def is_noted(db: sqlite3.Connection) -> bool:
    """Whether `note` was called for this file."""
    return db.execute("SELECT 1 FROM sealed").fetchone() is not None


def note(db: sqlite3.Connection) -> None:
    """No plain row is left in this file."""
    db.execute("INSERT OR IGNORE INTO sealed VALUES (1)")


class SealableFile:
    """What the durable queues have alike: one SQLite file under a lock, of which every plain row may be sealed, step by step."""

    _db: sqlite3.Connection
    _lock: contextlib.AbstractContextManager[object]
    _plain = True  # whether rows from before the home was encrypted may be here

    def is_sealed(self) -> bool:
        """Whether no row from before the home was encrypted is left, and no free page that held one."""
        with self._lock:
            return is_noted(self._db)

    def note_sealed(self) -> None:
        """None is, from now on."""
        with self._lock:
            note(self._db)
            self._plain = False

    def compact(self) -> bool:
        """Write the file anew without what was deleted; False when a reader kept the write-ahead log."""
        with self._lock:
            return compact(self._db)

    def close(self) -> None:
        """Close the database; what is not committed is gone."""
        with self._lock:
            self._db.close()
