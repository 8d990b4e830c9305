"""One open page: what it has been sent, what it sends back, and what becomes of an act."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import structlog
from nicegui import Client, events, ui

from wardround.console import frame, parts
from wardround.console.door import Session, Sessions
from wardround.console.looking import Facts, Looking, OnAct, Reply, Screen
from wardround.console.model import Overview
from wardround.errors import NotAllowed, WardroundError

log = structlog.get_logger(__name__)
TICK_S = 0.25  # between two looks for news: the hub's read model is another one
SEND_EVERY = 4  # ticks: what changes beside the hub's read model
SEEN_EVERY = 240
FACTS_MAX, FACT_CHARS = 20, 300
LONG_CHARS = {"toml": 64_000, "note": 4_000}  # of what is a text by its nature
HEAD = (
    '<link rel="stylesheet" href="/static/tokens.css"><link rel="stylesheet" href="/static/console.css">'
    '<link rel="stylesheet" href="/static/screens.css">'
    '<script src="/static/console.js"></script>'
)


class LivePage:
    """One open page of one person. Its sections are made in a thread, one look at a time."""

    def __init__(
        self,
        screen: Screen,
        client: Client,
        looking: Looking,
        token: str,
        *,
        sessions: Sessions,
        overview: Callable[[], Overview],
        seen: Callable[[str], None],
        acts: Mapping[str, OnAct],
    ) -> None:
        """`acts` are those that every screen has; `seen` is told now and then that the person looks."""
        self._screen, self._client, self._looking, self._token = screen, client, looking, token
        self._sessions, self._overview, self._seen = sessions, overview, seen
        self._acts = {**acts, **screen.acts}
        self._sent: dict[str, str] = {}
        self._paused = False
        self._ticks, self._seen_at = 0, SEND_EVERY
        self._shown: Overview | None = None

    async def draw(self) -> None:
        """The page, complete before any live connection."""
        html, self._sent = await asyncio.to_thread(self._whole)
        ui.add_head_html(HEAD)
        root = ui.html(html, sanitize=False).classes("wr-root")
        root.on("wr-act", self._act, js_handler="(e) => emit(e.detail)")
        dispatch = f"document.getElementById('{root.html_id}').dispatchEvent(new CustomEvent('wr-act', {{detail: f}}))"
        ui.timer(0.01, lambda: self._run(f"wr.connect((f) => {dispatch})"), once=True)
        ui.timer(TICK_S, self._tick)

    def _whole(self) -> tuple[str, dict[str, str]]:
        html, sections = self._screen.frame(self._overview(), self._looking), self._sections()
        for key, text in sections.items():
            html = html.replace(f'id="{key}"></', f'id="{key}">{text}</', 1)
        return html, sections

    def _sections(self) -> dict[str, str]:
        return {**frame.live(self._overview()), **self._screen.sections(self._looking)}

    async def _tick(self) -> None:
        """Send what has changed, at once where the hub has news; a page whose session has ended is sent to sign in."""
        self._ticks += 1
        if self._overview() is self._shown and self._ticks % SEND_EVERY:
            return
        session = self._sessions.get(self._token, use=False)  # an open page is nobody's sign of life: `here` is
        if session is None:
            ui.navigate.to("/login")
            return
        self._looking = replace(self._looking, role=session.role)
        if self._paused:
            return
        if self._ticks >= self._seen_at:
            self._seen_at = self._ticks + SEEN_EVERY
            self._seen(self._looking.name)
        await self._send()

    async def _send(self) -> None:
        self._shown = self._overview()
        sections = await asyncio.to_thread(self._sections)
        changed = {key: text for key, text in sections.items() if self._sent.get(key) != text}
        self._sent = sections
        if changed:
            self._run(f"wr.patch({json.dumps(changed)})")

    async def _act(self, event: events.GenericEventArguments) -> None:
        facts = facts_of(event.args)
        act = facts.pop("act", "")
        if act in ("pause", "resume"):
            self._paused = act == "pause"
            self._sent = {}  # what was on its way when it was paused was not shown
        elif self._sessions.get(self._token) is None:
            ui.navigate.to("/login")
        elif (do := self._acts.get(act)) is not None:
            await self._do(act, do, facts)

    async def _do(self, act: str, do: OnAct, facts: Facts) -> None:
        try:
            reply = await asyncio.to_thread(do, facts, self._looking)
        except NotAllowed as refused:
            log.warning("an act was refused", name=self._looking.name, act=act)
            self._say(refused)
        except WardroundError as refused:
            self._say(refused)
        else:
            self._answer(reply)
            if not reply.dialog and not reply.go and not self._paused:
                await self._send()

    def _say(self, refused: WardroundError) -> None:
        said, remedy = str(refused), refused.remedy or "nothing was changed"
        word = said.split(" ", 1)[0]
        if word.isalpha() and not said.startswith(self._looking.name):  # not a name, nor a key such as rounds.count
            said = f"{said[:1].upper()}{said[1:]}"
        html = parts.error(f"{said}.", f"{remedy[:1].upper()}{remedy[1:]}.")
        self._run(f"wr.said({json.dumps(html)})")

    def _answer(self, reply: Reply) -> None:
        if reply.dialog:
            self._run(f"wr.dialog({json.dumps(reply.dialog)})")
        if reply.toast:
            self._run(f"wr.toast({json.dumps(reply.toast)}, {json.dumps(dict(reply.undo) if reply.undo else None)})")
        if reply.go:
            ui.navigate.to(reply.go)

    def _run(self, code: str) -> None:
        with contextlib.suppress(RuntimeError):  # the page was closed a moment ago
            self._client.run_javascript(code)


def looking_of(session: Session, **at: object) -> Looking:
    """Who looks, and at what."""
    known = asdict(session)
    return Looking(name=known["name"], role=known["role"], since_us=known["since_us"], **at)  # type: ignore[arg-type]


def facts_of(sent: object) -> dict[str, str]:
    """What a page sent with an act: few, short words; of a text as much as shows that it is too long."""
    if not isinstance(sent, dict):
        return {}
    pairs = [(str(key)[:40], str(value)) for key, value in list(sent.items())[:FACTS_MAX]]
    return {key: value[: LONG_CHARS.get(key, FACT_CHARS)] for key, value in pairs}
