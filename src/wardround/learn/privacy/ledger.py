"""What a study's releases have cost so far: a ledger (chain.py) that is on the disk before the release, and never shrinks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from wardround.learn.privacy.accounting import Release
from wardround.learn.privacy.chain import ChainFile, Line, read_lines

NAME = "privacy.ledger"
REMEDY = "put the file back from a backup that is no older than the study's last round, or start another study"


class Entry(Line, frozen=True, omit_defaults=True):
    """A release that may have been made: whether the round was then committed is the journal's to say."""

    round: int
    attempt: int
    t_us: int
    release: Release
    clip: float  # the length that units were clipped to
    clip_next: float  # and the next round's
    parameters: int = 0
    times: int = 1  # releases of this kind: an edge's training is one of each step


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


class FileLedger(ChainFile[Entry]):
    """In a file of its own."""

    def __init__(self, path: Path) -> None:
        """Raises StudyError where the file is not a ledger: nothing may be released by it."""
        super().__init__(path, Entry, REMEDY)


def read_ledger(path: Path) -> list[Entry]:
    """The entries of a study's file, which may be in use; none without a file.

    Raises:
        StudyError: it is not a ledger.
    """
    try:
        return read_lines(path.read_bytes(), Entry, str(path), REMEDY)[0]
    except FileNotFoundError:
        return []
