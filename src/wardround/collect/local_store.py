"""What an edge may train on, and nowhere else: observations with consent `raw` or `local`, with a retention.

An insert is idempotent by (device, boot, seq, index), so that a message repeated after a crash is here once.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import structlog

from wardround.collect import sealed_rows
from wardround.collect.storage import Storage
from wardround.errors import StorageFull, Unreadable
from wardround.records import Observation, decode_observation, encode_observation
from wardround.trust.at_rest import PLAIN, Place, Seal

log = structlog.get_logger(__name__)
BATCH = 10_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (number INTEGER PRIMARY KEY, device TEXT NOT NULL, boot TEXT NOT NULL, seq INTEGER NOT NULL,
    idx INTEGER NOT NULL, subject TEXT NOT NULL, code TEXT NOT NULL, t0_us INTEGER NOT NULL, data BLOB NOT NULL,
    taken_us INTEGER NOT NULL DEFAULT 0, UNIQUE (device, boot, seq, idx));
CREATE INDEX IF NOT EXISTS kept_by_code ON kept (code, t0_us);
CREATE INDEX IF NOT EXISTS kept_by_time ON kept (t0_us);
CREATE INDEX IF NOT EXISTS kept_by_subject ON kept (subject, code);
"""

_PLACED = "number, device, boot, seq, idx, data"


class LocalStore(sealed_rows.SealableFile):
    """Safe to use from several threads."""

    def __init__(self, storage: Storage, seal: Seal = PLAIN) -> None:
        self._lock, self._seal = threading.RLock(), seal
        self._db = storage.connect("local")
        self._db.executescript(_SCHEMA + sealed_rows.SCHEMA)
        self._plain = not sealed_rows.is_noted(self._db)  # whether rows from before the home was encrypted may be here
        if "taken_us" not in {row[1] for row in self._db.execute("PRAGMA table_info(kept)")}:
            self._db.execute("ALTER TABLE kept ADD COLUMN taken_us INTEGER NOT NULL DEFAULT 0")
        ends = f"SELECT * FROM (SELECT {_PLACED} FROM kept ORDER BY number {{}} LIMIT 1)"  # noqa: S608 - our own words
        rows = self._db.execute(f"{ends.format('')} UNION {ends.format('DESC')}").fetchall()
        sealed_rows.check_first(self._seal, [(_place(*row[1:-1]), row[-1]) for row in rows], "the local store")

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
                self._seal.seal(o.subject, _place_of(o), encode_observation(o)),
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
        query = f"SELECT {_PLACED} FROM kept WHERE code IN ({places}) AND t0_us >= ? AND number > ? ORDER BY number LIMIT ?"  # noqa: S608
        with self._lock:
            rows = self._db.execute(query, (*codes, since_us, after, limit)).fetchall()
        return list(self._opened(rows))

    def stream(self, codes: Collection[str], *, since_us: int = 0) -> Iterator[Observation]:
        """All observations of these codes, batch by batch: however many there are, few are in memory."""
        places, after = ",".join("?" * len(codes)), 0
        query = f"SELECT {_PLACED} FROM kept WHERE code IN ({places}) AND t0_us >= ? AND number > ? ORDER BY number LIMIT ?"  # noqa: S608
        while True:
            with self._lock:
                rows = self._db.execute(query, (*codes, since_us, after, BATCH)).fetchall()
            yield from self._opened(rows)
            if len(rows) < BATCH:
                return
            after = rows[-1][0]

    def tail(self, codes: Collection[str], *, after: int, since_us: int = 0, limit: int = BATCH) -> tuple[list[Observation], int]:
        """Observations of these codes kept after the `version` that was read last, and the version that is read now.

        What was taken before `since_us` is passed over. A version beyond the newest is no error: rows were removed since.
        """
        places = ",".join("?" * len(codes))
        query = (
            f"SELECT {_PLACED} FROM kept WHERE number > ? AND number <= ? AND +code IN ({places})"  # noqa: S608
            " AND taken_us >= ? ORDER BY number LIMIT ?"
        )
        with self._lock:
            newest = self.version()
            rows = self._db.execute(query, (after, newest, *codes, since_us, limit)).fetchall() if after < newest else []
        read = rows[-1][0] if len(rows) == limit else newest
        return list(self._opened(rows)), int(read)

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

    def seal_some(self, after: int) -> int | None:
        """Seal some of the rows from before the home was encrypted, in one transaction; where to go on, None: nowhere.

        Raises:
            StorageFull: the disk has no room for that; they stay as they are.
        """
        query = f"SELECT subject, {_PLACED} FROM kept WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608 - our own words
        with self._lock:
            rows = self._db.execute(query, (after, sealed_rows.STEP_ROWS)).fetchall()
            if not rows:
                return None
            try:
                self._db.execute("BEGIN IMMEDIATE")
                for subject, number, device, boot, seq, idx, data in rows:
                    if sealed_rows.is_plain(data):
                        sealed = self._seal.seal(subject, _place(device, boot, seq, idx), data)
                        self._db.execute("UPDATE kept SET data = ? WHERE number = ?", (sealed, number))
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as exc:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise _full(exc) from exc
            return int(rows[-1][1])

    def _opened(self, rows: Iterable[tuple[int, str, str, int, int, bytes]]) -> Iterator[Observation]:
        """What can be read; a row that does not open stays where it is, and is said."""
        for number, device, boot, seq, idx, data in rows:
            try:
                opened = self._seal.unseal(_place(device, boot, seq, idx), data, plain=self._plain)
            except Unreadable as error:
                if error.reason != sealed_rows.DESTROYED:
                    log.error(
                        "a row that is encrypted does not open, and is passed over", place=f"local {number}", reason=error.reason
                    )
                continue
            yield decode_observation(opened)

    def _delete(self, where: str, *values: str | int) -> int:
        with self._lock:
            try:
                return self._db.execute(f"DELETE FROM kept WHERE {where}", values).rowcount  # noqa: S608 - our own words
            except sqlite3.OperationalError as exc:  # to delete takes room in the write-ahead log
                raise _full(exc) from exc


def _place(device: str, boot: str, seq: int, idx: int) -> Place:
    return ("local", device, boot, seq, idx)


def _place_of(o: Observation) -> Place:
    return _place(o.device, o.device_boot, o.device_seq, o.device_index)


def _full(reason: Exception) -> StorageFull:
    return StorageFull(f"the local store's disk refused: {reason}", remedy="free the disk, or shorten retention_days")
