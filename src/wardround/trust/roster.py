"""The roster: which edges there are, signed by somebody who is not the hub. For edges that must not take the hub's word for that.

A hub that is its own authority can issue certificates to edges that do not exist, and put a true edge among them alone. So each
edge has a *lasting key* beside the key of its certificate, which changes every day: with it the edge *vouches* for each of its
certificates. The roster lists edges by the fingerprints of their lasting keys; its own key, the *roster key*, is held by a person
away from the hub. An edge that has *pinned* that key takes part in no masked round with anybody whom the roster does not name.

All keys are P-256, all signatures ECDSA with SHA-256, all fingerprints SHA-256 of the public key in DER form (hexadecimal).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wardround.errors import TrustError
from wardround.malformed import MALFORMED
from wardround.trust.certificates import key_pem, load_key, new_key, write_private
from wardround.trust.names import check_name

ENTRY_CONTEXT = b"wardround roster entry v1\0"
ROSTER_CONTEXT = b"wardround roster v1\0"
VOUCHER_CONTEXT = b"wardround voucher v1\0"
LASTING_KEY, PIN = "lasting.key", "roster.json"  # in an edge's identity folder
HUB_ROSTER = "roster.json"  # in the hub's home
ROSTER_BYTES_MAX = 4_000_000
_BROKEN = (*MALFORMED, ValueError, InvalidSignature, UnsupportedAlgorithm)
Member: TypeAlias = tuple[str, bytes, bytes]  # an edge's name, its certificate (PEM), its voucher


class RosterRefused(TrustError):
    """Somebody is not as the roster says. `lie`: an honest hub would not have said this."""

    def __init__(self, message: str, *, remedy: str, lie: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.lie = lie


class Roster(msgspec.Struct, frozen=True):
    """Who takes part. `number` goes up with every change, so that an older roster brings nobody back."""

    number: int
    edges: dict[str, str]  # name: fingerprint of the lasting key


class _Signed(msgspec.Struct, frozen=True):
    roster: Roster
    key: str  # of the roster, public, base64 of DER
    signature: str


class _Voucher(msgspec.Struct, frozen=True, array_like=True):
    key: bytes  # the edge's lasting key, public, DER
    signature: bytes


class _Pin(msgspec.Struct, frozen=True):
    key: str  # fingerprint of the roster key
    number: int = 0  # of the newest roster that was seen


# -- at the edge


class LastingKey:
    """An edge's key for as long as the edge is itself: renewals of its certificate leave it alone. It only ever vouches."""

    def __init__(self, identity: Path) -> None:
        """Makes it where there is none.

        Raises:
            TrustError: it is there and cannot be read.
        """
        path, own = identity / LASTING_KEY, identity / f"lasting.{secrets.token_hex(8)}.key"
        if not path.exists():
            write_private(own, key_pem(new_key()))
            with contextlib.suppress(FileExistsError):  # another process has made it meanwhile: that one counts
                os.link(own, path)
            own.unlink()
        self._key = load_key(path)
        self._public = _der(self._key.public_key())

    @property
    def fingerprint(self) -> str:
        """By which a roster names this edge."""
        return _fingerprint(self._public)

    def vouch(self, certificate: bytes) -> bytes:
        """The voucher for one of the edge's own certificates (PEM)."""
        signature = self._key.sign(VOUCHER_CONTEXT + _digest(certificate), ec.ECDSA(hashes.SHA256()))
        return msgspec.msgpack.encode(_Voucher(self._public, signature))

    def entry(self, name: str) -> str:
        """What the edge asks to be put into a roster as: one line without a secret, signed by the key that it names."""
        check_name(name, what="edge name")
        signature = self._key.sign(ENTRY_CONTEXT + name.encode(), ec.ECDSA(hashes.SHA256()))
        return ".".join(["wre1", name, _text(self._public), _text(signature)])


class PinnedRoster:
    """The roster key that an edge has pinned, and the newest roster that it has seen; none until somebody pins one."""

    def __init__(self, identity: Path) -> None:
        self._path = identity / PIN

    @property
    def key(self) -> str:
        """Fingerprint of the roster key; empty: none is pinned, and every certificate of the authority counts.

        Raises:
            TrustError: there is a pin, and it cannot be read.
        """
        return self._read().key

    def pin(self, fingerprint: str) -> None:
        """Take part from now on with those alone whom a roster of this key names.

        Raises:
            TrustError: it is no fingerprint.
        """
        if len(fingerprint) != 64 or set(fingerprint) - set("0123456789abcdef"):
            raise TrustError(
                "this is not the fingerprint of a roster key",
                remedy="copy the 64 characters that `wardround roster new` and `wardround roster show` print",
            )
        with self._locked():
            if fingerprint != self.key:
                self._write(_Pin(fingerprint))

    def admit(self, data: bytes, members: Collection[Member]) -> None:
        """Whether each of these is whom the newest roster names.

        Raises:
            RosterRefused: one is not, or this is no roster of the pinned key.
            OSError: the roster's number could not be kept, so nobody is admitted.
        """
        pinned = self._read()
        if not pinned.key:
            return
        if not data:
            raise RosterRefused(
                "this edge has pinned a roster key, and the hub shows no roster",
                remedy="give the hub the roster: `wardround hub roster FILE`",
            )
        roster, key = read_roster(data)
        if key != pinned.key:
            raise RosterRefused("the roster is signed by another key than this edge has pinned", remedy=_ASK, lie=True)
        if roster.number < pinned.number:
            raise RosterRefused(
                f"the hub shows roster {roster.number}, and this edge has seen {pinned.number}",
                remedy="give the hub the newest roster: `wardround hub roster FILE`",
            )
        check_members(roster, members)
        with self._locked():
            if roster.number > pinned.number and self.key == pinned.key:
                self._write(_Pin(pinned.key, roster.number))

    def _read(self) -> _Pin:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Pin)
        except FileNotFoundError:
            return _Pin("")
        except MALFORMED as error:  # never as if there were none
            raise TrustError(f"{self._path} cannot be read", remedy="pin the roster key again") from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """A person may pin another key beside the running edge."""
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, pin: _Pin) -> None:
        write_private(self._path, msgspec.json.encode(pin), 0o644)


# -- whoever keeps the roster, and the hub that passes it on


def sign_roster(roster: Roster, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The roster as edges check it, JSON."""
    signature = key.sign(_said(roster), ec.ECDSA(hashes.SHA256()))
    signed = _Signed(roster, _text(_der(key.public_key())), _text(signature))
    return msgspec.json.format(msgspec.json.encode(signed, order="sorted"), indent=1) + b"\n"


@lru_cache(maxsize=8)  # shown in every masked round
def read_roster(data: bytes) -> tuple[Roster, str]:
    """A roster and the fingerprint of the key that has signed it.

    Raises:
        RosterRefused: it is none, or was changed after it was signed.
    """
    remedy = "take the file as `wardround roster sign` wrote it"
    try:
        if len(data) > ROSTER_BYTES_MAX:
            raise ValueError("too large")
        signed = msgspec.json.decode(data, type=_Signed)
        public = _bytes(signed.key)
        _check(public, _said(signed.roster), _bytes(signed.signature))
    except _BROKEN as error:
        raise RosterRefused("this is no roster, or it was changed after it was signed", remedy=remedy, lie=True) from error
    return signed.roster, _fingerprint(public)


def roster_key(key: ec.EllipticCurvePrivateKey) -> str:
    """The fingerprint of a roster key: what edges pin."""
    return _fingerprint(_der(key.public_key()))


def read_entry(line: str) -> tuple[str, str]:
    """The name and the fingerprint in an edge's entry.

    Raises:
        TrustError: it is none, or its key has not signed it.
    """
    parts = line.strip().split(".")
    try:
        if len(parts) != 4 or parts[0] != "wre1":
            raise ValueError("four parts are wanted")
        name, public = parts[1], _bytes(parts[2])
        check_name(name, what="edge name")
        _check(public, ENTRY_CONTEXT + name.encode(), _bytes(parts[3]))
    except _BROKEN as error:
        raise TrustError(
            f"`{line.strip()[:40]}` is no entry of an edge", remedy="copy the line that `wardround edge roster` prints, whole"
        ) from error
    return name, _fingerprint(public)


def check_successor(data: bytes, before: bytes) -> Roster:
    """A roster that is to take the place of another one (empty: there is none).

    Raises:
        RosterRefused: it is none, or an older one of the same key.
    """
    roster, key = read_roster(data)
    if before and data != before:
        older, its_key = read_roster(before)
        if key == its_key and roster.number <= older.number:
            raise RosterRefused(
                f"this is roster {roster.number}, and roster {older.number} is there", remedy="take the newest one"
            )
    return roster


def hub_roster(home: Path) -> bytes:
    """The roster that a hub was given; empty: none."""
    try:
        return (home / HUB_ROSTER).read_bytes()
    except FileNotFoundError:
        return b""


def admit_shown(data: bytes, members: Collection[Member]) -> None:
    """Whether the roster that is shown, if there is one, names each of these: as an edge would ask that has pinned its key.

    Raises:
        RosterRefused: it does not.
    """
    if data:
        check_members(read_roster(data)[0], members)


def check_members(roster: Roster, members: Collection[Member]) -> None:
    """Whether the roster names each of these, and its lasting key has vouched for its certificate.

    Raises:
        RosterRefused: the first who is not, by name.
    """
    for name, certificate, voucher in members:
        known = roster.edges.get(name)
        if known is None:
            raise RosterRefused(f"{name[:60]} is not in the roster", remedy=_ADD, lie=True)
        if _vouched(certificate, voucher) != known:
            raise RosterRefused(
                f"the certificate of {name[:60]} is not vouched for by the key that the roster names", remedy=_ADD, lie=True
            )


_ASK = "ask whoever keeps the roster which key it is; an edge pins another one with `wardround edge roster --pin`"
_ADD = "if it is an edge of yours: `wardround edge roster` there, then `wardround roster sign`, then `wardround hub roster`"


@lru_cache(maxsize=4_096)  # each certificate is shown in every masked round of its day
def _vouched(certificate: bytes, voucher: bytes) -> str:
    """The fingerprint of the key that has vouched for a certificate; empty: none has."""
    try:
        said = msgspec.msgpack.decode(voucher, type=_Voucher)
        _check(said.key, VOUCHER_CONTEXT + _digest(certificate), said.signature)
    except _BROKEN:
        return ""
    return _fingerprint(said.key)


def _check(public: bytes, data: bytes, signature: bytes) -> None:
    key = serialization.load_der_public_key(public)
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1" or _der(key) != public:
        raise ValueError("a P-256 key in its one DER form is wanted")
    key.verify(signature, data, ec.ECDSA(hashes.SHA256()))


def _said(roster: Roster) -> bytes:
    return ROSTER_CONTEXT + msgspec.json.encode(roster, order="sorted")


def _digest(certificate: bytes) -> bytes:
    """Of a leaf, whole: its key and its time, so that no other certificate of the same key is vouched for with it."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256())


def _der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _fingerprint(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
