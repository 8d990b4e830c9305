"""The consent register: what each subject allows for each purpose and signal, versioned.

The edge owns a subject's choices: it enforces them before the spool, and again before it sends or trains. The hub holds a copy
by edge, enforces that at its inbox and before it trains or scores, and keeps what was said at the hub as a *wish* until the
edge has taken it over: until then the stricter of copy and wish holds, so that a withdrawal counts at once and a grant not
before the edge knows it.

A choice for a purpose and a code wins over one for a purpose or a code alone, and those over one for everything; of two that
are equally exact the stricter wins; with nothing on file the answer is `none`. Of an erased subject a digest is kept, for which
the answer is `none` for ever: whatever comes back late, from wherever, is not kept.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround.errors import TrustError
from wardround.records import Consent, Purpose
from wardround.trust.compaction import compact
from wardround.trust.erasures import digest_of

ANY = "*"
CACHE_MAX = 100_000
WISHES_MAX = 100_000
BUSY_S = 10.0
_WIDTH = {Consent.NONE: 0, Consent.LOCAL: 1, Consent.RAW: 2}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS choices (edge TEXT, subject TEXT, purpose TEXT, code TEXT, choice TEXT NOT NULL,
    version INTEGER NOT NULL, PRIMARY KEY (edge, subject, purpose, code)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS wishes (number INTEGER PRIMARY KEY AUTOINCREMENT, edge TEXT NOT NULL, subject TEXT NOT NULL,
    purpose TEXT NOT NULL, code TEXT NOT NULL, choice TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS erased (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS taken (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL);
"""
_PUT = """
INSERT INTO choices VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET choice = excluded.choice, version = excluded.version
    WHERE excluded.version > version
"""
_Rules = dict[tuple[str, str], tuple[Consent, int]]  # (purpose, code) -> choice, version
_Question = tuple[str, str, str | None]  # code, purpose, edge


@dataclass(frozen=True, slots=True)
class ConsentRecord:
    """One choice; `version` grows with each change of the subject's choices."""

    subject: str
    code: str  # a signal's code, or "*"
    choice: Consent
    version: int
    purpose: str = ANY  # a Purpose, or "*"


@dataclass(frozen=True, slots=True)
class Wish:
    """What was said at the hub, on its way to the edge; numbers grow."""

    number: int
    subject: str
    purpose: str
    code: str
    choice: Consent


class ConsentRegister:
    """Choices on disk (SQLite, `synchronous=FULL`) and in memory. Safe to use from several threads and processes.

    At an edge `edge` is left out everywhere; at the hub it says whose copy is meant.
    """

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=BUSY_S)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)
        self._take_over_first_form()
        self._generation = 0
        self._seen = -1
        self._choices: dict[str, dict[str, _Rules]] = {}  # by subject and edge
        self._subjects: dict[str, set[str]] = {}  # by edge
        self._wishes: dict[str, list[tuple[str, Wish]]] = {}  # by subject: edge and wish, oldest first
        self._wishes_of: dict[str, list[Wish]] = {}  # by edge, oldest first
        self._taken = 0
        self._erased: frozenset[bytes] = frozenset()
        self._cache: dict[str, dict[_Question, tuple[Consent, int]]] = {}  # by subject
        self._cached = 0
        self.refresh()

    # -- asking

    def choose(self, subject: str, code: str, purpose: Purpose | None = None, edge: str | None = None) -> tuple[Consent, int]:
        """The choice in force, and the version of the subject's choices; (none, 0) when nothing is on file.

        Args:
            purpose: what the data are wanted for; None: the widest of all purposes, for who only carries or keeps them.
            edge: whose copy; None: the strictest of all edges that know the subject.
        """
        key = (code, purpose.value if purpose is not None else "", edge)
        known = self._cache.get(subject)
        found = known.get(key) if known is not None else None
        if found is None:
            with self._lock:
                found = self._choose(subject, code, list(Purpose) if purpose is None else [purpose], edge)
                if self._cached >= CACHE_MAX:
                    self._cache, self._cached = {}, 0
                self._cache.setdefault(subject, {})[key] = found
                self._cached += 1
        return found

    def allows(self, subject: str, codes: Collection[str], purpose: Purpose, choice: Consent) -> bool:
        """Whether every one of the codes may be used for a purpose, at least as widely as `choice`."""
        return all(_WIDTH[self.choose(subject, code, purpose)[0]] >= _WIDTH[choice] for code in codes)

    def keeps(self, subject: str, purpose: Purpose | None = None, choice: Consent = Consent.LOCAL) -> bool:
        """Whether anything at all of this subject may be kept: for a purpose, at least as widely as `choice`."""
        with self._lock:
            owners = self._choices.get(subject, {})
            codes = {code for rules in owners.values() for _, code in rules} | {ANY}
        return any(_WIDTH[self.choose(subject, code, purpose)[0]] >= _WIDTH[choice] for code in codes)

    def records(self) -> list[ConsentRecord]:
        """Everything on file, but wishes."""
        with self._lock:
            return [
                ConsentRecord(subject, code, choice, version, purpose)
                for subject, owners in sorted(self._choices.items())
                for _, rules in sorted(owners.items())
                for (purpose, code), (choice, version) in sorted(rules.items())
            ]

    def records_of(self, edge: str) -> list[ConsentRecord]:
        """At the hub: its copy of an edge's register."""
        with self._lock:
            return [
                ConsentRecord(subject, code, choice, version, purpose)
                for subject in sorted(self._subjects.get(edge, ()))
                for (purpose, code), (choice, version) in sorted(self._choices[subject][edge].items())
            ]

    def by_subject(self) -> dict[str, dict[str, list[ConsentRecord]]]:
        """At the hub: everything on file, by subject and edge; one pass, where `records_of` for each edge would be one each."""
        with self._lock:
            return {
                subject: {
                    edge: [ConsentRecord(subject, code, choice, version, purpose) for (purpose, code), (choice, version) in own]
                    for edge, rules in owners.items()
                    if (own := sorted(rules.items()))
                }
                for subject, owners in self._choices.items()
            }

    def tally(self, subjects: Iterable[str], codes: Sequence[str]) -> list[dict[Consent, int]]:
        """Of how many subjects which choice is in force, for each code: as `choose` says of each, but asked once of all who have
        chosen alike."""
        alike: dict[object, list[str]] = {}
        with self._lock:
            for subject in subjects:
                if subject in self._wishes or self.erased(subject):
                    alike[subject] = [subject]
                    continue
                owners = self._choices.get(subject, {}).values()
                said = frozenset(frozenset((asked, r[0]) for asked, r in rules.items()) for rules in owners)
                alike.setdefault(said, []).append(subject)
        counts: list[dict[Consent, int]] = [dict.fromkeys(Consent, 0) for _ in codes]
        for group in alike.values():
            for code, found in zip(codes, counts, strict=True):
                found[self.choose(group[0], code)[0]] += len(group)
        return counts

    def edges_of(self, subject: str) -> list[str]:
        """The edges that know a subject."""
        with self._lock:
            return sorted(self._choices.get(subject, {}))

    @property
    def generation(self) -> int:
        """Grows with every change: tells a link when to send the register again."""
        return self._generation

    def refresh(self) -> bool:
        """Take over what other processes have written; whether there was any. Costs microseconds when there is none."""
        with self._lock:
            seen = int(self._db.execute("PRAGMA data_version").fetchone()[0])
            if seen == self._seen:
                return False
            self._seen = seen
            self._load()
            return True

    # -- changing

    def set(self, subject: str, code: str, choice: Consent, purpose: str = ANY) -> int:
        """Record a choice; the new version.

        Raises:
            TrustError: the subject was erased.
        """
        if self.erased(subject):
            raise TrustError(
                "this patient was erased here, and the pseudonym with it", remedy="register the patient under another identifier"
            )
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            version = self._set("", subject, purpose, code, choice)
        self._load()
        return version

    def apply(self, records: Iterable[ConsentRecord], edge: str = "", taken: int = 0) -> int:
        """Take over an edge's own choices, newest version wins; how many changed anything.

        Args:
            taken: the edge has taken over every wish up to this number; they are forgotten here.
        """
        new: list[ConsentRecord] = []
        with self._lock:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for r in records:
                    if self.erased(r.subject):
                        continue
                    known = self._choices.get(r.subject, {}).get(edge, {}).get((r.purpose, r.code))
                    if (known is None or known[1] < r.version) and self._put(edge, r):
                        new.append(r)
                gone = self._db.execute("DELETE FROM wishes WHERE edge = ? AND number <= ?", (edge, taken)).rowcount
            if gone:
                self._load()
            elif new and not self.refresh():
                self._take_in(edge, new)
        return len(new) + gone

    def wish(self, subject: str, code: str, choice: Consent, purpose: str = ANY) -> list[str]:
        """Note at the hub what a subject has said; the edges that it goes to (none: nobody knows this subject)."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            edges = [str(e) for (e,) in self._db.execute("SELECT DISTINCT edge FROM choices WHERE subject = ?", (subject,))]
            self._db.executemany(
                "INSERT INTO wishes (edge, subject, purpose, code, choice) VALUES (?, ?, ?, ?, ?)",
                [(edge, subject, purpose, code, choice.value) for edge in edges],
            )
        self._load()
        return edges

    def wishes(self, edge: str) -> list[Wish]:
        """What an edge has not taken over yet, oldest first."""
        with self._lock:
            return self._wishes_of.get(edge, [])[:WISHES_MAX]

    def take(self, wishes: Sequence[Wish]) -> int:
        """At the edge: make wishes of the hub its own choices, each once and in order; how many were new."""
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            new = [w for w in wishes if w.number > self._taken]
            for wish in (w for w in new if not self.erased(w.subject)):
                self._set("", wish.subject, wish.purpose, wish.code, wish.choice)
            if new:
                self._db.execute("INSERT OR REPLACE INTO taken VALUES (1, ?)", (max(w.number for w in new),))
        if new:
            self._load()
        return len(new)

    def erase(self, *digests: bytes) -> list[str]:
        """Forget the subjects of these digests, and answer `none` for them from now on; the pseudonyms that were known by them.

        However many they are, the file is written anew once.
        """
        wanted = frozenset(digests)
        with self._lock:
            subjects = [s for s in {*self._choices, *self._wishes} if digest_of(s) in wanted]
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT OR IGNORE INTO erased VALUES (?)", [(digest,) for digest in sorted(wanted)])
                for subject in subjects:
                    self._db.execute("DELETE FROM choices WHERE subject = ?", (subject,))
                    self._db.execute("DELETE FROM wishes WHERE subject = ?", (subject,))
            compact(self._db)
        self._load()
        return subjects

    def tombstones(self) -> frozenset[bytes]:
        """The digests of the erased."""
        return self._erased

    def erased(self, subject: str) -> bool:
        """Whether a subject was erased."""
        return bool(self._erased) and digest_of(subject) in self._erased

    @property
    def taken(self) -> int:
        """The number of the newest wish this edge has taken over."""
        return self._taken

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # -- how

    def _choose(self, subject: str, code: str, purposes: Sequence[Purpose], edge: str | None) -> tuple[Consent, int]:
        owners = self._choices.get(subject, {}) if not self.erased(subject) else {}
        if edge is not None:
            owners = {edge: owners[edge]} if edge in owners else {}
        if not owners:
            return Consent.NONE, 0
        answers: list[Consent] = []
        for owner, rules in owners.items():
            wished = [w for e, w in self._wishes.get(subject, []) if e == owner]
            wanted = rules | {(w.purpose, w.code): (w.choice, 0) for w in wished}
            each = (min(_resolve(rules, p, code), _resolve(wanted, p, code), key=_WIDTH.__getitem__) for p in purposes)
            answers.append(max(each, key=_WIDTH.__getitem__))
        version = max(v for rules in owners.values() for _, v in rules.values())
        return min(answers, key=_WIDTH.__getitem__), version

    def _set(self, edge: str, subject: str, purpose: str, code: str, choice: Consent) -> int:
        newest = "SELECT coalesce(max(version), 0) FROM choices WHERE edge = ? AND subject = ?"
        version = 1 + int(self._db.execute(newest, (edge, subject)).fetchone()[0])
        self._put(edge, ConsentRecord(subject, code, choice, version, purpose))
        return version

    def _put(self, edge: str, r: ConsentRecord) -> bool:
        """Write it, unless the file has it as new or newer; whether it was written."""
        row = (edge, r.subject, r.purpose, r.code, r.choice.value, r.version)
        return self._db.execute(_PUT, row).rowcount > 0

    def _load(self) -> None:
        with self._lock:
            choices: dict[str, dict[str, _Rules]] = {}
            subjects: dict[str, set[str]] = {}
            rows = self._db.execute("SELECT edge, subject, purpose, code, choice, version FROM choices")
            for edge, subject, purpose, code, choice, version in rows:
                choices.setdefault(subject, {}).setdefault(edge, {})[purpose, code] = (Consent(choice), int(version))
                subjects.setdefault(edge, set()).add(subject)
            wishes: dict[str, list[tuple[str, Wish]]] = {}
            wishes_of: dict[str, list[Wish]] = {}
            rows = self._db.execute("SELECT number, edge, subject, purpose, code, choice FROM wishes ORDER BY number")
            for number, edge, subject, purpose, code, choice in rows:
                wish = Wish(number, subject, purpose, code, Consent(choice))
                wishes.setdefault(subject, []).append((edge, wish))
                wishes_of.setdefault(edge, []).append(wish)
            found = self._db.execute("SELECT number FROM taken").fetchone()
            self._erased = frozenset(digest for (digest,) in self._db.execute("SELECT digest FROM erased"))
            self._choices, self._wishes, self._taken = choices, wishes, int(found[0]) if found else 0
            self._subjects, self._wishes_of = subjects, wishes_of
            self._generation += 1
            self._cache, self._cached = {}, 0

    def _take_in(self, edge: str, records: Sequence[ConsentRecord]) -> None:
        """What has just been written of an edge, nothing else being new: as `_load`, whose work grows with everybody on file."""
        for r in records:
            self._choices.setdefault(r.subject, {}).setdefault(edge, {})[r.purpose, r.code] = (r.choice, r.version)
            self._subjects.setdefault(edge, set()).add(r.subject)
            self._cached -= len(self._cache.pop(r.subject, ()))
        self._generation += 1

    def _take_over_first_form(self) -> None:
        """A register from before there were purposes."""
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'consent'").fetchone() is None:
            return
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR IGNORE INTO choices SELECT '', subject, '*', code, choice, version FROM consent")
            self._db.execute("DROP TABLE consent")


def _resolve(rules: Mapping[tuple[str, str], tuple[Consent, int]], purpose: str, code: str) -> Consent:
    """The choice for a purpose and a code out of what is on file."""
    for keys in (((purpose, code),), ((purpose, ANY), (ANY, code)), ((ANY, ANY),)):
        found = [rules[key][0] for key in keys if key in rules]
        if found:
            return min(found, key=_WIDTH.__getitem__)
    return Consent.NONE
