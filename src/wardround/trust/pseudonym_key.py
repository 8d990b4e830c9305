"""The key of an edge's pseudonyms outside its home: sealed with a passphrase, recognised, and asked for after a restore.

No backup holds it, as with it whoever has a backup could find patients by their numbers. Without it a restored edge would give
every patient another name, so none is made there: the edge does not start until its own key is back (docs/decisions/0010).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from wardround.errors import TrustError
from wardround.trust.certificates import write_private
from wardround.trust.pseudonyms import Pseudonyms
from wardround.trust.restored import restored

FILE = "pseudonym.key"
KEY_BYTES, SALT_BYTES = 32, 16
PASSPHRASE_MIN = 12
_HEAD = "wrk1"
_CONTEXT = b"wardround pseudonym key v1"
_SCRYPT = {"n": 1 << 16, "r": 8, "p": 1, "dklen": 32, "maxmem": 1 << 27}  # 64 MiB: OWASP's figure, and a small edge has that


def key_check(key: bytes) -> str:
    """By which a key is recognised and from which it cannot be had: 128 bits, hexadecimal."""
    return hmac.new(key, b"wardround pseudonym key check", hashlib.sha256).hexdigest()[:32]


def check_of(home: Path) -> str:
    """`key_check` of an edge's key; empty where there is none."""
    path = home / FILE
    return key_check(path.read_bytes()) if path.exists() else ""


def pseudonyms_of(home: Path) -> Pseudonyms:
    """The pseudonyms of an edge; the key is made at a new one.

    Raises:
        TrustError: the home was restored from a backup, and its key is not back.
    """
    path, mark = home / FILE, restored(home)
    if mark is not None and mark.pseudonym_key:
        if not path.exists():
            raise TrustError(
                "this edge was restored, and the key of its pseudonyms is not here: every patient would get another name",
                remedy="bring the key back: `wardround edge key import FILE`",
            )
        if check_of(home) != mark.pseudonym_key:
            raise TrustError("the key of pseudonyms is another edge's", remedy="import the key of the edge that was backed up")
    return Pseudonyms.open(path)


def export_key(home: Path, passphrase: str) -> str:
    """The key of an edge, sealed with a passphrase: one line of text.

    Raises:
        TrustError: there is no key, or the passphrase is too short.
    """
    path = home / FILE
    if not path.exists():
        raise TrustError(f"{path} does not exist", remedy="it is made with the first patient: `wardround edge device`")
    if len(passphrase) < PASSPHRASE_MIN:
        raise TrustError(f"the passphrase is shorter than {PASSPHRASE_MIN} characters", remedy="use several words")
    salt, nonce = secrets.token_bytes(SALT_BYTES), secrets.token_bytes(12)
    sealed = AESGCM(_derived(passphrase, salt)).encrypt(nonce, path.read_bytes(), _CONTEXT)
    return ".".join([_HEAD, base64.urlsafe_b64encode(salt + nonce + sealed).decode().rstrip("=")])


def import_key(home: Path, text: str, passphrase: str) -> None:
    """Put a key back that `export_key` sealed.

    Raises:
        TrustError: it cannot be opened, is another edge's, or there is another key already.
    """
    key = _opened(text, passphrase)
    mark = restored(home)
    if mark is not None and mark.pseudonym_key not in ("", key_check(key)):
        raise TrustError("this key is another edge's", remedy="give the file of the edge that was backed up")
    path = home / FILE
    if path.exists() and not hmac.compare_digest(path.read_bytes(), key):
        raise TrustError(f"{path} is another key already", remedy="import into the home of the edge that it belongs to")
    write_private(path, key)


def _opened(text: str, passphrase: str) -> bytes:
    head, _, body = text.strip().partition(".")
    broken = TrustError("this is no exported key", remedy="give the file that `wardround edge key export` wrote")
    try:
        data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except (ValueError, binascii.Error) as exc:
        raise broken from exc
    if head != _HEAD or len(data) != SALT_BYTES + 12 + KEY_BYTES + 16:
        raise broken
    salt, nonce, sealed = data[:SALT_BYTES], data[SALT_BYTES : SALT_BYTES + 12], data[SALT_BYTES + 12 :]
    try:
        return AESGCM(_derived(passphrase, salt)).decrypt(nonce, sealed, _CONTEXT)
    except InvalidTag as exc:
        raise TrustError("the passphrase does not fit, or the file is damaged", remedy="type it as it was") from exc


def _derived(passphrase: str, salt: bytes) -> bytes:
    return hashlib.scrypt(passphrase.encode(), salt=salt, **_SCRYPT)
