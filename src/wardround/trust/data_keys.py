"""Data keys: one for each patient, 256 random bits, wrapped by the key-encryption key (KEK) and kept in `keys/keys.sqlite`.

Envelope encryption (NIST SP 800-57 part 1, 5.3.7): to change the KEK wraps a few bytes a patient anew and touches no row. To
destroy a patient's wrapped key makes every row sealed under it unreadable, wherever a copy of it lies: crypto-shredding.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wardround.errors import KeyRefused, StorageFull, Unreadable
from wardround.trust.compaction import compact
from wardround.trust.kek import KEY_BYTES, Kek, KekSource

ID_BYTES, NONCE_BYTES = 8, 12
BUSY_S = 10.0
LOOK_S = 0.5  # how soon a key that another process destroyed is forgotten here
STEP_KEYS = 500  # wrapped anew in one transaction
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checks (version INTEGER PRIMARY KEY, sealed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS keys (id BLOB PRIMARY KEY, subject TEXT NOT NULL UNIQUE, version INTEGER NOT NULL,
    wrapped BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_by_version ON keys (version);
CREATE TABLE IF NOT EXISTS destroyed (id BLOB PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What a home's keys are, without any of them."""

    source: str
    version: int  # of the KEK that wraps new data keys
    by_version: Mapping[int, int]  # data keys that each version wraps
    destroyed: int
    destroyed_under_this: int  # copies of keys.sqlite made before still open these, until the KEK is rotated
    loaded: tuple[int, ...]  # versions that the source gives

    @property
    def rotating(self) -> bool:
        """Whether a rotation was begun and is not through."""
        return set(self.by_version) > {self.version} or set(self.loaded) != {self.version}


class DataKeys:
    """The data keys of one home. Safe to use from several threads and processes."""

    def __init__(self, path: Path, source: KekSource) -> None:
        """Open them, or make the first; every wrapped key is opened once, so that a damaged one is known now.

        Raises:
            KeyRefused: the KEK is missing or another one, or a wrapped key is damaged.
        """
        self._path, self._source, self._lock = path, source, threading.RLock()
        new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._kek = self._first_kek(new=new)
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=BUSY_S)
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(_SCHEMA)
            path.chmod(0o600)
            self._begin()
            self._check()
            self._claim()
        except sqlite3.DatabaseError as exc:
            self._db.close()
            raise _damaged(path) from exc
        except KeyRefused:
            self._db.close()
            raise
        self.generation = 0  # grows when a key is destroyed: what was derived from it is to be forgotten
        self._by_id: dict[bytes, bytes] = {}
        self._by_subject: dict[str, bytes] = {}
        self._data_version, self._looked_s = self._seen(), time.monotonic()

    # -- the keys

    def for_subject(self, subject: str) -> bytes:
        """The id of a subject's data key, which is made, and on the disk when this returns, where there is none.

        Raises:
            StorageFull: the disk has no room for a new one.
            KeyRefused: the KEK was changed, and cannot be had.
        """
        with self._lock:
            self.look()
            if (found := self._by_subject.get(subject)) is not None:
                return found
            row = self._db.execute("SELECT id FROM keys WHERE subject = ?", (subject,)).fetchone()
            found = self._by_subject[subject] = bytes(row[0]) if row is not None else self._make(subject)
            return found

    def key(self, key_id: bytes) -> bytes:
        """A data key, 32 bytes.

        Raises:
            Unreadable: it was destroyed, is damaged, or was never here.
        """
        with self._lock:
            self.look()
            if (found := self._by_id.get(key_id)) is not None:
                return found
            row = self._db.execute("SELECT subject, version, wrapped FROM keys WHERE id = ?", (key_id,)).fetchone()
            if row is None:
                gone = self._db.execute("SELECT 1 FROM destroyed WHERE id = ?", (key_id,)).fetchone()
                raise Unreadable("destroyed" if gone else "unknown-key", f"data key {key_id.hex()}")
            subject, version, wrapped = row
            try:
                found = self._by_id[key_id] = self._unwrap(key_id, subject, version, wrapped)
            except InvalidTag as exc:
                raise Unreadable("damaged", f"the wrapped data key {key_id.hex()}") from exc
            return found

    def shred(self, subject: str) -> int:
        """Destroy a subject's data key for good; how many there were. No free page and no log keeps it."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT OR IGNORE INTO destroyed SELECT id, version FROM keys WHERE subject = ?", (subject,))
            count = self._db.execute("DELETE FROM keys WHERE subject = ?", (subject,)).rowcount
            self._db.execute("COMMIT")
            self._forget()
            compact(self._db)
        return count

    def look(self) -> None:
        """Forget what was unwrapped when another process has changed the keys."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_S:
            return
        with self._lock:
            self._looked_s = now_s
            if (seen := self._seen()) != self._data_version:
                self._data_version = seen
                self._forget()

    # -- the KEK

    def facts(self) -> KeyFacts:
        """How things stand."""
        with self._lock:
            by_version = dict(self._db.execute("SELECT version, count(*) FROM keys GROUP BY version"))
            destroyed = dict(self._db.execute("SELECT version, count(*) FROM destroyed GROUP BY version"))
            version = self._version()
            return KeyFacts(
                self._source.text,
                version,
                by_version,
                sum(destroyed.values()),
                destroyed.get(version, 0),
                tuple(sorted(self._kek.versions)),
            )

    def rotate(self, step: Callable[[int], None] = lambda _left: None) -> int:
        """Go over to a new version of the KEK, or finish what was begun; how many data keys were wrapped anew.

        In this order, each on the disk before the next, so that a kill at any point leaves every key readable and the next call
        goes on: the new version into the file; new data keys under it; the others, some at a time (`step(left)` after each); the
        older versions out of the file. A source that is no file must give the new version already.

        Raises:
            KeyRefused: the source gives no new version, and is no file; another process rotates.
        """
        with self._alone():
            self._kek = self._source.load()
            self._check()
            self._claim()
            newest, current = self._kek.newest, self._version()
            old = self._db.execute("SELECT count(*) FROM keys WHERE version < ?", (newest,)).fetchone()[0]
            if newest == current and not old and len(self._kek.versions) == 1:
                kek = self._kek.with_new_version()
                self._source.store(kek)
                self._kek, newest = kek, kek.newest
            with self._lock:
                self._use(newest)
            count = 0
            while moved := self._rewrap(newest):
                count += moved
                step(self._db.execute("SELECT count(*) FROM keys WHERE version < ?", (newest,)).fetchone()[0])
            with self._lock:
                self._db.execute("DELETE FROM checks WHERE version < ?", (newest,))
                compact(self._db)
            if len(self._kek.versions) > 1 and self._source.kind == "file":
                self._kek = Kek({newest: self._kek.versions[newest]}, self._kek.owner)
                self._source.store(self._kek)
            return count

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # -- how

    def _first_kek(self, *, new: bool) -> Kek:
        if new and not self._source.exists():
            self._source.store(Kek({}).with_new_version())
        return self._source.load()

    def _begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        if self._db.execute("SELECT 1 FROM facts WHERE key = 'ring'").fetchone() is None:
            self._db.execute("INSERT INTO facts VALUES ('ring', ?)", (secrets.token_hex(8),))
            self._use_within(self._kek.newest)
        self._db.execute("INSERT OR REPLACE INTO facts VALUES ('source', ?)", (self._source.text,))
        self._db.execute("COMMIT")

    def _claim(self) -> None:
        """A KEK's file is of one home: two would take versions from each other when they rotate.

        Raises:
            KeyRefused: it is another's.
        """
        ring = self._fact("ring")
        if self._kek.owner not in ("", ring):
            raise KeyRefused(
                f"{self._source.text} is the key-encryption key of other keys than {self._path}",
                remedy="give each home its own; if keys/ was lost here, put its newest copy back: without it nothing can be read",
            )
        if not self._kek.owner and self._source.kind == "file":
            self._kek = Kek(self._kek.versions, ring)
            self._source.store(self._kek)

    def _check(self) -> None:
        """Whether this KEK is the one, and opens all.

        Raises:
            KeyRefused: it is not.
        """
        needed = {self._version()} | {v for (v,) in self._db.execute("SELECT DISTINCT version FROM keys")}
        if missing := sorted(needed - set(self._kek.versions)):
            raise KeyRefused(
                f"{self._source.text} has no version {missing[0]}, and data keys of {self._path} are wrapped by it",
                remedy="put that version's line back beside the others; `wardround keys rotate` says when it is no longer needed",
            )
        for version, sealed in self._db.execute("SELECT version, sealed FROM checks").fetchall():
            if version in self._kek.versions:
                try:
                    self._cipher(version).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], self._check_words(version))
                except InvalidTag as exc:
                    raise KeyRefused(
                        f"{self._source.text} is not the key-encryption key of {self._path} (version {version})",
                        remedy="put the right one back; nothing was changed, and what is sealed stays as it is",
                    ) from exc
        for key_id, subject, version, wrapped in self._db.execute("SELECT id, subject, version, wrapped FROM keys").fetchall():
            try:
                self._unwrap(key_id, subject, version, wrapped)
            except InvalidTag as exc:
                raise _damaged(self._path, f"the wrapped data key {bytes(key_id).hex()} is damaged") from exc

    def _make(self, subject: str) -> bytes:
        key_id, key = secrets.token_bytes(ID_BYTES), secrets.token_bytes(KEY_BYTES)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            version = self._version()
            row = (key_id, subject, version, self._wrap(key_id, subject, version, key))
            added = self._db.execute("INSERT OR IGNORE INTO keys VALUES (?, ?, ?, ?)", row).rowcount
            if not added:  # another process was faster
                key_id = bytes(self._db.execute("SELECT id FROM keys WHERE subject = ?", (subject,)).fetchone()[0])
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as exc:
            raise StorageFull(
                f"no room for a new data key: {exc}", remedy="free the disk; what was not kept is sent again"
            ) from exc
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        return key_id

    def _wrap(self, key_id: bytes, subject: str, version: int, key: bytes) -> bytes:
        nonce = os.urandom(NONCE_BYTES)  # random: one for each time a key is wrapped, far below 2**32 under one KEK
        return nonce + self._cipher(version).encrypt(nonce, key, self._wrap_words(key_id, subject))

    def _unwrap(self, key_id: bytes, subject: str, version: int, wrapped: bytes) -> bytes:
        return self._cipher(version).decrypt(
            wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], self._wrap_words(bytes(key_id), subject)
        )

    def _cipher(self, version: int) -> AESGCM:
        if version not in self._kek.versions:  # another process has rotated
            self._kek = self._source.load()
        if version not in self._kek.versions:
            raise KeyRefused(
                f"{self._source.text} has no version {version}", remedy="put that version's line back beside the others"
            )
        return AESGCM(self._kek.versions[version])

    def _wrap_words(self, key_id: bytes, subject: str) -> bytes:
        return b"wardround data key\0" + key_id + subject.encode()

    def _check_words(self, version: int) -> bytes:
        return b"wardround kek\0" + f"{self._fact('ring')}/{version}".encode()

    def _use(self, version: int) -> None:
        """From here on new data keys are wrapped by this version, in every process."""
        self._db.execute("BEGIN IMMEDIATE")
        self._use_within(version)
        self._db.execute("COMMIT")

    def _use_within(self, version: int) -> None:
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + self._cipher(version).encrypt(nonce, b"", self._check_words(version))
        self._db.execute("INSERT OR REPLACE INTO checks VALUES (?, ?)", (version, sealed))
        self._db.execute("INSERT OR REPLACE INTO facts VALUES ('version', ?)", (str(version),))

    def _rewrap(self, newest: int) -> int:
        """Some data keys, in one transaction; how many."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            query = "SELECT id, subject, version, wrapped FROM keys WHERE version < ? LIMIT ?"
            rows = self._db.execute(query, (newest, STEP_KEYS)).fetchall()
            for key_id, subject, version, wrapped in rows:
                anew = self._wrap(bytes(key_id), subject, newest, self._unwrap(key_id, subject, version, wrapped))
                self._db.execute("UPDATE keys SET version = ?, wrapped = ? WHERE id = ?", (newest, anew, key_id))
            self._db.execute("COMMIT")
            return len(rows)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._path.with_name("rotate.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise KeyRefused("another process rotates these keys", remedy="wait for it; it says when it is through") from exc
            yield

    def _forget(self) -> None:
        self._by_id.clear()
        self._by_subject.clear()
        self.generation += 1

    def _seen(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def _fact(self, key: str) -> str:
        return str(self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()[0])

    def _version(self) -> int:
        return int(self._fact("version"))


def source_text(path: Path) -> str:
    """Where the KEK of these keys comes from, as the program that turned them on has noted.

    Raises:
        KeyRefused: the file is damaged.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_S)) as db:
            return str(db.execute("SELECT value FROM facts WHERE key = 'source'").fetchone()[0])
    except (sqlite3.DatabaseError, TypeError) as exc:
        raise _damaged(path) from exc


def _damaged(path: Path, what: str = "") -> KeyRefused:
    return KeyRefused(
        f"{path} is damaged{': ' + what if what else ''}",
        remedy="put the newest copy of the folder keys/ back; nothing was changed, and what is sealed stays as it is",
    )
