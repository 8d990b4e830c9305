"""What an edge could not take, with the reason: kept on its disk, so that it can be looked at and replayed once mapped.

The command line asks for a replay, the running edge carries it out (gateway.py) and deletes what went through.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection
from dataclasses import dataclass

from wardround.collect.storage import Storage
from wardround.trust.compaction import compact

ROWS_MAX = 20_000
PAYLOAD_MAX = 65_536
WHOLE, NOT_A_NUMBER = -1, -2  # parts that are no reading
REPLAY = "replay/"  # no boot of a device has a slash
_SCHEMA = """
CREATE TABLE IF NOT EXISTS aside (number INTEGER PRIMARY KEY, t_us INTEGER NOT NULL, device TEXT NOT NULL, boot TEXT NOT NULL,
    seq INTEGER NOT NULL, part INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, size INTEGER NOT NULL,
    payload BLOB NOT NULL, asked INTEGER NOT NULL DEFAULT 0, UNIQUE (device, boot, seq, part, reason, detail));
"""
_COLUMNS = "t_us, device, boot, seq, part, reason, detail, payload, size, number, asked"


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


class Quarantine:
    """Rows beyond ROWS_MAX push out the oldest. Safe to use from several threads, and from several processes."""

    def __init__(self, storage: Storage) -> None:
        self._lock = threading.Lock()
        self._db = storage.connect("set-aside")
        self._db.executescript(_SCHEMA)

    def put(self, row: SetAside) -> None:
        """Keep a row; the same one again is there once, and no longer waits for a replay."""
        values = (row.t_us, row.device, row.boot, row.seq, row.part, row.reason, row.detail)
        with self._lock:
            self._db.execute(
                "INSERT INTO aside (t_us, device, boot, seq, part, reason, detail, payload, size)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (device, boot, seq, part, reason, detail) DO UPDATE SET asked = 0",
                (*values, row.payload[:PAYLOAD_MAX], row.size or len(row.payload)),
            )
            self._db.execute("DELETE FROM aside WHERE number <= (SELECT max(number) FROM aside) - ?", (ROWS_MAX,))

    def rows(self, limit: int = 1_000, *, reason: str = "") -> list[SetAside]:
        """The newest first, of one reason or of all."""
        query = f"SELECT {_COLUMNS} FROM aside WHERE ? IN ('', reason) ORDER BY number DESC LIMIT ?"  # noqa: S608 - our own names
        with self._lock:
            return [_row(row) for row in self._db.execute(query, (reason, limit))]

    def get(self, number: int) -> SetAside | None:
        """One row by its number."""
        with self._lock:
            found = self._db.execute(f"SELECT {_COLUMNS} FROM aside WHERE number = ?", (number,)).fetchone()  # noqa: S608
        return None if found is None else _row(found)

    def counts(self) -> dict[str, int]:
        """How many rows for each reason."""
        with self._lock:
            return dict(self._db.execute("SELECT reason, count(*) FROM aside GROUP BY reason"))

    def ask(self, *, reason: str = "", number: int = 0) -> int:
        """Have rows replayed by the running edge: one, those of a reason, or all. How many were asked for now."""
        query = (
            "UPDATE aside SET asked = 1 WHERE ? IN ('', reason) AND ? IN (0, number) AND part != ? AND length(payload) >= size"
        )
        with self._lock:
            return self._db.execute(query, (reason, number, NOT_A_NUMBER)).rowcount

    def asked(self, limit: int = 100) -> list[SetAside]:
        """Rows to be replayed, the oldest first."""
        query = f"SELECT {_COLUMNS} FROM aside WHERE asked = 1 ORDER BY number LIMIT ?"  # noqa: S608 - our own names
        with self._lock:
            return [_row(row) for row in self._db.execute(query, (limit,))]

    def settle(self, row: SetAside) -> None:
        """A replay was carried out: the row goes, unless it was refused again as before."""
        with self._lock:
            self._db.execute("DELETE FROM aside WHERE number = ? AND asked = 1", (row.number,))

    def forget_devices(self, devices: Collection[str]) -> int:
        """Remove what these devices sent; how many rows."""
        with self._lock:
            return sum(self._db.execute("DELETE FROM aside WHERE device = ?", (device,)).rowcount for device in devices)

    def compact(self) -> bool:
        """Write the file anew without what was deleted; False when a reader kept the write-ahead log."""
        with self._lock:
            return compact(self._db)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()


def _row(row: tuple[int, str, str, int, int, str, str, bytes, int, int, int]) -> SetAside:
    return SetAside(*row[:10], asked=bool(row[10]))
