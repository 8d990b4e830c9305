"""What an edge could not take, with the reason: kept on its disk, so that it can be looked at and replayed once mapped."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from wardround.collect.storage import Storage

ROWS_MAX = 20_000
PAYLOAD_MAX = 65_536
_SCHEMA = """
CREATE TABLE IF NOT EXISTS aside (number INTEGER PRIMARY KEY, t_us INTEGER NOT NULL, device TEXT NOT NULL, boot TEXT NOT NULL,
    seq INTEGER NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, payload BLOB NOT NULL,
    UNIQUE (device, boot, seq, reason, detail));
"""


@dataclass(frozen=True, slots=True)
class SetAside:
    """One row; `payload` is the message, cut at PAYLOAD_MAX."""

    t_us: int
    device: str
    boot: str
    seq: int
    reason: str
    detail: str
    payload: bytes


class Quarantine:
    """Rows beyond ROWS_MAX push out the oldest."""

    def __init__(self, storage: Storage) -> None:
        self._lock = threading.Lock()
        self._db = storage.connect("quarantine")
        self._db.executescript(_SCHEMA)

    def put(self, row: SetAside) -> None:
        """Keep a row; the same one again changes nothing."""
        with self._lock:
            self._db.execute(
                "INSERT OR IGNORE INTO aside (t_us, device, boot, seq, reason, detail, payload) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (row.t_us, row.device, row.boot, row.seq, row.reason, row.detail, row.payload[:PAYLOAD_MAX]),
            )
            self._db.execute("DELETE FROM aside WHERE number <= (SELECT max(number) FROM aside) - ?", (ROWS_MAX,))

    def rows(self, limit: int = 1_000) -> list[SetAside]:
        """The newest first."""
        query = "SELECT t_us, device, boot, seq, reason, detail, payload FROM aside ORDER BY number DESC LIMIT ?"
        with self._lock:
            return [SetAside(*row) for row in self._db.execute(query, (limit,))]

    def counts(self) -> dict[str, int]:
        """How many rows for each reason."""
        with self._lock:
            return dict(self._db.execute("SELECT reason, count(*) FROM aside GROUP BY reason"))

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()
