"""The second factor of people who sign in: a code from an app (TOTP), and recovery codes for the day when the app is lost.

Pure functions over a person's secret: no clock, no disk. A code is good for its half minute and the ones beside it, once.
Source: RFC 6238 (TOTP) over RFC 4226 (HOTP): HMAC-SHA-1, six digits, 30 s, which is what every app speaks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from urllib.parse import quote

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

STEP_S = 30
DIGITS = 6
STEPS_BESIDE = 1  # a phone's clock may be half a minute off
SECRET_BYTES = 20  # as RFC 4226 recommends
RECOVERY_CODES = 10
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


def new_secret() -> bytes:
    """A new secret of 160 random bits."""
    return secrets.token_bytes(SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """As people type it into an app: Base32 in groups of four."""
    text = base64.b32encode(secret).decode().rstrip("=")
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


def address(secret: bytes, *, person: str, site: str) -> str:
    """What the QR code says: the key URI that apps read."""
    issuer = f"Wardround {site}".strip()
    text = base64.b32encode(secret).decode().rstrip("=")
    return f"otpauth://totp/{quote(issuer, safe='')}:{quote(person, safe='')}?secret={text}&issuer={quote(issuer, safe='')}"


def code_at(secret: bytes, step: int) -> str:
    """The code of one half minute, counted from 1970."""
    return HOTP(secret, DIGITS, SHA1()).generate(step).decode()  # noqa: S303 - what the RFC and every app use


def step_of(now_us: int) -> int:
    """Which half minute it is."""
    return now_us // (STEP_S * 1_000_000)


def fitting_step(secret: bytes, code: str, *, now_us: int, after: int) -> int | None:
    """The half minute that a code is of, if it is good now and of one later than `after`; else None.

    The caller keeps the step, and gives it as `after` the next time: no code opens twice.
    """
    given = "".join(code.split())
    if len(given) != DIGITS or not (given.isascii() and given.isdigit()):
        return None
    now, found = step_of(now_us), None
    for step in range(now - STEPS_BESIDE, now + STEPS_BESIDE + 1):
        if hmac.compare_digest(code_at(secret, step), given) and step > after:
            found = step
    return found


def new_recovery_codes() -> tuple[str, ...]:
    """Codes that open once each, of 59 random bits, in groups that can be typed."""
    return tuple("-".join("".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(3)) for _ in range(RECOVERY_CODES))


def recovery_digest(code: str) -> str:
    """What is kept of a recovery code. Random enough that a plain hash tells nobody anything worth an attempt at the console."""
    given = "".join(c for c in code.lower() if c in _ALPHABET)
    return hashlib.sha256(b"wardround recovery code\0" + given.encode()).hexdigest()


def without(digests: Iterable[str], code: str) -> tuple[str, ...] | None:
    """The digests that are left once this code is used; None where it is none of them."""
    kept, wanted = tuple(digests), recovery_digest(code)
    left = tuple(d for d in kept if not hmac.compare_digest(d, wanted))
    return left if len(left) < len(kept) else None
