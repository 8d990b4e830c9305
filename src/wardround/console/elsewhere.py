"""Signing in elsewhere: the browser goes to an OpenID Connect provider and comes back.

What a sign-in needs to be finished stays here, under a token in a cookie of its own: what comes back in another browser, twice or
after five minutes, opens nothing. That cookie alone is sent on the way back from another site; the session's never is, so the
last page goes on to the console by itself.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Annotated, Any, Protocol

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from wardround.clock import Clock
from wardround.console.door import token_of
from wardround.errors import LoginRefused

START, DONE = "/login/oidc", "/login/oidc/done"
COOKIE = "wr-elsewhere"
WAIT_S, WAITING_MAX = 300.0, 1_000
GO_ON = '<!doctype html><meta http-equiv="refresh" content="0; url={}"><title>Signed in</title><a href="{}">Go on</a>'
Long = Annotated[str, Query(max_length=4_000)]


class Begun(Protocol):
    """A sign-in under way."""

    @property
    def address(self) -> str: ...


class Provider(Protocol):
    """Where people sign in."""

    @property
    def label(self) -> str: ...

    def begin(self) -> Any:
        """A `Begun`. Raises LoginRefused."""

    def finish(self, begun: Any, *, code: str, state: str, issuer: str = "") -> Any:
        """Who it is, for `People.come_from`. Raises LoginRefused."""


class Elsewhere:
    """The two routes."""

    def __init__(
        self,
        provider: Provider,
        clock: Clock,
        *,
        secure: bool,
        enter: Callable[[Any, Callable[[str], Response]], Response],
        refuse: Callable[[str], Response],
    ) -> None:
        """`enter(identity, page)` lets someone in, by a page that goes on to an address; `refuse(words)` shows why not."""
        self._provider, self._clock, self._secure, self._enter, self._refuse = provider, clock, secure, enter, refuse
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple[Any, float]] = {}

    def add_to(self, app: FastAPI) -> None:
        """Add them."""
        app.get(START)(self.begin)
        app.get(DONE)(self.done)

    def begin(self) -> Response:
        """Off to the provider."""
        try:
            begun = self._provider.begin()
        except LoginRefused as refused:
            return self._refuse(f"{refused}.")
        token = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._waiting) >= WAITING_MAX:
                del self._waiting[next(iter(self._waiting))]
            self._waiting[token] = (begun, self._clock.monotonic_s() + WAIT_S)
        answer = RedirectResponse(begun.address, status_code=303, headers={"cache-control": "no-store"})
        answer.set_cookie(COOKIE, token, max_age=round(WAIT_S), httponly=True, samesite="lax", secure=self._secure, path=START)
        return answer

    def done(self, request: Request, code: Long = "", state: Long = "", iss: Long = "", error: Long = "") -> Response:
        """Back from there."""
        with self._lock:
            begun, until_s = self._waiting.pop(token_of(request.headers.get("cookie", ""), COOKIE), (None, 0.0))
        if begun is None or self._clock.monotonic_s() >= until_s:
            return self._refuse("That sign-in is over, or was begun in another browser: begin again.")
        if error:
            return self._refuse("The provider has not let you in." if error == "access_denied" else "The provider has refused.")
        try:
            identity = self._provider.finish(begun, code=code, state=state, issuer=iss)
            answer = self._enter(identity, _go_on)
        except LoginRefused as refused:
            return self._refuse(f"{refused}.")
        answer.delete_cookie(COOKIE, path=START, httponly=True, samesite="lax", secure=self._secure)
        return answer


def _go_on(address: str) -> Response:
    return HTMLResponse(GO_ON.format(address, address), headers={"cache-control": "no-store"})
