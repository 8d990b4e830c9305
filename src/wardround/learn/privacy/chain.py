"""A ledger's file: append-only lines that are on the disk before what they pay for, and that never shrink.

A line is JSON with the digest of the line before it, so that a line changed, lost or put in shows. A line that a kill cut off
was never acknowledged, and what it would pay for never done: it is cut away. Anything else that does not read right is an error,
never an empty ledger: what was spent must not be spent again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from wardround.errors import StorageFull, StudyError
from wardround.malformed import MALFORMED

FIRST = "0" * 64
BEFORE = "before"  # the field of a line that holds the digest of the one before it


class Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What every line has."""

    before: str = FIRST  # SHA-256 of the line before, hex


L = TypeVar("L", bound=Line)


class ChainFile(Generic[L]):
    """One writer; safe to use from several threads."""

    def __init__(self, path: Path, kind: type[L], remedy: str) -> None:
        """Raises StudyError where the file is not such a ledger: nothing may be done by it. `remedy` says what then."""
        self._path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self.entries, self._last, size = read_lines(path.read_bytes(), kind, str(path), remedy)
            if os.fstat(self._file).st_size != size:
                os.ftruncate(self._file, size)
            os.fsync(self._file)
            _sync_folder(path.parent)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, entry: L) -> None:
        """Write a line down. When this returns it is on the disk.

        Raises:
            StorageFull: the disk refused; nothing was written down, so nothing may be done.
        """
        with self._lock:
            entry = msgspec.structs.replace(entry, before=self._last)
            line = msgspec.json.encode(entry) + b"\n"
            size = os.fstat(self._file).st_size
            try:
                if os.write(self._file, line) != len(line):
                    raise OSError("the line was written in part")  # noqa: TRY301 - a full disk may say so by a short write
                os.fsync(self._file)
            except OSError as exc:
                os.ftruncate(self._file, size)
                raise StorageFull(f"{self._path} cannot be written: {exc}", remedy="make room on that disk") from exc
            self._last = hashlib.sha256(line).hexdigest()
            self.entries.append(entry)

    def close(self) -> None:
        """No more is written."""
        os.close(self._file)


def read_lines(data: bytes, kind: type[L], where: str, remedy: str) -> tuple[list[L], str, int]:
    """The entries, the digest of the last line, and where the whole lines end.

    Raises:
        StudyError: a line does not hold.
    """
    whole = data.rfind(b"\n") + 1
    entries, last = list[L](), FIRST
    for number, line in enumerate(data[:whole].splitlines(keepends=True), 1):
        try:
            entry = msgspec.json.decode(line, type=kind)
        except MALFORMED as exc:
            raise _broken(where, number, "it cannot be read", remedy) from exc
        if entry.before != last:
            raise _broken(where, number, "it does not follow the line before it", remedy)
        entries.append(entry)
        last = hashlib.sha256(line).hexdigest()
    return entries, last, whole


def _broken(where: str, number: int, what: str, remedy: str) -> StudyError:
    return StudyError(f"{where}, line {number}: {what}; what was spent is not known, so nothing more is released", remedy=remedy)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
