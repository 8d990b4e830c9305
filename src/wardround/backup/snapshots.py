"""Copies of files that others write meanwhile: databases as they stand at one moment, other files by a second name.

A backup's copies stand in a folder beside the archive, for its owner alone, and go with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from wardround.errors import StorageFull

BUSY_S = 60.0


@contextmanager
def stage(beside: Path) -> Iterator[Path]:
    """A folder for copies, of this backup alone."""
    folder = beside.with_name(f".{beside.name}.stage")
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    try:
        folder.mkdir(parents=True, mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_database(file: Path, to: Path, clean: Callable[[sqlite3.Connection], None] | None = None) -> None:
    """A SQLite database as it stands now, without what was deleted from it; `clean` takes more out of the copy.

    Raises:
        StorageFull: it cannot be read or written.
    """
    to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with closing(sqlite3.connect(file, timeout=BUSY_S, isolation_level=None)) as db:
            db.execute("VACUUM INTO ?", (str(to),))
        to.chmod(0o600)
        if clean is not None:
            with closing(sqlite3.connect(to, isolation_level=None)) as db:
                clean(db)
                db.execute("VACUUM")
    except sqlite3.Error as exc:
        raise StorageFull(f"{file} cannot be copied: {exc}", remedy="free the disk, then back up again") from exc


def hold(file: Path, to: Path) -> None:
    """A file that is written once, under a second name, so that it stays when the first goes; nothing where it has gone."""
    to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError, FileNotFoundError):
        try:
            os.link(file, to)
        except OSError as exc:
            if isinstance(exc, (FileExistsError, FileNotFoundError)):
                raise
            shutil.copyfile(file, to)  # another disk, or one without links


def hold_all(folder: Path, to: Path, wanted: Callable[[str], bool]) -> None:
    """`hold` for every file below a folder whose name within it is wanted."""
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.is_symlink() and wanted(name):
            hold(path, to / name)
