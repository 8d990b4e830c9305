"""Sealing to a public key: what a courier carries and cannot read, and nobody can once the key's owner has ended.

X25519 with a key pair for each message, HKDF-SHA256, AES-256-GCM: base mode of RFC 9180 (HPKE) in its parts, not in its bytes.
Who sealed it is not said: that is known from the stream on which it came.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround.errors import TrustError

KEY_BYTES = 32
_NONCE = bytes(12)  # a key seals one message


def seal(key: bytes, data: bytes, context: bytes) -> bytes:
    """Seal data for the owner of a public key.

    Args:
        key: X25519, 32 bytes.
        context: what it is about; it opens under the same alone.

    Raises:
        TrustError: it is no such key.
    """
    own = X25519PrivateKey.generate()
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError as exc:  # its length, or a point of small order
        raise TrustError("what was given is no key to seal to", remedy="bring hub and edges to the same version") from exc
    public = own.public_key().public_bytes_raw()
    return public + AESGCM(_derive(shared, public + key)).encrypt(_NONCE, data, context)


class Opener:
    """A key pair that is never on a disk: what was sealed to `public` can be read as long as this object lives."""

    def __init__(self) -> None:
        self._key = X25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes_raw()

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The inverse of `seal`.

        Raises:
            TrustError: it was sealed for another key or about something else, or was changed.
        """
        try:
            public = sealed[:KEY_BYTES]
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(public))
            return AESGCM(_derive(shared, public + self.public)).decrypt(_NONCE, sealed[KEY_BYTES:], context)
        except (InvalidTag, ValueError) as exc:
            raise TrustError("what was sealed cannot be opened", remedy="ask again; it was changed on its way") from exc


def _derive(shared: bytes, keys: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"wardround seal v1\0" + keys).derive(shared)
