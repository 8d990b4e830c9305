"""The consent register: what each subject allows for each signal, versioned, enforced at the edge and again at the hub.

A choice for a signal's code wins over the subject's choice for "*"; with nothing on file the answer is `none`.
"""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from wardround.records import Consent


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """One choice; `version` grows with each change of the subject's choices."""

    subject: str
    code: str  # a signal's code, or "*"
    choice: Consent
    version: int


class ConsentRegister:
    """Choices on disk (SQLite, `synchronous=FULL`) and in memory. Safe to use from several threads."""

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS consent (subject TEXT, code TEXT, choice TEXT NOT NULL, version INTEGER NOT NULL,"
            " PRIMARY KEY (subject, code)) WITHOUT ROWID"
        )
        rows = self._db.execute("SELECT subject, code, choice, version FROM consent")
        self._choices = {(s, c): (Consent(choice), int(v)) for s, c, choice, v in rows}
        self._generation = 0

    def set(self, subject: str, code: str, choice: Consent) -> int:
        """Record a choice; the new version."""
        with self._lock:
            version = 1 + max((v for (s, _), (_, v) in self._choices.items() if s == subject), default=0)
            self._put(ConsentRecord(subject, code, choice, version))
            return version

    def apply(self, records: list[ConsentRecord]) -> int:
        """Take over records of another register, newest version wins; how many changed anything."""
        changed = 0
        with self._lock:
            for record in records:
                known = self._choices.get((record.subject, record.code))
                if known is None or known[1] < record.version:
                    self._put(record)
                    changed += 1
        return changed

    def choose(self, subject: str, code: str) -> tuple[Consent, int]:
        """The choice in force, and its version; (none, 0) when nothing is on file."""
        found = self._choices.get((subject, code)) or self._choices.get((subject, "*"))
        return found if found is not None else (Consent.NONE, 0)

    def records(self) -> list[ConsentRecord]:
        """Everything on file."""
        return [ConsentRecord(s, c, choice, v) for (s, c), (choice, v) in sorted(self._choices.items())]

    @property
    def generation(self) -> int:
        """Grows with every change: tells a link when to send the register again."""
        return self._generation

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _put(self, record: ConsentRecord) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO consent VALUES (?, ?, ?, ?)",
            (record.subject, record.code, record.choice.value, record.version),
        )
        self._choices[record.subject, record.code] = (record.choice, record.version)
        self._generation += 1
