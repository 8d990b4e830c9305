"""Where the durable queues keep their SQLite databases: a folder, or memory that survives a simulated crash.

Both give connections in WAL mode with `synchronous=FULL`, so that a commit means "on the disk". In memory, what was committed
outlives a connection that is dropped without a commit, exactly as on a disk.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Protocol

BUSY_S = 10.0


class Storage(Protocol):
    """A place for named databases."""

    def connect(self, name: str) -> sqlite3.Connection:
        """Open or create a database; usable from any one thread at a time."""
        ...

    def free_bytes(self) -> int:
        """What is left on the disk."""
        ...

    def ballast(self, size: int) -> None:
        """Hold so many bytes of the disk in a file that can be given up; 0 gives them up. What cannot be held is not."""
        ...


class FolderStorage:
    """Databases as files in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def connect(self, name: str) -> sqlite3.Connection:
        db = sqlite3.connect(self._folder / f"{name}.sqlite", timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        return db

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free

    def ballast(self, size: int) -> None:
        path = self._folder / "ballast"
        if size == 0:
            path.unlink(missing_ok=True)
        elif not path.exists() or path.stat().st_size < size:
            try:
                with path.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, size)
            except OSError:
                path.unlink(missing_ok=True)


class MemoryStorage:
    """Databases in memory, for tests and the simulation."""

    _numbers = itertools.count()

    def __init__(self, free_bytes: int = 10**12) -> None:
        self._space = next(self._numbers)
        self._keepers: dict[str, sqlite3.Connection] = {}
        self.free = free_bytes

    def connect(self, name: str) -> sqlite3.Connection:
        if name not in self._keepers:
            self._keepers[name] = self._open(name)
        return self._open(name)

    def free_bytes(self) -> int:
        return self.free

    def ballast(self, size: int) -> None:
        """Memory has none."""

    def close(self) -> None:
        """Forget everything."""
        for keeper in self._keepers.values():
            keeper.close()
        self._keepers.clear()

    def _open(self, name: str) -> sqlite3.Connection:
        uri = f"file:wardround-{self._space}-{name}?mode=memory&cache=shared"
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
