"""What a study's releases have cost so far: an append-only file that is on the disk before the release, and never shrinks.

A line is one release as JSON, with the digest of the line before it, so that a line changed, lost or put in shows. A line that
a kill cut off was never acknowledged, and its release never made: it is cut away. Anything else that does not read right is an
error, never an empty ledger: what was spent must not be spent again.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from wardround.errors import StorageFull, StudyError
from wardround.learn.privacy.accounting import Release
from wardround.malformed import MALFORMED

FIRST = "0" * 64
NAME = "privacy.ledger"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A release that may have been made: whether the round was then committed is the journal's to say."""

    round: int
    attempt: int
    t_us: int
    release: Release
    clip: float  # the length that units were clipped to
    clip_next: float  # and the next round's
    parameters: int = 0
    times: int = 1  # releases of this kind: an edge's training is one of each step
    before: str = FIRST  # SHA-256 of the line before, hex


class Ledger(Protocol):
    """What a study has spent."""

    @property
    def entries(self) -> Sequence[Entry]: ...

    def append(self, entry: Entry) -> None:
        """Write a release down. When this returns it is on the disk.

        Raises:
            StorageFull: the disk refused; nothing was written down, so nothing may be released.
        """
        ...


def spent(entries: Sequence[Entry]) -> Counter[Release]:
    """How often each kind of release was made."""
    found = Counter[Release]()
    for entry in entries:
        found[entry.release] += entry.times
    return found


class MemoryLedger:
    """Of a rehearsal, whose releases nobody sees."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def append(self, entry: Entry) -> None:
        """As Ledger.append."""
        self.entries.append(entry)


class FileLedger:
    """In a file of its own. One writer; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Raises StudyError where the file is not a ledger: nothing may be released by it."""
        self._path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self.entries, self._last, size = _read(path.read_bytes(), str(path))
            if os.fstat(self._file).st_size != size:
                os.ftruncate(self._file, size)
            os.fsync(self._file)
            _sync_folder(path.parent)
        except BaseException:
            os.close(self._file)
            raise

    def append(self, entry: Entry) -> None:
        """As Ledger.append."""
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


def read_ledger(path: Path) -> list[Entry]:
    """The entries of a study's file, which may be in use; none without a file.

    Raises:
        StudyError: it is not a ledger.
    """
    try:
        return _read(path.read_bytes(), str(path))[0]
    except FileNotFoundError:
        return []


def _read(data: bytes, where: str) -> tuple[list[Entry], str, int]:
    """The entries, the digest of the last line, and where the whole lines end."""
    whole = data.rfind(b"\n") + 1
    entries, last = list[Entry](), FIRST
    for number, line in enumerate(data[:whole].splitlines(keepends=True), 1):
        try:
            entry = msgspec.json.decode(line, type=Entry)
        except MALFORMED as exc:
            raise _broken(where, number, "it cannot be read") from exc
        if entry.before != last:
            raise _broken(where, number, "it does not follow the line before it")
        entries.append(entry)
        last = hashlib.sha256(line).hexdigest()
    return entries, last, whole


def _broken(where: str, number: int, what: str) -> StudyError:
    return StudyError(
        f"{where}, line {number}: {what}; what this study has spent is not known, so it releases nothing",
        remedy="put the file back from a backup that is no older than the study's last round, or start another study",
    )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
