"""The devices' own record of what was receipted to them: the truth that the demo's report counts from.

One row for each run of samples of a receipted message, with a checksum over its samples, its time and its length, so that the
lake can be compared not only by number but by content.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Run:
    """One run of samples as a device sent it; `t_us` is the device's own time."""

    device: str
    boot: str
    seq: int
    index: int
    key: str
    n: int
    checksum: int
    travels: int  # 1: consent is `raw`, and the reading can be decoded


def checksum(t_us: int, n: int, values: bytes | None, values_type: str, value: float | None) -> int:
    """CRC-32 of a run: the integers as int32, or the value as float64; the same for device and lake."""
    body = b"" if values is None else np.frombuffer(values, "<" + values_type).astype("<i4").tobytes()
    scalar = b"" if value is None else np.float64(value).tobytes()
    return zlib.crc32(t_us.to_bytes(8, "little", signed=True) + n.to_bytes(4, "little") + body + scalar)


class Ledger:
    """Rows on disk. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS receipted (device TEXT, boot TEXT, seq INTEGER, idx INTEGER, key TEXT, n INTEGER,"
            " checksum INTEGER, travels INTEGER, PRIMARY KEY (device, boot, seq, idx)) WITHOUT ROWID"
        )

    def put(self, runs: Iterable[Run]) -> None:
        """Record receipted runs."""
        rows = [(r.device, r.boot, r.seq, r.index, r.key, r.n, r.checksum, r.travels) for r in runs]
        with self._lock:
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR IGNORE INTO receipted VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")

    def runs(self) -> Sequence[Run]:
        """Everything receipted."""
        query = "SELECT device, boot, seq, idx, key, n, checksum, travels FROM receipted"
        with self._lock:
            rows = self._db.execute(query).fetchall()
        return [Run(*row) for row in rows]

    def close(self) -> None:
        """Close the file."""
        self._db.close()
