"""Who calls: a bearer token, its person, and how often it may ask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from fastapi import Request

from wardround.api.one_thread import here
from wardround.api.problems import Refused
from wardround.clock import Clock
from wardround.errors import LoginRefused, NotAllowed
from wardround.records import ApiTokenRecord
from wardround.trust.api_tokens import check_scope, check_token, token_id_of
from wardround.trust.roles import Act

USED_EVERY_US = 60_000_000  # how exactly "last used" is kept
PER_S, BURST = 300.0, 600.0  # calls of one token
WRONG_PER_S, WRONG_BURST = 0.5, 20.0  # wrong tokens of one address
KNOWN_MAX = 10_000


class Tokens(Protocol):
    """Where the hub keeps tokens and people."""

    def api_token(self, token_id: str) -> ApiTokenRecord | None: ...

    def api_token_used(self, token_id: str, now_us: int) -> None: ...

    def role(self, person: str) -> str:
        """What the person is now; empty for nobody."""

    def denied(self, what: str, who: str, reason: str) -> None:
        """An entry of the audit log."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A token that holds, and whose it is."""

    person: str
    token: ApiTokenRecord


class Buckets:
    """So many calls a second for each key, with a burst; the oldest key is forgotten. Safe to use from several threads."""

    def __init__(self, clock: Clock, per_s: float, burst: float) -> None:
        self._clock, self._per_s, self._burst = clock, per_s, burst
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, key: str, *, take: float = 1.0) -> float:
        """0 when the call may be made; otherwise seconds until it may. `take` 0 only looks."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            left, at_s = self._left.pop(key, (self._burst, now_s))
            left = min(self._burst, left + (now_s - at_s) * self._per_s)
            wait_s = 0.0 if left >= 1.0 else (1.0 - left) / self._per_s
            self._left[key] = (left - take if wait_s == 0.0 else left, now_s)
            while len(self._left) > KNOWN_MAX:
                self._left.popitem(last=False)
        return wait_s


class Callers:
    """Turns a request into a `Caller` who may do something."""

    def __init__(self, tokens: Tokens, clock: Clock) -> None:
        self._tokens, self._clock = tokens, clock
        self._calls, self._wrong = Buckets(clock, PER_S, BURST), Buckets(clock, WRONG_PER_S, WRONG_BURST)

    def may(self, act: Act) -> Callable[[Request], Awaitable[Caller]]:
        """A dependency of a route that is answered in one thread: the caller, when token and role cover the act."""
        return here(self.may_on_loop(act))

    def may_on_loop(self, act: Act) -> Callable[[Request], Caller]:
        """The same for a route that is answered on the loop: FastAPI asks it in a thread."""

        def caller(request: Request) -> Caller:
            found = self.caller(request)
            self.check(found, act)
            return found

        return caller

    def caller(self, request: Request) -> Caller:
        """Raises Refused: no token that holds, or too many calls."""
        address = request.client.host if request.client is not None else ""
        _brake(self._wrong.wait_s(address, take=0.0))
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not text:
            raise Refused(
                401,
                "there is no bearer token in the request",
                remedy="`wardround token new` makes one; send it as `Authorization: Bearer wra...`",
                headers={"WWW-Authenticate": 'Bearer realm="wardround"'},
            )
        now_us, token_id = self._clock.now_us(), token_id_of(text.strip())
        kept = self._tokens.api_token(token_id) if token_id else None
        try:
            check_token(text.strip(), kept, now_us)
        except LoginRefused as refused:
            self._wrong.wait_s(address)
            self._tokens.denied("token refused", address, str(refused))
            raise Refused(
                401,
                str(refused),
                remedy=refused.remedy,
                headers={"WWW-Authenticate": 'Bearer realm="wardround", error="invalid_token"'},
            ) from refused
        assert kept is not None  # noqa: S101 - a token that holds is kept
        _brake(self._calls.wait_s(token_id))
        if kept.used_us is None or now_us - kept.used_us > USED_EVERY_US:
            self._tokens.api_token_used(token_id, now_us)
        return Caller(kept.person, kept)

    def check(self, caller: Caller, act: Act) -> None:
        """Raises Refused: scope or role does not cover the act."""
        try:
            check_scope(caller.token, self._tokens.role(caller.person), act)
        except NotAllowed as refused:
            self._tokens.denied("act not allowed", caller.person, str(refused))
            raise Refused(403, str(refused), remedy=refused.remedy) from refused

    def lives(self, caller: Caller, act: Act) -> bool:
        """Whether a long answer may go on: the token is neither revoked nor over, and its person still may."""
        kept, now_us = self._tokens.api_token(caller.token.token_id), self._clock.now_us()
        if kept is None or kept.revoked_us is not None or now_us >= kept.expires_us:
            return False
        try:
            check_scope(kept, self._tokens.role(kept.person), act)
        except NotAllowed:
            return False
        return True


def _brake(wait_s: float) -> None:
    if wait_s > 0.0:
        raise Refused(
            429, f"wait {wait_s:.1f} s", remedy="ask less often", headers={"Retry-After": str(max(1, round(wait_s + 0.5)))}
        )
