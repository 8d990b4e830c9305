"""Tokens of the API: `wra.<id>.<secret>`, each of one person, with scopes and an end.

A token is 256 random bits, so nobody guesses one; the hub keeps SHA-256 of it. What it opens is asked at every call: the token's
scope *and* the role that its person has at that moment must cover the act. A token outlives no person and no role.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from enum import StrEnum

from wardround.errors import LoginRefused, NotAllowed, TrustError
from wardround.records import ApiTokenRecord
from wardround.trust.roles import Act, check_act

DAYS_MAX = 365
TOKEN_CHARS_MAX = 120


class Scope(StrEnum):
    """What a token may be used for."""

    READ = "read"
    ALERTS = "alerts"
    STUDIES = "studies"
    EDGES = "edges"
    PATIENTS = "patients"
    EXPORT = "export"
    INGEST = "ingest"
    AUDIT = "audit"


SCOPES: dict[Scope, frozenset[Act]] = {
    Scope.READ: frozenset({Act.LOOK}),
    Scope.ALERTS: frozenset({Act.ACKNOWLEDGE, Act.UNDO}),
    Scope.STUDIES: frozenset({Act.STUDIES}),
    Scope.EDGES: frozenset({Act.EDGES}),
    Scope.PATIENTS: frozenset({Act.PATIENTS}),
    Scope.EXPORT: frozenset({Act.EXPORT}),
    Scope.INGEST: frozenset({Act.INGEST}),
    Scope.AUDIT: frozenset({Act.AUDIT}),
}


def parse_scopes(words: Iterable[str]) -> tuple[Scope, ...]:
    """The scopes of these names, each once.

    Raises:
        TrustError: none, or one that there is not.
    """
    found = set()
    for word in words:
        if word not in set(Scope):
            raise TrustError(f"scope {word!r} is not known", remedy=f"choose among: {', '.join(Scope)}")
        found.add(Scope(word))
    if not found:
        raise TrustError("a token without a scope opens nothing", remedy=f"choose among: {', '.join(Scope)}")
    return tuple(scope for scope in Scope if scope in found)


def mint_api_token(person: str, name: str, scopes: Iterable[str], *, days: int, now_us: int) -> tuple[str, ApiTokenRecord]:
    """A new token, shown once, and what the hub keeps of it.

    Args:
        days: its life, 1 to 365.

    Raises:
        TrustError: a scope that there is not, or a life out of range.
    """
    if not 1 <= days <= DAYS_MAX:
        raise TrustError(f"a token of {days} days", remedy=f"choose 1 to {DAYS_MAX} days")
    token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    kept = ApiTokenRecord(
        token_id=token_id,
        person=person,
        name=name,
        scopes=" ".join(parse_scopes(scopes)),
        secret_sha256=hashlib.sha256(secret.encode()).digest(),
        created_us=now_us,
        expires_us=now_us + days * 86_400_000_000,
    )
    return f"wra.{token_id}.{secret}", kept


def token_id_of(text: str) -> str:
    """The id in a token's text; empty where it is none."""
    parts = text.split(".")
    return parts[1] if len(text) <= TOKEN_CHARS_MAX and len(parts) == 3 and parts[0] == "wra" else ""


def check_token(text: str, kept: ApiTokenRecord | None, now_us: int) -> None:
    """Whether this text is the token that was kept, and lives: one answer for every reason.

    Raises:
        LoginRefused: it is not.
    """
    secret = text.rpartition(".")[2].encode()
    fits = kept is not None and hmac.compare_digest(hashlib.sha256(secret).digest(), kept.secret_sha256)
    if kept is None or not fits or kept.revoked_us is not None or now_us >= kept.expires_us:
        raise LoginRefused(
            "this token is unknown, has expired or was revoked", remedy="`wardround token new` makes another one at the hub"
        )


def check_scope(kept: ApiTokenRecord, role: str, act: Act) -> None:
    """Whether this token, in the hands of a person with this role, may do this.

    Raises:
        NotAllowed: its scopes or the role do not cover it.
    """
    if not any(act in SCOPES[Scope(word)] for word in kept.scopes.split()):
        able = next(scope for scope in Scope if act in SCOPES[scope]) if any(act in acts for acts in SCOPES.values()) else "none"
        raise NotAllowed(f"the token {kept.name} may not {act}", remedy=f"it needs the scope `{able}`")
    check_act(kept.person, role, act)
