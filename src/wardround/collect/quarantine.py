"""What an edge could not take, with the reason: kept on its disk, so that it can be looked at and replayed once mapped.

The command line asks for a replay, the running edge carries it out (gateway.py) and deletes what went through.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import msgspec

from wardround.collect import sealed_rows
from wardround.collect.storage import Storage
from wardround.errors import StorageFull, Unreadable
from wardround.trust.at_rest import PLAIN, Place, Seal

ROWS_MAX = 20_000
PAYLOAD_MAX = 65_536
WHOLE, NOT_A_NUMBER = -1, -2  # parts that are no reading
REPLAY = "replay/"  # no boot of a device has a slash
_SCHEMA = """
CREATE TABLE IF NOT EXISTS aside (number INTEGER PRIMARY KEY, t_us INTEGER NOT NULL, device TEXT NOT NULL, boot TEXT NOT NULL,
    seq INTEGER NOT NULL, part INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, size INTEGER NOT NULL,
    payload BLOB NOT NULL, asked INTEGER NOT NULL DEFAULT 0, UNIQUE (device, boot, seq, part, reason, detail));
"""
_COLUMNS = "t_us, device, boot, seq, part, reason, detail, payload, size, number, asked, kept"
_Row = tuple[int, str, str, int, int, str, str, bytes, int, int, int, int | None]
_secret = msgspec.msgpack.Decoder(tuple[str, bytes])  # detail, which may quote a value, and payload


@dataclass(frozen=True, slots=True)
class SetAside:
    """One row. `payload` is the whole message, cut at PAYLOAD_MAX; `part` is the reading of it that was refused.

    WHOLE: nothing of the message was taken. NOT_A_NUMBER: a part that no mapping can make a reading of.
    """

    t_us: int
    device: str
    boot: str
    seq: int
    part: int
    reason: str
    detail: str
    payload: bytes
    size: int = 0  # of the message; 0: as long as `payload`
    number: int = 0
    asked: bool = False

    @property
    def can_replay(self) -> bool:
        """Whether there is enough of it to be read again."""
        return self.part != NOT_A_NUMBER and len(self.payload) >= self.size

    @property
    def mark(self) -> str:
        """Names this part of this message for ever: a replay under it happens once."""
        head = f"{self.device}\0{self.boot}\0{self.seq}\0{self.part}\0".encode()
        return REPLAY + hashlib.sha256(head + self.payload).hexdigest()[:24]


class Quarantine(sealed_rows.SealableFile):
    """Rows beyond ROWS_MAX push out the oldest. Safe to use from several threads, and from several processes."""

    def __init__(self, storage: Storage, seal: Seal = PLAIN, owner: Callable[[str], str] = lambda _device: "") -> None:
        """`owner(device)` is the subject under whose key its messages are sealed; empty: nobody's."""
        self._lock, self._seal, self._owner = threading.Lock(), seal, owner
        self._db = storage.connect("set-aside")
        self._db.executescript(_SCHEMA + sealed_rows.SCHEMA)
        if "kept" not in {row[1] for row in self._db.execute("PRAGMA table_info(aside)")}:
            self._db.execute("ALTER TABLE aside ADD COLUMN kept INTEGER")  # bytes of a sealed payload; none: it is not sealed

    def put(self, rows: Sequence[SetAside]) -> None:
        """Keep rows, on the disk when this returns; the same one again is there once, and no longer waits for a replay.

        Raises:
            StorageFull: the disk refused; none of them was kept.
        """
        if not rows:
            return
        values = [
            (row.t_us, row.device, row.boot, row.seq, row.part, row.reason, row.size or len(row.payload), *self._sealed(row))
            for row in rows
        ]
        with self._lock:
            try:
                with self._db:
                    self._db.execute("BEGIN IMMEDIATE")
                    self._db.executemany(
                        "INSERT INTO aside (t_us, device, boot, seq, part, reason, size, detail, payload, kept)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                        " ON CONFLICT (device, boot, seq, part, reason, detail) DO UPDATE SET asked = 0",
                        values,
                    )
                    self._db.execute("DELETE FROM aside WHERE number <= (SELECT max(number) FROM aside) - ?", (ROWS_MAX,))
            except sqlite3.OperationalError as exc:
                raise StorageFull(f"the disk refused what is set aside: {exc}", remedy="free the edge's disk") from exc

    def rows(self, limit: int = 1_000, *, reason: str = "") -> list[SetAside]:
        """The newest first, of one reason or of all."""
        query = f"SELECT {_COLUMNS} FROM aside WHERE ? IN ('', reason) ORDER BY number DESC LIMIT ?"  # noqa: S608 - our own names
        with self._lock:
            return [self._opened(row) for row in self._db.execute(query, (reason, limit))]

    def get(self, number: int) -> SetAside | None:
        """One row by its number."""
        with self._lock:
            found = self._db.execute(f"SELECT {_COLUMNS} FROM aside WHERE number = ?", (number,)).fetchone()  # noqa: S608
        return None if found is None else self._opened(found)

    def counts(self) -> dict[str, int]:
        """How many rows for each reason."""
        with self._lock:
            return dict(self._db.execute("SELECT reason, count(*) FROM aside GROUP BY reason"))

    def ask(self, *, reason: str = "", number: int = 0) -> int:
        """Have rows replayed by the running edge: one, those of a reason, or all. How many were asked for now."""
        query = (
            "UPDATE aside SET asked = 1 WHERE ? IN ('', reason) AND ? IN (0, number) AND part != ?"
            " AND coalesce(kept, length(payload)) >= size"
        )
        with self._lock:
            return self._db.execute(query, (reason, number, NOT_A_NUMBER)).rowcount

    def asked(self, limit: int = 100) -> list[SetAside]:
        """Rows to be replayed, the oldest first."""
        query = f"SELECT {_COLUMNS} FROM aside WHERE asked = 1 ORDER BY number LIMIT ?"  # noqa: S608 - our own names
        with self._lock:
            rows = [self._opened(row) for row in self._db.execute(query, (limit,)).fetchall()]
            shut = [(row.number,) for row in rows if not row.asked]
            self._db.executemany("UPDATE aside SET asked = 0 WHERE number = ?", shut)
        return [row for row in rows if row.asked]

    def settle(self, row: SetAside) -> None:
        """A replay was carried out: the row goes, unless it was refused again as before."""
        with self._lock:
            self._db.execute("DELETE FROM aside WHERE number = ? AND asked = 1", (row.number,))

    def forget_devices(self, devices: Collection[str]) -> int:
        """Remove what these devices sent; how many rows."""
        with self._lock:
            return sum(self._db.execute("DELETE FROM aside WHERE device = ?", (device,)).rowcount for device in devices)

    def seal_some(self, after: int) -> int | None:
        """Seal some of the rows from before the home was encrypted, in one transaction; where to go on, None: nowhere."""
        query = f"SELECT {_COLUMNS} FROM aside WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608 - our own names
        with self._lock:
            rows = self._db.execute(query, (after, sealed_rows.STEP_ROWS)).fetchall()
            if not rows:
                return None
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for _, device, boot, seq, part, reason, detail, payload, _, number, _, kept in rows:
                    if kept is None:
                        sealed = self._sealed(SetAside(0, device, boot, seq, part, reason, detail, payload))
                        self._db.execute(
                            "UPDATE OR REPLACE aside SET detail = ?, payload = ?, kept = ? WHERE number = ?", (*sealed, number)
                        )
            return int(rows[-1][9])

    def _sealed(self, row: SetAside) -> tuple[str, bytes, int | None]:
        """Detail, payload and its length, as they are kept."""
        cut = row.payload[:PAYLOAD_MAX]
        if not self._seal.on or (not cut and row.detail == row.reason):  # nothing of a patient is in it, who may be an erased one
            return row.detail, cut, None
        subject = self._owner(row.device)
        digest = self._seal.digest(subject, row.detail)
        place = _place(row.device, row.boot, row.seq, row.part, row.reason, digest)
        return digest, self._seal.seal(subject, place, msgspec.msgpack.encode((row.detail, cut))), len(cut)

    def _opened(self, row: _Row) -> SetAside:
        t_us, device, boot, seq, part, reason, detail, payload, size, number, asked, kept = row
        if kept is not None:
            try:
                place = _place(device, boot, seq, part, reason, detail)
                detail, payload = _secret.decode(self._seal.unseal(place, payload, plain=False))
            except Unreadable as error:  # it stays as it is, and is not read again: there is nothing of it
                detail, payload, size, asked = str(error), b"", max(size, 1), 0
        return SetAside(t_us, device, boot, seq, part, reason, detail, payload, size, number, bool(asked))


def _place(device: str, boot: str, seq: int, part: int, reason: str, digest: str) -> Place:
    return ("set-aside", device, boot, seq, part, reason, digest)
