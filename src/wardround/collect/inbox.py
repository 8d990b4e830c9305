"""The hub's durable queue towards the lake. An edge's observation is acknowledged once it is here.

A batch stays a batch: one row for a run of sequences of one (edge, boot), in which a place may be empty. `watermarks` outlive
the rows, so that a repeat of what is long in the lake is recognised.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from wardround.collect import sealed_batches, sealed_rows
from wardround.collect.storage import Storage
from wardround.errors import StorageFull
from wardround.records import Observation, decode_joined, decode_observation
from wardround.trust.at_rest import PLAIN, Seal

TAKE_OVER_ROWS = 2_000
DECODE_ROWS = 1_000  # as many as the processor's cache holds: twice as fast as a batch at once
_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (number INTEGER PRIMARY KEY AUTOINCREMENT, edge TEXT NOT NULL, boot TEXT NOT NULL,
    first_seq INTEGER NOT NULL, t_hub_us INTEGER NOT NULL, n_rows INTEGER NOT NULL, sizes BLOB NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS watermarks (edge TEXT, boot TEXT, seq INTEGER NOT NULL, PRIMARY KEY (edge, boot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gaps (edge TEXT, boot TEXT, first_seq INTEGER, last_seq INTEGER, reason TEXT, t_hub_us INTEGER,
    PRIMARY KEY (edge, boot, first_seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS named (key BLOB PRIMARY KEY, owner BLOB NOT NULL, content BLOB NOT NULL, t0_us INTEGER NOT NULL,
    seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS named_owner ON named (owner);
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_ONE = 4  # bytes of `sizes`
_COLUMNS = "number, edge, boot, first_seq, t_hub_us, n_rows, sizes, data"
_PUT = "INSERT INTO batches (edge, boot, first_seq, t_hub_us, n_rows, sizes, data) VALUES (?, ?, ?, ?, ?, ?, ?)"


class Named(NamedTuple):
    """What a sender without sequences calls an observation, and where it went: how a repeat is known, also long after.

    `key` and `owner` (the subject) are digests; `content` tells whether it is the same observation that comes again.
    """

    key: bytes
    owner: bytes
    content: bytes
    t0_us: int
    seq: int


class InboxRow(NamedTuple):
    """One observation on its way to the lake."""

    edge: str
    boot: str
    seq: int
    t_hub_us: int
    data: bytes


class InboxBatch(NamedTuple):
    """Observations of consecutive sequences on their way to the lake; `number` grows in the order of arrival.

    `n_rows` of them are there. `sizes` holds a little-endian uint32 a sequence: the bytes of its observation in `data`, or 0.
    """

    number: int
    edge: str
    boot: str
    first_seq: int
    t_hub_us: int
    n_rows: int
    sizes: bytes
    data: bytes

    def rows(self) -> list[InboxRow]:
        """One by one, as they were sent."""
        sizes = np.frombuffer(self.sizes, "<u4")
        ends = np.cumsum(sizes, dtype=np.int64).tolist()
        there = zip(np.flatnonzero(sizes).tolist(), sizes[sizes > 0].tolist(), strict=True)
        return [
            InboxRow(self.edge, self.boot, self.first_seq + k, self.t_hub_us, self.data[ends[k] - size : ends[k]])
            for k, size in there
        ]

    def observations(self) -> Iterator[tuple[Observation, str, int, int]]:
        """Observation, boot, sequence and time of arrival at the hub, of each."""
        if len(self.sizes) == _ONE:  # as an edge sends what is measured now: arrays would be most of the work
            yield decode_observation(self.data), self.boot, self.first_seq, self.t_hub_us
            return
        sizes = np.frombuffer(self.sizes, "<u4")
        places = np.flatnonzero(sizes)
        sequences = (self.first_seq + places).tolist()
        ends = np.concatenate([[0], np.cumsum(sizes[places], dtype=np.int64)]).tolist()
        data = memoryview(self.data)
        for first, last in pairwise([*range(0, len(sequences), DECODE_ROWS), len(sequences)]):
            decoded = decode_joined(data[ends[first] : ends[last]], last - first)
            for observation, seq in zip(decoded, sequences[first:last], strict=True):
                yield observation, self.boot, seq, self.t_hub_us


@dataclass(frozen=True, slots=True)
class Gap:
    """Sequences that an edge says will never come, and why."""

    first_seq: int
    last_seq: int
    reason: str


class Inbox(sealed_rows.SealableFile):
    """Safe to use from several threads."""

    def __init__(self, storage: Storage, seal: Seal = PLAIN) -> None:
        self._lock, self._seal = threading.RLock(), seal
        self._db = storage.connect("inbox")
        self._db.executescript(_SCHEMA + sealed_rows.SCHEMA)
        self._plain = not sealed_rows.is_noted(self._db)  # whether batches from before the home was encrypted may be here
        self._db.execute("INSERT OR IGNORE INTO facts VALUES ('inbox_id', ?)", (secrets.token_hex(8),))
        self.inbox_id = str(self._db.execute("SELECT value FROM facts WHERE key = 'inbox_id'").fetchone()[0])
        self.restored = bool(self._db.execute("SELECT 1 FROM facts WHERE key = 'restored'").fetchone())  # from a backup
        self._take_over_first_form()
        for number in self._db.execute("SELECT min(number) FROM batches UNION SELECT max(number) FROM batches").fetchall():
            row = self._db.execute(f"SELECT {_COLUMNS} FROM batches WHERE number = ?", number).fetchone()  # noqa: S608
            if row is not None and sealed_batches.is_sealed(row[-1]):
                batch = InboxBatch._make(row)
                sealed_rows.check_first(seal, sealed_batches.places(batch, batch.data), "the inbox")

    def watermark(self, edge: str, boot: str) -> int:
        """Everything of this edge and boot up to here has arrived."""
        with self._lock:
            row = self._db.execute("SELECT seq FROM watermarks WHERE edge = ? AND boot = ?", (edge, boot)).fetchone()
        return int(row[0]) if row else 0

    def put(
        self,
        edge: str,
        boot: str,
        first_seq: int,
        rows: Sequence[bytes],
        gaps: Sequence[Gap] = (),
        *,
        after: int,
        upto: int,
        now_us: int = 0,
        subjects: Sequence[str] | None = None,
        named: Sequence[Named] = (),
    ) -> bool:
        """Keep rows and move the watermark from `after` to `upto`, in one transaction, on the disk when this returns.

        Args:
            first_seq: sequence of rows[0]; they are consecutive, and empty where there is nothing to keep.
            subjects: of the rows that are not empty, in their order; where it is not given it is read out of them.
            named: what `known` finds from now on.

        Returns:
            False when the watermark is not at `after`: somebody else has brought something meanwhile, and nothing was kept.

        Raises:
            StorageFull: the disk refused; nothing of it was kept.
        """
        sizes = np.fromiter(map(len, rows), "<u4", len(rows))
        data = b"".join(rows) if not self._seal.on else sealed_batches.seal(self._seal, (edge, boot, first_seq), rows, subjects)
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                if self.watermark(edge, boot) != after:
                    self._db.execute("ROLLBACK")
                    return False
                if sizes.any():
                    there = int(np.count_nonzero(sizes))
                    self._db.execute(_PUT, (edge, boot, first_seq, now_us, there, sizes.tobytes(), data))
                self._db.executemany(
                    "INSERT OR IGNORE INTO gaps VALUES (?, ?, ?, ?, ?, ?)",
                    [(edge, boot, g.first_seq, g.last_seq, g.reason, now_us) for g in gaps],
                )
                self._db.execute("INSERT OR REPLACE INTO watermarks VALUES (?, ?, ?)", (edge, boot, upto))
                self._db.executemany("INSERT INTO named VALUES (?, ?, ?, ?, ?)", named)
                self._db.execute("COMMIT")
            except BaseException as exc:  # left open, what others write would be part of it, and undone with it
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if not isinstance(exc, sqlite3.OperationalError):
                    raise
                raise StorageFull(
                    f"the inbox's disk refused: {exc}", remedy="free the hub's disk; edges keep their data"
                ) from exc
        return True

    def digest(self, *parts: str) -> bytes:
        """Sixteen bytes that stand for some words, in this inbox alone."""
        return hashlib.sha256("\0".join((self.inbox_id, *parts)).encode()).digest()[:16]

    def known(self, keys: Iterable[bytes]) -> dict[bytes, Named]:
        """What came under these keys before."""
        query = "SELECT key, owner, content, t0_us, seq FROM named WHERE key = ?"
        with self._lock:
            rows = (self._db.execute(query, (key,)).fetchone() for key in keys)
            return {row[0]: Named._make(row) for row in rows if row is not None}

    def gaps(self) -> list[tuple[str, str, Gap]]:
        """What edges say will never come, with edge and boot."""
        query = "SELECT edge, boot, first_seq, last_seq, reason FROM gaps ORDER BY edge, boot, first_seq"
        with self._lock:
            return [(edge, boot, Gap(*gap)) for edge, boot, *gap in self._db.execute(query)]

    def pending(self, rows_max: int, bytes_max: int = 1 << 62) -> list[InboxBatch]:
        """The oldest batches that are not in the lake yet, up to either limit, but at least one if one waits.

        Raises:
            KeyRefused: one is sealed under a key that was never here; it stays.
        """
        look = "SELECT number, n_rows, length(data) FROM batches ORDER BY number LIMIT ?"
        query = f"SELECT {_COLUMNS} FROM batches WHERE number <= ? ORDER BY number"  # noqa: S608 - our own names
        with self._lock:
            last = rows = size = 0
            opened: list[InboxBatch] = []
            for number, its_rows, its_bytes in self._db.execute(look, (max(1, rows_max),)).fetchall():  # none is without a row
                rows, size = rows + its_rows, size + its_bytes
                if last and (rows > rows_max or size > bytes_max):
                    break
                last = number
            for row in self._db.execute(query, (last,)).fetchall():
                batch = InboxBatch._make(row)
                opened += [self._opened(batch)] if self._is_sealed(batch) else [batch]
            return [batch for batch in opened if batch.n_rows] or (self.pending(rows_max, bytes_max) if opened else [])

    def retire(self, upto_number: int) -> None:
        """These batches are in the lake: forget them."""
        with self._lock:
            self._db.execute("DELETE FROM batches WHERE number <= ?", (upto_number,))

    def forget(self, subject: str) -> int:
        """Remove a subject's observations; how many. They have been acknowledged, and nobody sends them again."""
        wanted, count, after = subject.encode(), 0, 0
        query = f"SELECT {_COLUMNS} FROM batches WHERE number > ? ORDER BY number LIMIT 1"  # noqa: S608
        with self._lock:
            self._db.execute("DELETE FROM named WHERE owner = ?", (self.digest(subject),))
        while True:
            with self._lock:
                found = self._db.execute(query, (after,)).fetchone()
                if found is None:
                    return count
                batch = InboxBatch._make(found)
                if self._is_sealed(batch):  # its key was destroyed before
                    count += batch.n_rows - self._opened(batch).n_rows
                elif wanted in batch.data:  # perhaps across two rows, which then both stay
                    count += self._rewrite(batch, {row.seq: row.data for row in batch.rows() if wanted not in row.data})
            after = batch.number

    def waiting(self) -> int:
        """How many observations are not in the lake yet."""
        with self._lock:
            return int(self._db.execute("SELECT coalesce(sum(n_rows), 0) FROM batches").fetchone()[0])

    def seal_some(self, after: int) -> int | None:
        """Seal a batch from before the home was encrypted, in one transaction; where to go on, None: nowhere.

        Raises:
            StorageFull: the disk has no room for that; it stays as it is.
        """
        query = f"SELECT {_COLUMNS} FROM batches WHERE number > ? ORDER BY number LIMIT 1"  # noqa: S608 - our own names
        with self._lock:
            found = self._db.execute(query, (after,)).fetchone()
            if found is None:
                return None
            batch = InboxBatch._make(found)
            if sealed_rows.is_plain(batch.data):
                kept = {row.seq: row.data for row in batch.rows()}
                rows = [kept.get(batch.first_seq + k, b"") for k in range(len(batch.sizes) // _ONE)]
                data = sealed_batches.seal(self._seal, (batch.edge, batch.boot, batch.first_seq), rows, None)
                try:
                    self._db.execute("UPDATE batches SET data = ? WHERE number = ?", (data, batch.number))
                except sqlite3.OperationalError as exc:
                    raise StorageFull(f"the inbox's disk refused: {exc}", remedy="free the hub's disk") from exc
            return batch.number

    # -- how

    def _is_sealed(self, batch: InboxBatch) -> bool:
        """Whether it is, or must be."""
        return not self._plain or sealed_batches.is_sealed(batch.data)

    def _opened(self, batch: InboxBatch) -> InboxBatch:
        """A batch that can be read. What of it does not open is put apart and leaves it; of an erased subject, it goes."""
        rows, kept, shut = sealed_batches.unseal(self._seal, batch, batch.data)
        there = sum(1 for row in rows if row)
        sizes = np.fromiter(map(len, rows), "<u4", len(rows)).tobytes()
        if shut:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                sealed_rows.put_apart(self._db, [(f"inbox {batch.edge} {batch.boot} {batch.first_seq}", *one) for one in shut])
                if there:
                    query = "UPDATE batches SET n_rows = ?, sizes = ?, data = ? WHERE number = ?"
                    self._db.execute(query, (there, sizes, kept, batch.number))
                else:
                    self._db.execute("DELETE FROM batches WHERE number = ?", (batch.number,))
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        return batch._replace(n_rows=there, sizes=sizes, data=b"".join(rows))

    def _rewrite(self, batch: InboxBatch, kept: dict[int, bytes]) -> int:
        """Leave only some rows of a batch, under its number; how many are gone."""
        if not kept:
            self._db.execute("DELETE FROM batches WHERE number = ?", (batch.number,))
            return batch.n_rows
        rows = [kept.get(batch.first_seq + k, b"") for k in range(len(batch.sizes) // 4)]
        sizes = np.fromiter(map(len, rows), "<u4", len(rows)).tobytes()
        query = "UPDATE batches SET n_rows = ?, sizes = ?, data = ? WHERE number = ?"
        self._db.execute(query, (len(kept), sizes, b"".join(rows), batch.number))
        return batch.n_rows - len(kept)

    def _take_over_first_form(self) -> None:
        """An inbox from when each observation was a row. Numbers go on from there: the lake knows the last it has had."""
        asked = "SELECT 1 FROM sqlite_master WHERE name = 'arrived'"
        if self._db.execute(asked).fetchone() is None:
            return
        self._db.execute("BEGIN IMMEDIATE")
        if self._db.execute(asked).fetchone() is None:  # another process was here
            self._db.execute("ROLLBACK")
            return
        last = self._db.execute(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name IN ('arrived', 'batches')"
        ).fetchone()
        cursor = self._db.execute("SELECT number, edge, boot, seq, t_hub_us, data FROM arrived ORDER BY number")
        while rows := cursor.fetchmany(TAKE_OVER_ROWS):
            self._db.executemany(
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?, 1, ?, ?)",
                [(*place, len(data).to_bytes(4, "little"), data) for *place, data in rows],
            )
        self._db.execute("DROP TABLE arrived")
        self._db.execute("DELETE FROM sqlite_sequence WHERE name = 'batches'")
        self._db.execute("INSERT INTO sqlite_sequence VALUES ('batches', ?)", last)
        self._db.execute("COMMIT")
