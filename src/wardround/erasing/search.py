"""A search of every byte of a home for a pseudonym, and removing until it finds nothing.

Every file is read as it lies on the disk: text, MessagePack, Arrow and SQLite keep a pseudonym as it is written, deleted rows on
free pages and in write-ahead logs included. Two formats can hide it from that, and are unpacked as well: SQLite breaks a long
cell over pages, so every cell is read; Parquet compresses its pages, so a hub hands in a way to look into them.
"""

from __future__ import annotations

import contextlib
import mmap
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

SQLITE = b"SQLite format 3\0"
Look = Callable[[Path, str], tuple[bool, int]]  # (file, text) -> is it there, how many bytes were unpacked
TURNS_MAX = 3
WAIT_S = 0.5  # longer than a group commit, which may have been under way
SHREDDED = (
    "the data key was destroyed first: what copies elsewhere hold of encrypted values needs an older keys.sqlite to be read"
)
HOW = "every file read whole; every cell of every SQLite database read as well"


@dataclass
class Search:
    """What a search found."""

    files: int = 0
    bytes_searched: int = 0
    bytes_decoded: int = 0
    found: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def search_home(home: Path, text: str, looks: Mapping[str, Look], skip: Callable[[str], bool] = lambda _name: False) -> Search:
    """Search every file under a home for a text.

    Args:
        looks: how to look into files of a suffix beyond their bytes on the disk.
        skip: paths within the home that are not searched.

    Returns:
        Paths are relative to the home. What vanished while it was searched is left out, what could not be read is named.
    """
    done = Search()
    for path in sorted(p for p in home.rglob("*") if p.is_file() and not p.is_symlink()):
        name = str(path.relative_to(home))
        if skip(name):
            continue
        try:
            if text in name or _holds(path, text, done) or _unpacked(path, text, looks, done):
                done.found.append(name)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, sqlite3.Error) as error:
            done.unread.append(f"{name}: {error}")
    return done


def _holds(path: Path, text: str, done: Search) -> bool:
    size = path.stat().st_size
    done.files += 1
    done.bytes_searched += size
    if size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(text.encode()) >= 0


def _unpacked(path: Path, text: str, looks: Mapping[str, Look], done: Search) -> bool:
    look = looks.get(path.suffix)
    if look is None:
        with path.open("rb") as file:
            if file.read(len(SQLITE)) != SQLITE:
                return False
        look = search_sqlite
    there, unpacked = look(path, text)
    done.bytes_decoded += unpacked
    return there


def search_sqlite(path: Path, text: str) -> tuple[bool, int]:
    """Read every cell of every table; (whether the text is in one, bytes read)."""
    needle, read = re.compile(re.escape(text.encode())), 0
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10.0)) as db:
        for cell in _cells(db):
            read += len(cell)
            if needle.search(cell):
                return True, read
    return False, read


def _cells(db: sqlite3.Connection) -> Iterator[bytes]:
    tables = [str(name) for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        quoted = table.replace('"', '""')
        for row in db.execute(f'SELECT * FROM "{quoted}"'):  # noqa: S608 - a name from the database itself, quoted
            for cell in row:
                if isinstance(cell, str):
                    yield cell.encode("utf-8", "surrogateescape")
                elif isinstance(cell, bytes):
                    yield cell


def remove_until_gone(
    home: Path, subject: str, remove: Callable[[], Mapping[str, int]], looks: Mapping[str, Look]
) -> tuple[dict[str, int], float, Search]:
    """Remove, search, and do both again while something is still found: another thread may have been writing.

    Returns:
        What was removed by part, the seconds that removing took, and the last search. The book of erasures is not searched:
        it holds the subject until the receipt is settled.
    """
    removed: dict[str, int] = {}
    seconds = 0.0
    for turn in range(TURNS_MAX):
        started = time.monotonic()
        for part, count in remove().items():
            removed[part] = removed.get(part, 0) + count
        seconds += time.monotonic() - started
        search = search_home(home, subject, looks, skip=lambda name: name.startswith("erasures.sqlite"))
        if not search.found or turn + 1 == TURNS_MAX:
            break
        time.sleep(WAIT_S)
    return removed, seconds, search
