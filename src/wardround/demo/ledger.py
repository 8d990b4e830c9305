"""The devices' own record of what was receipted to them: the truth that the demo's report counts from.

One row for each signal of each receipted message, with a checksum over its values and the time of its first sample, so that
the lake can be compared not only by number but by content.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Run:
    """What one message carried of one signal, as its device sent it; `code` as in signals.toml, or the device's own name."""

    device: str
    boot: str
    seq: int
    code: str
    n: int
    checksum: int
    travels: int  # 1: consent is `raw`, and the reading can be decoded


STEP = np.sqrt(2) * 1e-6  # of a unit; irrational, so that no decimal lies on the border between two counts


def checksum(t_us: int, values: NDArray[np.float64]) -> int:
    """CRC-32 of a run in time order: the device's time of its first sample, its length, its values to a millionth of the unit."""
    counts = np.rint(values / STEP).astype("<i8")
    return zlib.crc32(t_us.to_bytes(8, "little", signed=True) + len(counts).to_bytes(4, "little") + counts.tobytes())


class Ledger:
    """Rows on disk. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS receipted (device TEXT, boot TEXT, seq INTEGER, code TEXT, n INTEGER,"
            " checksum INTEGER, travels INTEGER, PRIMARY KEY (device, boot, seq, code)) WITHOUT ROWID"
        )

    def put(self, runs: Iterable[Run]) -> None:
        """Record receipted runs."""
        rows = [(r.device, r.boot, r.seq, r.code, r.n, r.checksum, r.travels) for r in runs]
        with self._lock:
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR IGNORE INTO receipted VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._db.execute("COMMIT")

    def runs(self) -> Sequence[Run]:
        """Everything receipted."""
        query = "SELECT device, boot, seq, code, n, checksum, travels FROM receipted"
        with self._lock:
            rows = self._db.execute(query).fetchall()
        return [Run(*row) for row in rows]

    def close(self) -> None:
        """Close the file."""
        self._db.close()
