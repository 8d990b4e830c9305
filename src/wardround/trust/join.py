"""Join tokens: how an edge gets its identity once, from the token alone.

`wr1.<hub>.<pin>.<id>.<secret>`, each part base64url: host:port of the enrolment listener, SHA-256 of the authority's
certificate, the token's id, and 256 random bits. The hub keeps only SHA-256 of the secret. A token lives 15 minutes, is bound
to one name, and is burnt on disk before a certificate is signed; the same key may ask again, so that a lost answer is not a
lost token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Protocol

from wardround.clock import Clock
from wardround.errors import JoinRefused
from wardround.records import TokenRecord
from wardround.trust.names import check_name

TOKEN_LIFE_S = 900.0
REFUSED = "this token was already used, has expired, or is not of this hub"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A parsed token; its repr does not show the secret."""

    host: str
    port: int
    pin: bytes
    token_id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"JoinToken({self.host}:{self.port}, {self.token_id})"


class TokenStore(Protocol):
    """Where the hub keeps tokens."""

    def add(self, record: TokenRecord) -> None: ...

    def get(self, token_id: str) -> TokenRecord | None: ...

    def burn(self, token_id: str, used_by: bytes) -> bool:
        """Mark as used, durably; True when this call, or an earlier one by the same key, did it."""
        ...


def mint(store: TokenStore, clock: Clock, *, name: str, host: str, port: int, pin: bytes, life_s: float = TOKEN_LIFE_S) -> str:
    """A new token for one edge; the text is shown once and kept nowhere."""
    check_name(name, what="edge name")
    token_id, secret = secrets.token_urlsafe(9), secrets.token_bytes(32)
    store.add(TokenRecord(token_id, name, hashlib.sha256(secret).digest(), clock.now_us() + round(life_s * 1e6)))
    return ".".join(["wr1", _encode(f"{host}:{port}".encode()), _encode(pin), token_id, _encode(secret)])


def parse(text: str) -> JoinToken:
    """Read a token.

    Raises:
        JoinRefused: it is not one; nothing was sent anywhere.
    """
    broken = JoinRefused("this is not a join token", remedy="copy it whole, as `wardround hub invite NAME` printed it")
    parts = text.strip().split(".")
    if len(text) > 1_000 or len(parts) != 5 or parts[0] != "wr1":
        raise broken
    try:
        host, _, port = _decode(parts[1]).decode("ascii").rpartition(":")
        token = JoinToken(host, int(port), _decode(parts[2]), parts[3], _decode(parts[4]))
    except (ValueError, binascii.Error) as exc:
        raise broken from exc
    if not host or not 0 < token.port < 65536 or len(token.pin) != 32 or len(token.secret) != 32 or not parts[3]:
        raise broken
    return token


def redeem(store: TokenStore, clock: Clock, *, token_id: str, secret: bytes, public_key_der: bytes, expected: str = "") -> str:
    """The name this token gives, once it is burnt on disk.

    Args:
        expected: the name of the edge that asks, when it has joined before; the token is not burnt for another one.

    Raises:
        JoinRefused: unknown, wrong, expired or used by another key: one answer for all, so that a guess learns nothing.
    """
    refused = JoinRefused(REFUSED, remedy="ask for a new one with `wardround hub invite NAME`")
    record = store.get(token_id)
    given = hashlib.sha256(secret).digest()
    if record is None or not hmac.compare_digest(record.secret_sha256, given) or record.expires_us < clock.now_us():
        raise refused
    if expected and expected != record.name:
        raise JoinRefused(
            f"this token is for {record.name[:40]}, and this is the home of {expected[:40]}",
            remedy="ask for a token with the edge's name, or join with another --home",
        )
    if not store.burn(token_id, hashlib.sha256(public_key_der).digest()):
        raise refused
    return record.name


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
