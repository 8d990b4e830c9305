"""What an edge may train on, and nowhere else: observations with consent `raw` or `local`, with a retention.

An insert is idempotent by (device, boot, seq, index), so that a message repeated after a crash is here once.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Sequence

from wardround.collect.storage import Storage
from wardround.errors import StorageFull
from wardround.records import Observation, decode_observation, encode_observation
from wardround.trust.compaction import compact

BATCH = 10_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (number INTEGER PRIMARY KEY, device TEXT NOT NULL, boot TEXT NOT NULL, seq INTEGER NOT NULL,
    idx INTEGER NOT NULL, subject TEXT NOT NULL, code TEXT NOT NULL, t0_us INTEGER NOT NULL, data BLOB NOT NULL,
    taken_us INTEGER NOT NULL DEFAULT 0, UNIQUE (device, boot, seq, idx));
CREATE INDEX IF NOT EXISTS kept_by_code ON kept (code, t0_us);
CREATE INDEX IF NOT EXISTS kept_by_time ON kept (t0_us);
CREATE INDEX IF NOT EXISTS kept_by_subject ON kept (subject, code);
"""


class LocalStore:
    """Safe to use from several threads."""

    def __init__(self, storage: Storage) -> None:
        self._lock = threading.RLock()
        self._db = storage.connect("local")
        self._db.executescript(_SCHEMA)
        if "taken_us" not in {row[1] for row in self._db.execute("PRAGMA table_info(kept)")}:
            self._db.execute("ALTER TABLE kept ADD COLUMN taken_us INTEGER NOT NULL DEFAULT 0")

    def keep(self, observations: Sequence[Observation]) -> None:
        """Keep them, on the disk when this returns.

        Raises:
            StorageFull: the disk is full; nothing of it was kept.
        """
        if not observations:
            return
        rows = [
            (
                o.device,
                o.device_boot,
                o.device_seq,
                o.device_index,
                o.subject,
                o.code,
                o.t0_us,
                encode_observation(o),
                o.t_edge_us,
            )
            for o in observations
        ]
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(
                    "INSERT OR IGNORE INTO kept (device, boot, seq, idx, subject, code, t0_us, data, taken_us)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as exc:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise _full(exc) from exc

    def read(self, codes: Collection[str], *, since_us: int = 0, after: int = 0, limit: int = 1_000_000) -> list[Observation]:
        """Observations of these codes in the order they were kept; `after` is a `version` already read."""
        places = ",".join("?" * len(codes))
        query = f"SELECT data FROM kept WHERE code IN ({places}) AND t0_us >= ? AND number > ? ORDER BY number LIMIT ?"  # noqa: S608
        with self._lock:
            rows = self._db.execute(query, (*codes, since_us, after, limit)).fetchall()
        return [decode_observation(data) for (data,) in rows]

    def stream(self, codes: Collection[str], *, since_us: int = 0) -> Iterator[Observation]:
        """All observations of these codes, batch by batch: however many there are, few are in memory."""
        places, after = ",".join("?" * len(codes)), 0
        query = f"SELECT number, data FROM kept WHERE code IN ({places}) AND t0_us >= ? AND number > ? ORDER BY number LIMIT ?"  # noqa: S608
        while True:
            with self._lock:
                rows = self._db.execute(query, (*codes, since_us, after, BATCH)).fetchall()
            for number, data in rows:
                after = number
                yield decode_observation(data)
            if len(rows) < BATCH:
                return

    def tail(self, codes: Collection[str], *, after: int, since_us: int = 0, limit: int = BATCH) -> tuple[list[Observation], int]:
        """Observations of these codes kept after the `version` that was read last, and the version that is read now.

        What was taken before `since_us` is passed over. A version beyond the newest is no error: rows were removed since.
        """
        places = ",".join("?" * len(codes))
        query = (
            f"SELECT number, data FROM kept WHERE number > ? AND number <= ? AND +code IN ({places})"  # noqa: S608
            " AND taken_us >= ? ORDER BY number LIMIT ?"
        )
        with self._lock:
            newest = self.version()
            rows = self._db.execute(query, (after, newest, *codes, since_us, limit)).fetchall() if after < newest else []
        read = rows[-1][0] if len(rows) == limit else newest
        return [decode_observation(data) for _, data in rows], int(read)

    def has_since(self, codes: Collection[str], since_us: int) -> bool:
        """Whether anything of these codes was measured since."""
        places = ",".join("?" * len(codes))
        query = f"SELECT 1 FROM kept WHERE code IN ({places}) AND t0_us >= ? LIMIT 1"  # noqa: S608
        with self._lock:
            return self._db.execute(query, (*codes, since_us)).fetchone() is not None

    def version(self) -> int:
        """Grows with every observation kept: what was computed from an older version is stale."""
        with self._lock:
            return int(self._db.execute("SELECT coalesce(max(number), 0) FROM kept").fetchone()[0])

    def count(self) -> int:
        """How many observations are kept."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM kept").fetchone()[0])

    def forget(self, subject: str, code: str = "*") -> int:
        """Remove what a subject no longer allows; how many observations went.

        Raises:
            StorageFull: the disk has no room even for that; nothing went.
        """
        if code == "*":
            return self._delete("subject = ?", subject)
        return self._delete("subject = ? AND code = ?", subject, code)

    def subjects(self) -> set[str]:
        """Whose observations are kept."""
        with self._lock:
            return {str(s) for (s,) in self._db.execute("SELECT DISTINCT subject FROM kept")}

    def keep_only(self, allowed: Callable[[str, str], bool]) -> int:
        """Remove what `allowed(subject, code)` no longer allows; how many observations went.

        Raises:
            StorageFull: the disk has no room even for that; some of it may be gone.
        """
        with self._lock:
            pairs = self._db.execute("SELECT DISTINCT subject, code FROM kept").fetchall()
        return sum(self.forget(subject, code) for subject, code in pairs if not allowed(subject, code))

    def prune(self, before_us: int) -> int:
        """Remove what was measured, and taken, before the retention; how many observations went.

        A recording that is imported may be old when it is taken.

        Raises:
            StorageFull: the disk has no room even for that; nothing went.
        """
        return self._delete("t0_us < ? AND taken_us < ?", before_us, before_us)

    def _delete(self, where: str, *values: str | int) -> int:
        with self._lock:
            try:
                return self._db.execute(f"DELETE FROM kept WHERE {where}", values).rowcount  # noqa: S608 - our own words
            except sqlite3.OperationalError as exc:  # to delete takes room in the write-ahead log
                raise _full(exc) from exc

    def compact(self) -> bool:
        """Write the file anew without what was deleted; False when a reader kept the write-ahead log."""
        with self._lock:
            return compact(self._db)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()


def _full(reason: Exception) -> StorageFull:
    return StorageFull(f"the local store's disk refused: {reason}", remedy="free the disk, or shorten retention_days")
