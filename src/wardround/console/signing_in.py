"""Signing in: name and password, then a code where there is a second factor, or its enrolment where the hub wants one.

Between the password and the code a browser holds a token that opens these pages alone, for five minutes. A session begins with a
token of its own, and a changed second factor gives another one: what stood before is shut.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Protocol

import structlog
from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from wardround.clock import Clock
from wardround.console import sign_in_pages as pages
from wardround.console.door import COOKIE, Session, Sessions, token_of
from wardround.console.elsewhere import Elsewhere, Provider
from wardround.errors import LoginRefused, WardroundError

log = structlog.get_logger(__name__)
HALF_COOKIE = "wr-half"
HALF_S = 300.0
HALVES_MAX = 1_000
TOO_LATE = "That took longer than five minutes: begin again."
Text = Annotated[str, Form(max_length=100)]
Secret = Annotated[str, Form(max_length=300)]
Code = Annotated[str, Form(max_length=40)]


class NextStep(StrEnum):
    """What a password that fits leads to."""

    IN = "in"
    CODE = "code"
    ENROL = "enrol"


@dataclass(frozen=True, slots=True)
class Came:
    """Someone who is in. `since_us` is when they were last here before."""

    name: str
    role: str
    since_us: int | None


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A second factor that is being made: the secret as it is typed, and as the QR code says it."""

    secret: str
    address: str


class People(Protocol):
    """What the console asks of the hub about who comes in."""

    @property
    def required(self) -> bool: ...

    def sign_in(self, name: str, password: str) -> NextStep:
        """What comes next. Raises LoginRefused."""

    def come_from(self, identity: Any) -> tuple[str, NextStep]:
        """Who the provider's account is here, and what comes next. Raises LoginRefused."""

    def come_in(self, name: str, how: str) -> Came:
        """Note it. Raises LoginRefused: the person is gone."""

    def check_code(self, name: str, code: str) -> str:
        """Which kind of code fits. Raises LoginRefused."""

    def has_factor(self, name: str) -> bool: ...

    def enrol(self, name: str, *, anew: bool) -> Enrolment:
        """To be shown. Raises TrustError."""

    def confirm(self, name: str, code: str) -> tuple[str, ...]:
        """Recovery codes. Raises LoginRefused."""

    def remove(self, name: str, code: str) -> None:
        """Raises WardroundError."""

    def standing(self, name: str) -> str: ...

    def fresh_standing(self, name: str) -> str: ...


class Halves:
    """Who has shown a password (or an account elsewhere) and nothing more, in memory. Safe to use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._halves: dict[str, tuple[str, NextStep, float, str]] = {}

    def start(self, name: str, step: NextStep, how: str) -> str:
        """A new token; the oldest goes when there are too many."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._halves) >= HALVES_MAX:
                del self._halves[next(iter(self._halves))]
            self._halves[token] = (name, step, self._clock.monotonic_s() + HALF_S, how)
        return token

    def get(self, token: str, step: NextStep) -> str | None:
        """Whose token this is, while it lives and is for this step."""
        with self._lock:
            name, for_step, until_s, _ = self._halves.get(token, ("", NextStep.IN, 0.0, ""))
            if self._clock.monotonic_s() >= until_s:
                self._halves.pop(token, None)
                return None
        return name if for_step is step else None

    def end(self, token: str) -> str:
        """It opens nothing any more; what was shown for it."""
        with self._lock:
            return self._halves.pop(token, ("", NextStep.IN, 0.0, ""))[3]


class SigningIn:
    """The pages and forms of signing in, and each person's own page."""

    def __init__(
        self,
        people: People,
        sessions: Sessions,
        clock: Clock,
        *,
        secure: bool,
        place: Callable[[], tuple[str, bool]],
        provider: Provider | None = None,
        local: bool = True,
    ) -> None:
        """`place()` gives the site's name, and whether its patients are simulated. `local`: people may sign in by password."""
        self._people, self._sessions, self._secure, self._place = people, sessions, secure, place
        self._local, self._provider = local, provider
        self._halves = Halves(clock)
        if provider is not None:
            self._elsewhere = Elsewhere(
                provider, clock, secure=secure, enter=self._from_elsewhere, refuse=lambda words: self._ask(403, wrong=words)
            )

    def add_to(self, app: FastAPI) -> None:
        """Add every route."""
        for path, page in (("/login", self.ask), ("/login/code", self.ask_code), ("/login/enrol", self.ask_enrol)):
            app.get(path)(page)
        app.get("/account")(self.ask_account)
        app.post("/login")(self.password)
        app.post("/login/code")(self.code)
        app.post("/login/enrol")(self.enrol)
        app.post("/logout")(self.leave)
        app.post("/account/factor")(self.make_factor)
        app.post("/account/factor/remove")(self.remove_factor)
        if self._provider is not None:
            self._elsewhere.add_to(app)

    # -- coming in

    def ask(self) -> Response:
        """The first page."""
        return self._ask()

    def password(self, name: Text = "", password: Secret = "") -> Response:
        """Name and password."""
        if not self._local:
            return self._ask(403, wrong="People sign in elsewhere here.")
        try:
            step = self._people.sign_in(name, password)
            if step is NextStep.IN:
                return self._enter(name, "password", _to("/"))
        except LoginRefused as refused:
            return self._ask(403, wrong=f"{refused}.", name=name)
        return self._half_way(name, step, "password", _to(f"/login/{step}"))

    def ask_code(self, request: Request) -> Response:
        """The question for the code."""
        _, name = self._half(request, NextStep.CODE)
        return self._shown(pages.code_page) if name is not None else _to("/login")

    def code(self, request: Request, code: Code = "") -> Response:
        """A code of the app, or a recovery code."""
        token, name = self._half(request, NextStep.CODE)
        if name is None:
            return self._ask(403, wrong=TOO_LATE)
        try:
            kind = self._people.check_code(name, code)
            shown = self._halves.end(token)
            return self._enter(name, f"{shown} and {kind}", _to("/"))
        except LoginRefused as refused:
            return self._shown(pages.code_page, 403, wrong=f"{refused}.")

    def ask_enrol(self, request: Request) -> Response:
        """A second factor to be made before coming in, where the hub wants one of everybody."""
        _, name = self._half(request, NextStep.ENROL)
        if name is None or self._people.has_factor(name):
            return _to("/login")
        return self._shown(pages.enrol_page, made=self._people.enrol(name, anew=True))

    def enrol(self, request: Request, code: Code = "") -> Response:
        """Its first code."""
        token, name = self._half(request, NextStep.ENROL)
        if name is None or self._people.has_factor(name):
            return self._ask(403, wrong=TOO_LATE)
        try:
            codes = self._people.confirm(name, code)
        except LoginRefused as refused:
            return self._shown(pages.enrol_page, 403, made=self._people.enrol(name, anew=False), wrong=f"{refused}.")
        shown = self._halves.end(token)
        return self._enter(name, f"{shown} and a new second factor", self._shown(pages.codes_page, codes=codes))

    def leave(self, request: Request) -> Response:
        """Sign out."""
        self._sessions.end(token_of(request.headers.get("cookie", "")))
        answer = _to("/login")
        answer.delete_cookie(COOKIE, path="/")
        return answer

    # -- each person's own page

    def ask_account(self, request: Request) -> Response:
        """The second factor: on or off."""
        session = self._session(request)
        return self._account(session) if session is not None else _to("/login")

    def make_factor(self, request: Request, code: Code = "") -> Response:
        """Turn it on."""
        session = self._session(request)
        if session is None:
            return _to("/login")
        try:
            codes = self._people.confirm(session.name, code)
        except WardroundError as refused:
            return self._account(session, 403, f"{refused}.")
        return self._again(session, self._shown(pages.codes_page, codes=codes))

    def remove_factor(self, request: Request, code: Code = "") -> Response:
        """Turn it off."""
        session = self._session(request)
        if session is None:
            return _to("/login")
        try:
            self._people.remove(session.name, code)
        except WardroundError as refused:
            return self._account(session, 403, f"{refused}.")
        return self._again(session, _to("/account"))

    def _account(self, session: Session, status: int = 200, wrong: str = "") -> Response:
        has = self._people.has_factor(session.name)
        made = None if has else self._people.enrol(session.name, anew=not wrong)
        facts = {"who": session.name, "role": session.role, "has": has, "required": self._people.required}
        return self._shown(pages.account_page, status, **facts, made=made, wrong=wrong)

    # -- parts

    def _ask(self, status: int = 200, *, wrong: str = "", name: str = "") -> Response:
        label = self._provider.label if self._provider is not None else ""
        return self._shown(pages.login_page, status, wrong=wrong, name=name, elsewhere=label, local=self._local)

    def _half_way(self, name: str, step: NextStep, how: str, answer: Response) -> Response:
        token = self._halves.start(name, step, how)
        answer.set_cookie(
            HALF_COOKIE, token, max_age=round(HALF_S), httponly=True, samesite="strict", secure=self._secure, path="/login"
        )
        return answer

    def _from_elsewhere(self, identity: Any, page: Callable[[str], Response]) -> Response:
        """Raises LoginRefused: this account is nobody here."""
        name, step = self._people.come_from(identity)
        if step is NextStep.IN:
            return self._enter(name, "single sign-on", page("/"))
        return self._half_way(name, step, "single sign-on", page(f"/login/{step}"))

    def _shown(self, text: Callable[..., str], status: int = 200, **facts: object) -> Response:
        site, simulated = self._place()
        return HTMLResponse(text(site, simulated=simulated, **facts), status, headers={"cache-control": "no-store"})

    def _session(self, request: Request) -> Session | None:
        return self._sessions.get(token_of(request.headers.get("cookie", "")))

    def _half(self, request: Request, step: NextStep) -> tuple[str, str | None]:
        token = token_of(request.headers.get("cookie", ""), HALF_COOKIE)
        return token, self._halves.get(token, step)

    def _enter(self, name: str, how: str, answer: Response) -> Response:
        """Raises LoginRefused: the person is gone."""
        standing = self._people.fresh_standing(name)
        came = self._people.come_in(name, how)
        log.info("signed in", name=came.name, role=came.role, how=how)
        return self._keep(answer, self._sessions.start(came.name, came.role, came.since_us, standing))

    def _again(self, session: Session, answer: Response) -> Response:
        """After a change of what the session stands on: a new one, as all others of this person end."""
        standing = self._people.fresh_standing(session.name)
        return self._keep(answer, self._sessions.start(session.name, session.role, session.since_us, standing))

    def _keep(self, answer: Response, token: str) -> Response:
        life_s = round(self._sessions.life_s)
        answer.set_cookie(COOKIE, token, max_age=life_s, httponly=True, samesite="strict", secure=self._secure, path="/")
        answer.delete_cookie(HALF_COOKIE, path="/login", httponly=True, samesite="strict", secure=self._secure)
        return answer


def _to(path: str) -> Response:
    return RedirectResponse(path, status_code=303)
