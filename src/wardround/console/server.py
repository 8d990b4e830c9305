"""The console's server: NiceGUI in a thread with a loop of its own, so that a slow browser costs frames and never the hub's time.

The page is drawn once; then each session gets, once a second, the parts that have changed. Acts (acknowledge, undo) go to the
same functions as the command line's.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog
import uvicorn
from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from nicegui import Client, ui
from starlette.types import ASGIApp, Receive, Scope, Send

from wardround.clock import Clock
from wardround.console import automation, completeness, find, overview
from wardround.console.bodies import BODY_MAX
from wardround.console.door import Door, Sessions, token_of
from wardround.console.elsewhere import Provider
from wardround.console.live import LivePage, looking_of
from wardround.console.looking import Facts, Looking, OnAct, Reply, Screen, params_of
from wardround.console.model import HoursView, Overview, RoutineView
from wardround.console.overview import undo_dialog
from wardround.console.signing_in import People, SigningIn
from wardround.console.tables import show_rows
from wardround.errors import PortTaken

log = structlog.get_logger(__name__)
STATIC = Path(__file__).parent / "static"
STOP_DEADLINE_S = 5.0
NAMED_CHARS = 100  # of what an address names


AddRoutes = Callable[[FastAPI, Sessions], None]


class Desk(Protocol):
    """What the console asks of the hub."""

    def overview(self) -> Overview:
        """The newest read model."""

    def routines(self) -> tuple[RoutineView, ...]:
        """What the hub does by the clock, what is late first."""

    def hours(self) -> HoursView | None:
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
    provider: Provider | None = None  # where people sign in elsewhere
    local_sign_in: bool = True


class Console:
    """One console. One may run in a process: NiceGUI keeps its pages in the module."""

    def __init__(
        self,
        desk: Desk,
        people: People,
        listening: Listening,
        clock: Clock,
        *,
        screens: Sequence[Screen] = (),
        files: Sequence[AddRoutes] = (),
        beside: Mapping[str, ASGIApp] | None = None,
    ) -> None:
        """Open the port.

        Args:
            screens: those beside Overview, Completeness and Automation.
            files: add routes for what may be taken away as a file, for sessions that may.
            beside: what else the port carries, by the beginning of its paths; it has a door of its own.

        Raises:
            PortTaken: another process listens there.
        """
        self._desk, self._people, self._listening, self._clock = desk, people, listening, clock
        self._screens, self._files, self._beside = tuple(screens), tuple(files), dict(beside or {})
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
                ws_max_size=BODY_MAX,
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
        SigningIn(
            self._people,
            self.sessions,
            self._clock,
            secure=self.secure,
            place=self._place,
            provider=self._listening.provider,
            local=self._listening.local_sign_in,
        ).add_to(app)
        for screen in (*self._own_screens(), *self._screens):
            ui.page(screen.path, title=f"{screen.title} - Wardround")(self._opened(screen))
        for add_routes in self._files:
            add_routes(app, self.sessions)
        ui.run_with(app, tailwind=False, show_welcome_message=False, dark=None, reconnect_timeout=5.0, message_history_length=0)
        app.add_middleware(Door, sessions=self.sessions)
        return app

    def _own_screens(self) -> tuple[Screen, ...]:
        desk = self._desk

        def first(looking: Looking) -> dict[str, str]:
            return overview.sections(desk.overview(), since_us=looking.since_us, role=looking.role)

        return (
            Screen("/", "Overview", _framed(overview.frame), first),
            Screen("/find", "Find", find.frame, lambda looking: find.sections(desk.overview(), looking)),
            Screen(
                "/automation",
                "Automation",
                _framed(automation.frame),
                lambda _: automation.sections(desk.overview(), desk.routines()),
            ),
            Screen(
                "/completeness",
                "Completeness",
                _framed(completeness.frame),
                lambda looking: completeness.sections(desk.hours(), looking),
            ),
        )

    def _opened(self, screen: Screen) -> Callable[[Request, Client], Awaitable[None]]:
        acts = {"show-rows": show_rows, **alert_acts(self._desk)}

        async def opened(request: Request, client: Client) -> None:
            token = token_of(request.headers.get("cookie", ""))
            session = self.sessions.get(token)
            if session is None:  # it ended between the door and here
                ui.navigate.to("/login")
                return
            named = {key: str(value)[:NAMED_CHARS] for key, value in request.path_params.items()}
            looking = looking_of(
                session,
                address=request.url.path,
                item=named.get("item", ""),
                part=named.get("part", ""),
                params=params_of(request.query_params.items()),
            )
            desk = self._desk
            page = LivePage(
                screen, client, looking, token, sessions=self.sessions, overview=desk.overview, seen=desk.seen, acts=acts
            )
            await page.draw()

        return opened


class _Switch:
    """Hands a request to what stands beside the console, by the beginning of its path."""

    def __init__(self, console: ASGIApp, beside: Mapping[str, ASGIApp]) -> None:
        self._console, self._beside = console, beside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        app = next((app for start, app in self._beside.items() if path == start or path.startswith(f"{start}/")), self._console)
        await app(scope, receive, send)


def _framed(frame: Callable[..., str]) -> Callable[[Overview, Looking], str]:
    return lambda view, looking: frame(view, who=looking.name, role=looking.role)


def alert_acts(desk: Desk) -> dict[str, OnAct]:
    """What every screen that shows alerts can do about one."""

    def acknowledge(facts: Facts, looking: Looking) -> Reply:
        alert = facts.get("alert", "")
        done = desk.acknowledge(alert, looking.name)
        return Reply(toast=f"{alert}: you are on it." if done else f"{alert} no longer waits for anybody.")

    def ask_undo(facts: Facts, _: Looking) -> Reply:
        alert = facts.get("alert", "")
        found = [a for a in desk.overview().alerts if a.alert_id == alert and a.undo_title]
        return Reply(dialog=undo_dialog(found[0])) if found else Reply(toast=f"There is nothing left to undo in {alert}.")

    def undo(facts: Facts, looking: Looking) -> Reply:
        alert = facts.get("alert", "")
        done = desk.undo(alert, looking.name, facts.get("reason", ""))
        return Reply(toast="Undone." if done else f"There is nothing left to undo in {alert}.")

    return {"acknowledge": acknowledge, "ask-undo": ask_undo, "undo": undo}


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
