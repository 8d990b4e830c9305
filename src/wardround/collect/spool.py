"""The edge's durable queue towards the hub: what is receipted to a device is here until the hub has it.

SQLite, WAL, `synchronous=FULL`, one writer. Observations and the marks of which device messages are durable are one
transaction. Sequences are consecutive from 1 within a `boot`, one life of this spool; an acknowledged row is deleted, its
sequence never used again. At the byte cap or the disk reserve the spool refuses: a device keeps what was not receipted. When
others have filled the disk to its last byte, a ballast file is given up so that receipts can still be noted and rows forgotten.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from wardround.collect.storage import Storage
from wardround.errors import StorageFull
from wardround.records import BootId
from wardround.settings import SpoolSettings

FORGET_ROWS = 200  # in one transaction, when the disk is full
AHEAD_MAX = 256  # messages of one device that may arrive before an earlier one


@dataclass(frozen=True, slots=True)
class DeviceMark:
    """Which messages of one life of a device are durable: all up to `contiguous`, and those `ahead` of it."""

    device: str
    boot: str
    contiguous: int = 0
    ahead: frozenset[int] = field(default_factory=frozenset)

    def has(self, seq: int) -> bool:
        """Whether this message is durable already."""
        return seq <= self.contiguous or seq in self.ahead

    def with_seq(self, seq: int) -> DeviceMark:
        """The mark once `seq` is durable too."""
        ahead, contiguous = set(self.ahead) | {seq}, self.contiguous
        while contiguous + 1 in ahead:
            contiguous += 1
            ahead.discard(contiguous)
        return DeviceMark(self.device, self.boot, contiguous, frozenset(s for s in ahead if s > contiguous))


@dataclass(frozen=True, slots=True)
class SpoolRow:
    """One observation that waits; `data` is None where its bytes no longer match their checksum."""

    seq: int
    data: bytes | None


@dataclass(frozen=True, slots=True)
class SpoolFacts:
    """What waits."""

    observations: int
    bytes: int
    acknowledged_seq: int
    last_seq: int


_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (seq INTEGER PRIMARY KEY, crc INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS marks (device TEXT, boot TEXT, contiguous INTEGER NOT NULL, ahead TEXT NOT NULL,
    PRIMARY KEY (device, boot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class Spool:
    """Safe to use from several threads; each call is one transaction."""

    def __init__(self, storage: Storage, settings: SpoolSettings) -> None:
        self._storage, self._settings = storage, settings
        self._lock = threading.RLock()
        storage.ballast(settings.ballast_bytes)
        self._db = storage.connect("spool")
        self._db.executescript(_SCHEMA)
        self._db.execute("INSERT OR IGNORE INTO facts VALUES ('boot', ?)", (secrets.token_hex(8),))
        self._db.execute("INSERT OR IGNORE INTO facts VALUES ('last_seq', '0'), ('acknowledged_seq', '0')")
        facts = dict(self._db.execute("SELECT key, value FROM facts"))
        self.boot = BootId(facts["boot"])
        self._last, self._acknowledged = int(facts["last_seq"]), int(facts["acknowledged_seq"])
        count, size = self._db.execute("SELECT count(*), coalesce(sum(length(data)), 0) FROM waiting").fetchone()
        self._count, self._bytes = int(count), int(size)
        self._marks = {
            (device, boot): DeviceMark(device, boot, contiguous, frozenset(map(int, ahead.split(","))) if ahead else frozenset())
            for device, boot, contiguous, ahead in self._db.execute("SELECT device, boot, contiguous, ahead FROM marks")
        }

    def mark(self, device: str, boot: str) -> DeviceMark:
        """What is durable of one life of a device."""
        return self._marks.get((device, boot)) or DeviceMark(device, boot)

    def commit(self, observations: Sequence[bytes], marks: Sequence[DeviceMark]) -> None:
        """Keep observations and move marks, in one transaction, on the disk when this returns.

        Raises:
            StorageFull: the byte cap, the disk reserve or the disk is reached; nothing of it was kept.
        """
        size = sum(map(len, observations))
        with self._lock:
            self._check_room(size)
            first = self._last + 1
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(
                    "INSERT INTO waiting VALUES (?, ?, ?)",
                    [(first + i, zlib.crc32(data), data) for i, data in enumerate(observations)],
                )
                self._db.executemany(
                    "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)",
                    [(m.device, m.boot, m.contiguous, ",".join(map(str, sorted(m.ahead)))) for m in marks],
                )
                last = self._last + len(observations)
                self._db.execute("UPDATE facts SET value = ? WHERE key = 'last_seq'", (str(last),))
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as exc:
                self._roll_back()
                raise _full(f"the spool's disk refused {size} bytes: {exc}") from exc
            self._last = last
            self._count += len(observations)
            self._bytes += size
            self._marks.update({(m.device, m.boot): m for m in marks})

    def read_after(self, seq: int, *, rows_max: int = 500, bytes_max: int = 1_000_000) -> list[SpoolRow]:
        """The next rows after `seq`, in order, up to either limit, but at least one if one waits."""
        rows: list[SpoolRow] = []
        size = 0
        with self._lock:
            query = "SELECT seq, crc, data FROM waiting WHERE seq > ? ORDER BY seq LIMIT ?"
            for number, crc, data in self._db.execute(query, (seq, rows_max)):
                size += len(data)
                if rows and size > bytes_max:
                    break
                rows.append(SpoolRow(number, data if zlib.crc32(data) == crc else None))
        return rows

    def acknowledge(self, seq: int) -> None:
        """The hub has everything up to `seq`: forget it. An older acknowledgement changes nothing."""
        with self._lock:
            if seq <= self._acknowledged:
                return
            if seq > self._last:
                raise ValueError(f"acknowledged {seq}, but the last sequence is {self._last}")
            try:
                self._forget(seq)
            except sqlite3.OperationalError:  # even to delete takes room: give up the ballast, and go in small steps
                self._roll_back()
                self._storage.ballast(0)
                while self._acknowledged < seq:
                    self._forget(min(seq, self._acknowledged + FORGET_ROWS))
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            if self._count == 0:
                self._shrink()
                self._storage.ballast(self._settings.ballast_bytes)

    def facts(self) -> SpoolFacts:
        """What waits."""
        return SpoolFacts(self._count, self._bytes, self._acknowledged, self._last)

    def close(self) -> None:
        """Close the database; what is not committed is gone."""
        with self._lock:
            self._db.close()

    def _forget(self, seq: int) -> None:
        """One transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        count, size = self._db.execute(
            "SELECT count(*), coalesce(sum(length(data)), 0) FROM waiting WHERE seq <= ?", (seq,)
        ).fetchone()
        self._db.execute("DELETE FROM waiting WHERE seq <= ?", (seq,))
        self._db.execute("UPDATE facts SET value = ? WHERE key = 'acknowledged_seq'", (str(seq),))
        self._db.execute("COMMIT")
        self._acknowledged = seq
        self._count -= count
        self._bytes -= size

    def _check_room(self, size: int) -> None:
        if self._bytes + size > self._settings.bytes_max:
            raise _full(f"the spool holds {self._bytes} bytes, its cap is {self._settings.bytes_max}")
        if self._storage.free_bytes() - size < self._settings.disk_reserve_bytes:
            raise _full(f"less than {self._settings.disk_reserve_bytes} bytes are free on the spool's disk")

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _shrink(self) -> None:
        """Give the disk back after an outage: an empty file that has grown is written anew."""
        pages, page = (self._db.execute(f"PRAGMA {p}").fetchone()[0] for p in ("page_count", "page_size"))
        if pages * page > self._settings.file_bytes_max:
            self._db.execute("VACUUM")


def _full(message: str) -> StorageFull:
    return StorageFull(message, remedy="reconnect the hub or free the disk; devices keep what was not receipted, nothing is lost")
