"""SQLite files that hold nothing of what was deleted from them."""

from __future__ import annotations

import sqlite3
import time

TRIES = 50
WAIT_S = 0.1


def compact(db: sqlite3.Connection) -> bool:
    """Write a database anew and empty its write-ahead log: no free page and no log keeps a deleted row.

    Returns:
        False when somebody read all the while and the log could not be emptied; what it holds is then still on the disk.
    """
    db.execute("VACUUM")
    for _ in range(TRIES):
        busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if not busy:
            return True
        time.sleep(WAIT_S)
    return False
