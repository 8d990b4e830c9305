"""The console's server: NiceGUI in a thread with a loop of its own, so that a slow browser costs frames and never the hub's time.

The page is drawn once; then each session gets, once a second, the parts that have changed. Acts (acknowledge, undo) go to the
same functions as the command line's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from nicegui import Client, events, ui
from starlette.types import ASGIApp, Receive, Scope, Send

from wardround.clock import Clock
from wardround.console import automation, completeness, overview
from wardround.console.door import Door, Session, Sessions, token_of
from wardround.console.model import Overview, RoutineView, SignalHours
from wardround.console.overview import undo_dialog
from wardround.console.signing_in import People, SigningIn
from wardround.errors import NotAllowed, PortTaken

log = structlog.get_logger(__name__)
STATIC = Path(__file__).parent / "static"
TICK_S = 1.0
STOP_DEADLINE_S = 5.0
HEAD = (
    '<link rel="stylesheet" href="/static/tokens.css"><link rel="stylesheet" href="/static/console.css">'
    '<script src="/static/console.js"></script>'
)


class Frame(Protocol):
    """A screen without its live parts."""

    def __call__(self, view: Overview, *, who: str, role: str) -> str:
        """As HTML."""


Sections = Callable[[Session], dict[str, str]]  # the live parts of a screen, by the ids of their elements


class Desk(Protocol):
    """What the console asks of the hub."""

    def overview(self) -> Overview:
        """The newest read model."""

    def routines(self) -> tuple[RoutineView, ...]:
        """What the hub does by the clock, what is late first."""

    def hours(self) -> tuple[SignalHours, ...] | None:
        """How complete each signal came, the least first; None while that is being looked up."""

    def seen(self, name: str) -> None:
        """Someone is looking now."""

    def acknowledge(self, alert_id: str, who: str) -> bool:
        """Someone is on it; False when there is nothing to acknowledge any more. Raises NotAllowed."""

    def undo(self, alert_id: str, who: str, reason: str) -> bool:
        """Undo a response; False when there is nothing to undo any more. Raises NotAllowed."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the console listens. A certificate makes it HTTPS: needed as soon as it is not this machine alone."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None
    session_s: float = 12 * 3600.0
    idle_s: float = 3600.0


class Console:
    """One console. One may run in a process: NiceGUI keeps its pages in the module."""

    def __init__(
        self, desk: Desk, people: People, listening: Listening, clock: Clock, *, beside: Mapping[str, ASGIApp] | None = None
    ) -> None:
        """Open the port.

        Args:
            beside: what else the port carries, by the beginning of its paths; it has a door of its own.

        Raises:
            PortTaken: another process listens there.
        """
        self._desk, self._people, self._listening, self._clock = desk, people, listening, clock
        self._beside = dict(beside or {})
        self.sessions = Sessions(clock, life_s=listening.session_s, idle_s=listening.idle_s, standing=people.standing)
        self._socket = _bind(listening.host, listening.port)
        self.port: int = self._socket.getsockname()[1]
        self._server: uvicorn.Server | None = None
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)

    @property
    def secure(self) -> bool:
        """Whether it speaks HTTPS."""
        return self._listening.certificate is not None

    def _place(self) -> tuple[str, bool]:
        view = self._desk.overview()
        return view.site, view.simulated

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def renew(self) -> None:
        """Take a renewed certificate into use; open connections go on."""
        listening, server = self._listening, self._server
        if listening.certificate is not None and server is not None and server.config.ssl is not None:
            server.config.ssl.load_cert_chain(listening.certificate, listening.key)

    def close(self) -> None:
        """Stop; open pages say that the hub cannot be reached."""
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(STOP_DEADLINE_S)
        self._socket.close()

    def _run(self) -> None:
        try:
            config = uvicorn.Config(
                _Switch(self._app(), self._beside),
                log_config=None,
                access_log=False,
                lifespan="on",
                ws_ping_interval=20.0,
                timeout_graceful_shutdown=1,
                ssl_certfile=self._listening.certificate,
                ssl_keyfile=self._listening.key,
                server_header=False,
            )
            self._server = uvicorn.Server(config)
            self._server.run(sockets=[self._socket])
        except Exception:
            log.exception("the console has stopped")

    def _app(self) -> FastAPI:
        app = FastAPI(title="Wardround console", docs_url=None, redoc_url=None, openapi_url=None)
        app.mount("/static", StaticFiles(directory=STATIC), name="static")
        SigningIn(self._people, self.sessions, self._clock, secure=self.secure, place=self._place).add_to(app)
        ui.page("/", title="Overview - Wardround")(self._overview_page)
        ui.page("/completeness", title="Completeness - Wardround")(self._completeness_page)
        ui.page("/automation", title="Automation - Wardround")(self._automation_page)
        ui.run_with(app, tailwind=False, show_welcome_message=False, dark=None, reconnect_timeout=5.0, message_history_length=0)
        app.add_middleware(Door, sessions=self.sessions)
        return app

    async def _overview_page(self, request: Request, client: Client) -> None:
        def sections(session: Session) -> dict[str, str]:
            return overview.sections(self._desk.overview(), since_us=session.since_us, role=session.role)

        self._page(request, client, overview.frame, sections)

    async def _automation_page(self, request: Request, client: Client) -> None:
        desk = self._desk
        self._page(request, client, automation.frame, lambda _: automation.sections(desk.overview(), desk.routines()))

    async def _completeness_page(self, request: Request, client: Client) -> None:
        desk = self._desk
        self._page(request, client, completeness.frame, lambda _: completeness.sections(desk.overview(), desk.hours()))

    def _page(self, request: Request, client: Client, frame: Frame, sections: Sections) -> None:
        token = token_of(request.headers.get("cookie", ""))
        session = self.sessions.get(token)
        if session is None:  # it ended between the door and here
            ui.navigate.to("/login")
            return
        _Screen(self, client, token, session, sections).draw(frame)


class _Switch:
    """Hands a request to what stands beside the console, by the beginning of its path."""

    def __init__(self, console: ASGIApp, beside: Mapping[str, ASGIApp]) -> None:
        self._console, self._beside = console, beside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        app = next((app for start, app in self._beside.items() if path == start or path.startswith(f"{start}/")), self._console)
        await app(scope, receive, send)


class _Screen:
    """One open page: what it has been sent, and what it sends back."""

    def __init__(self, console: Console, client: Client, token: str, session: Session, sections: Sections) -> None:
        self._console, self._client, self._token, self._session = console, client, token, session
        self._desk, self._sections = console._desk, sections
        self._sent: dict[str, str] = {}
        self._paused = False
        self._ticks = 0

    def draw(self, frame: Frame) -> None:
        """The page, complete before any live connection."""
        view = self._desk.overview()
        ui.add_head_html(HEAD)
        parts = self._sections(self._session)
        self._sent = parts
        html = frame(view, who=self._session.name, role=self._session.role)
        for key, text in parts.items():
            html = html.replace(f'id="{key}"></', f'id="{key}">{text}</', 1)
        root = ui.html(html, sanitize=False).classes("wr-root")
        root.on("wr-act", self._act, js_handler="(e) => emit(e.detail)")
        dispatch = f"document.getElementById('{root.html_id}').dispatchEvent(new CustomEvent('wr-act', {{detail: f}}))"
        ui.timer(0.01, lambda: self._run(f"wr.connect((f) => {dispatch})"), once=True)
        ui.timer(TICK_S, self._tick)

    def _tick(self) -> None:
        """Send what has changed; a page whose session has ended is sent to sign in."""
        self._ticks += 1
        if self._console.sessions.get(self._token, use=False) is None:  # an open page is nobody's sign of life: `here` is
            ui.navigate.to("/login")
            return
        if self._paused:
            return
        if self._ticks % 60 == 2:
            self._desk.seen(self._session.name)
        parts = self._sections(self._session)
        changed = {key: text for key, text in parts.items() if self._sent.get(key) != text}
        self._sent = parts
        if changed:
            self._run(f"wr.patch({json.dumps(changed)})")

    async def _act(self, event: events.GenericEventArguments) -> None:
        facts = event.args if isinstance(event.args, dict) else {}
        act, alert_id = str(facts.get("act", "")), str(facts.get("alert", ""))[:40]
        if act in ("pause", "resume"):
            self._paused = act == "pause"
            self._sent = {}  # what was on its way when it was paused was not shown
        elif self._console.sessions.get(self._token) is None:
            ui.navigate.to("/login")
        elif act != "here":
            try:
                await self._do(act, alert_id, facts)
            except NotAllowed as refused:
                log.warning("an act was refused", name=self._session.name, act=act)
                self._toast(f"{refused}.")

    async def _do(self, act: str, alert_id: str, facts: dict[str, object]) -> None:
        """Raises NotAllowed: the person's role does not cover it."""
        if act == "acknowledge":
            done = await asyncio.to_thread(self._desk.acknowledge, alert_id, self._session.name)
            self._toast(f"{alert_id}: you are on it." if done else f"{alert_id} no longer waits for anybody.")
        elif act == "ask-undo":
            self._ask_undo(alert_id)
        elif act == "undo":
            reason = str(facts.get("reason", ""))[:300]
            done = await asyncio.to_thread(self._desk.undo, alert_id, self._session.name, reason)
            self._toast("Undone." if done else f"There is nothing left to undo in {alert_id}.")

    def _ask_undo(self, alert_id: str) -> None:
        found = [a for a in self._desk.overview().alerts if a.alert_id == alert_id and a.undo_title]
        if found:
            self._run(f"wr.dialog({json.dumps(undo_dialog(found[0]))})")
        else:
            self._toast(f"There is nothing left to undo in {alert_id}.")

    def _toast(self, text: str) -> None:
        self._run(f"wr.toast({json.dumps(text)})")

    def _run(self, code: str) -> None:
        with contextlib.suppress(RuntimeError):  # the page was closed a moment ago
            self._client.run_javascript(code)


def _bind(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
        opened.listen(256)
    except OSError as error:
        opened.close()
        raise PortTaken(host, port, setting="console.port") from error
    return opened
