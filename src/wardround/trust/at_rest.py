"""Sealing: what lies on a disk of a patient's values is AES-256-GCM ciphertext under that patient's data key.

A sealed blob is a mark (a byte that MessagePack never uses), a data key's id, a session, a counter, ciphertext and tag. The
key of a session is HKDF-SHA256(data key, salt = session); a session is 96 random bits of one life of one process, its counter
only grows, and the counter is the nonce: no pair of key and nonce comes twice, whichever processes write and whatever
kills them, and nothing has to be remembered (RFC 5116, 3.2; NIST SP 800-38D, 8.2.1). The place of a blob (table and row) is
associated data: moved to another row, it does not open.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import weakref
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround.errors import KeyRefused, Unreadable
from wardround.trust.data_keys import ID_BYTES, DataKeys, source_text
from wardround.trust.kek import KekSource

MARK = b"\xc1"
SESSION_BYTES, COUNTER_BYTES, TAG_BYTES = 12, 6, 16
COUNT_MAX = 1 << 32  # blobs of a session; then another begins
CIPHERS_MAX = 4_096
_HEAD = 1 + ID_BYTES + SESSION_BYTES + COUNTER_BYTES
OVERHEAD = _HEAD + TAG_BYTES  # bytes that a sealed blob is longer
KEYS = Path("keys") / "keys.sqlite"
Place = tuple[str | int | bytes, ...]
_place = msgspec.msgpack.Encoder()


class Seal(Protocol):
    """What keeps values unreadable on a disk, or leaves them as they are."""

    on: bool

    def seal(self, subject: str, place: Place, data: bytes) -> bytes:
        """Data of a subject, as it is to lie at a place."""
        ...

    def unseal(self, place: Place, data: bytes, *, plain: bool = True) -> bytes:
        """The inverse; what was never sealed comes back as it is, where anything `plain` may be there still.

        Raises:
            Unreadable: it was sealed, and cannot be opened: see its reason.
        """
        ...

    def digest(self, subject: str, text: str) -> str:
        """What stands for a text of a subject where equal ones must be seen to be equal."""
        ...

    def shred(self, subject: str) -> int:
        """Make all that was sealed of a subject unreadable for ever; how many keys went."""
        ...


class Plain:
    """Leaves everything as it is."""

    on = False

    def seal(self, subject: str, place: Place, data: bytes) -> bytes:  # noqa: ARG002 - as a Seal
        return data

    def unseal(self, place: Place, data: bytes, *, plain: bool = True) -> bytes:  # noqa: ARG002 - as a Seal
        if data[:1] == MARK:
            raise KeyRefused("what lies here is encrypted, and this program has no key", remedy="open the home with its keys/")
        return data

    def digest(self, subject: str, text: str) -> str:  # noqa: ARG002 - as a Seal
        return text

    def shred(self, subject: str) -> int:  # noqa: ARG002 - as a Seal
        return 0


PLAIN = Plain()


class Sealer:
    """Seals under the data keys of a home. Safe to use from several threads, and after a fork."""

    on = True

    def __init__(self, keys: DataKeys) -> None:
        self.keys, self._lock = keys, threading.Lock()
        self._others: dict[bytes, AESGCM] = {}  # by key id and session
        self._begin()
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _anew(this()))

    def _begin(self) -> None:
        """A session: its keys are nobody else's."""
        self._session, self._count, self._generation = os.urandom(SESSION_BYTES), 0, self.keys.generation
        self._own: dict[str, tuple[bytes, AESGCM]] = {}

    def seal(self, subject: str, place: Place, data: bytes) -> bytes:
        with self._lock:
            self.keys.look()
            if self._count >= COUNT_MAX or self._generation != self.keys.generation:
                self._others.clear()
                self._begin()
            if (own := self._own.get(subject)) is None:
                key_id = self.keys.for_subject(subject)
                own = self._own[subject] = (MARK + key_id + self._session, self._derived(key_id, self._session))
            self._count += 1
            counter = self._count.to_bytes(COUNTER_BYTES, "big")
        head, cipher = own
        return head + counter + cipher.encrypt(bytes(6) + counter, data, _place.encode(place))

    def unseal(self, place: Place, data: bytes, *, plain: bool = True) -> bytes:
        if plain and data[:1] != MARK:
            return data
        if len(data) < OVERHEAD or data[:1] != MARK:
            raise Unreadable("damaged", f"{len(data)} bytes at {place[0]!s}")
        cipher = self._cipher(data[1 : _HEAD - COUNTER_BYTES])
        try:
            return cipher.decrypt(bytes(6) + data[_HEAD - COUNTER_BYTES : _HEAD], data[_HEAD:], _place.encode(place))
        except InvalidTag as exc:
            raise Unreadable("damaged", f"{len(data)} bytes at {place[0]!s}") from exc

    def digest(self, subject: str, text: str) -> str:
        key = self.keys.key(self.keys.for_subject(subject))
        return "sealed:" + hmac.new(key, b"wardround digest\0" + text.encode(), hashlib.sha256).hexdigest()[:32]

    def shred(self, subject: str) -> int:
        return self.keys.shred(subject)

    def forked(self) -> None:
        """This process is a copy of another: begin a session of its own."""
        self._lock = threading.Lock()
        self._begin()

    def _cipher(self, name: bytes) -> AESGCM:
        with self._lock:
            self.keys.look()
            if self._generation != self.keys.generation:
                self._others.clear()
                self._begin()
            if (found := self._others.get(name)) is None:
                if len(self._others) >= CIPHERS_MAX:
                    self._others.clear()
                found = self._others[name] = self._derived(name[:ID_BYTES], name[ID_BYTES:])
            return found

    def _derived(self, key_id: bytes, session: bytes) -> AESGCM:
        derive = HKDF(algorithm=hashes.SHA256(), length=32, salt=session, info=b"wardround at rest 1")
        return AESGCM(derive.derive(self.keys.key(key_id)))


def _anew(sealer: Sealer | None) -> None:
    """After a fork the child has the same session and the same counter: it must not use them."""
    if sealer is not None:
        sealer.forked()


def turn_on(home: Path, kek: str) -> Seal:
    """The seal of a home whose settings have `at_rest.kek`; the first time its keys are made, and a KEK's file if there is none.

    Raises:
        KeyRefused: the KEK cannot be had or is another, a key is damaged, or settings no longer name one.
    """
    path = home / KEYS
    if kek:
        return Sealer(DataKeys(path, KekSource.parse(kek, home)))
    if path.exists():
        raise KeyRefused(
            f"{home} is encrypted at rest, and its settings have no at_rest.kek",
            remedy=f'put the line back: at_rest.kek = "{source_text(path)}"',
        )
    return PLAIN


def open_seal(home: Path) -> Seal:
    """The seal of a home as its program has turned it on.

    Raises:
        KeyRefused: as turn_on.
    """
    path = home / KEYS
    return Sealer(DataKeys(path, KekSource.parse(source_text(path), home))) if path.exists() else PLAIN
