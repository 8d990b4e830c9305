"""The console's door: who may come in, and the same question for every request and every live connection.

A session is a random token in a cookie that scripts cannot read and other sites cannot send; the hub keeps the rest. Everything
but the sign-in page and the static files needs one, the live connection included, and both must come from the console's own
pages. No page may be put into a frame.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wardround.clock import Clock
from wardround.console.bodies import BodyTooLarge, BodyTooSlow, HungUp, whole_body

COOKIE = "wr-session"
SESSIONS_MAX = 1_000
OPEN_PATHS = ("/login", "/static/", "/_nicegui/")
HEADERS = {
    "x-frame-options": "DENY",
    "content-security-policy": "frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Session:
    """Someone who has signed in. `since_us` is when they were last here before."""

    name: str
    role: str
    since_us: int | None
    started_s: float
    used_s: float
    standing: str = ""  # what it stands on: another role, password or second factor ends it


class Sessions:
    """Who is signed in, in memory: a restart of the hub signs everybody out. Safe to use from several threads."""

    def __init__(self, clock: Clock, *, life_s: float, idle_s: float, standing: Callable[[str], str]) -> None:
        """`idle_s` without a sign of a person ends a session, 0 never does; `standing(name)` as it was at the start keeps it."""
        self.life_s, self._idle_s = life_s, idle_s
        self._clock, self._standing = clock, standing
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def start(self, name: str, role: str, since_us: int | None, standing: str) -> str:
        """A new session's token; the oldest session ends when there are too many."""
        token, now_s = secrets.token_urlsafe(32), self._clock.monotonic_s()
        with self._lock:
            self._sessions = {t: s for t, s in self._sessions.items() if self._lives(s, now_s)}
            while len(self._sessions) >= SESSIONS_MAX:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[token] = Session(name, role, since_us, now_s, now_s, standing)
        return token

    def get(self, token: str, *, use: bool = True) -> Session | None:
        """The session of a token while it lives; `use` puts off its end by idleness."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            session = self._sessions.get(token)
        stands = session is not None and self._standing(session.name) == session.standing
        with self._lock:
            if session is None or not stands or not self._lives(session, now_s):
                self._sessions.pop(token, None)
                return None
            if token not in self._sessions:  # it was ended meanwhile
                return None
            if use:
                self._sessions[token] = session = replace(self._sessions[token], used_s=now_s)
            return session

    def end(self, token: str) -> None:
        """Sign out."""
        with self._lock:
            self._sessions.pop(token, None)

    def _lives(self, session: Session, now_s: float) -> bool:
        idle = bool(self._idle_s) and now_s - session.used_s >= self._idle_s
        return now_s - session.started_s < self.life_s and not idle


class Door:
    """The guard, as ASGI middleware around the whole console."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self._app, self._sessions = app, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it in, send it to sign in, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        path, headers = scope["path"], _headers(scope)
        known = self._sessions.get(token_of(headers.get("cookie", ""))) is not None
        changes = scope["type"] == "websocket" or scope.get("method") not in ("GET", "HEAD")
        if changes and not _same_origin(headers):
            await _refuse(scope, receive, send, 403, "This request does not come from the console's own pages.")
        elif known or path.startswith(OPEN_PATHS):
            await self._let_in(scope, receive, send, bounded=changes and scope["type"] == "http")
        elif scope["type"] == "websocket" or path.startswith("/_nicegui_ws"):
            await _refuse(scope, receive, send, 401, "Sign in first.")
        else:
            await RedirectResponse("/login", status_code=303)(scope, receive, _with_headers(send))

    async def _let_in(self, scope: Scope, receive: Receive, send: Send, *, bounded: bool) -> None:
        try:
            body = await whole_body(receive) if bounded else receive
        except HungUp:
            return
        except BodyTooLarge as large:
            await _refuse(scope, receive, send, 413, f"{large}.")
        except BodyTooSlow as slow:
            await _refuse(scope, receive, send, 408, f"{slow}.")
        else:
            await self._app(scope, body, _with_headers(send))


def token_of(cookie: str, name: str = COOKIE) -> str:
    """The session's token, or another's, out of a Cookie header; empty when there is none."""
    jar = SimpleCookie()
    try:
        jar.load(cookie)
    except CookieError:
        return ""
    return jar[name].value if name in jar else ""


def _headers(scope: Scope) -> dict[str, str]:
    return {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}


def _same_origin(headers: dict[str, str]) -> bool:
    """Whether a request that may change something was made by a page of this console."""
    origin = headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == headers.get("host", "")
    return headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {key.lower() for key, _ in message["headers"]}
            extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in present]
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return wrapped


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, words: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4000 + status, "reason": words})
        return
    await Response(words, status_code=status)(scope, receive, _with_headers(send))
