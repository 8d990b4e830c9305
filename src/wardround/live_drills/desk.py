"""What is asked of a hub about live drills: who may take part, start one, stop it. One at a time; a kill ends it.

A drill that a kill came before is not taken up again: what was asked for is a look at the watch, and it can be asked for again.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from wardround.clock import Clock
from wardround.errors import StudyError, WardroundError
from wardround.learn.coordinator import Coordinator
from wardround.learn.drills import ABILITY
from wardround.live_drills.plan import SHOWN, TOPIC, Shown, check_plan, read_plan
from wardround.live_drills.sandbox import KEPT, Sandbox, Send
from wardround.malformed import MALFORMED
from wardround.records import EdgeId
from wardround.store import Request
from wardround.watch.watcher import Watch

log = structlog.get_logger(__name__)
FOLDER = "drills"


class Store(Protocol):
    """The store, as far as it is asked here."""

    def load_state(self, key: str) -> bytes | None: ...

    def save_state(self, key: str, value: bytes) -> None: ...

    def requests(self, topic: str) -> list[Request]: ...

    def put_request(self, request: Request) -> None: ...


class Link(Protocol):
    """The hub's link, as far as it is asked here."""

    @property
    def attached(self) -> set[EdgeId]: ...

    def abilities(self, edge: EdgeId) -> Collection[str]: ...

    @property
    def send(self) -> Send: ...


class LiveDrills:
    """One hub's. `look` is called about once a second and `turn` with every tick, in a thread; the rest from any thread."""

    def __init__(
        self,
        home: Path,
        *,
        store: Store,
        clock: Clock,
        watch: Watch,
        link: Callable[[], Link | None],
        sign: Callable[[bytes], tuple[bytes, bytes]],
        held: Callable[[EdgeId], str],
        told: set[str],
        record: Callable[..., None],
        happened: Callable[[str, str], None],
    ) -> None:
        """`told` is to hold the drills whose alerts go to people; `held(edge)` is why it gets no work, or empty."""
        self._folder, self._store, self._clock, self._watch = home / FOLDER, store, clock, watch
        self._link, self._sign, self._held, self._told = link, sign, held, told
        self._record, self._happened = record, happened
        self._lock = threading.Lock()  # of what is asked and of turns
        self._open: Sandbox | None = None
        self._saved = b""
        self._clean()

    @property
    def taking(self) -> Mapping[str, Coordinator]:
        """What edges work for, by name: for the link."""
        sandbox = self._open
        return {} if sandbox is None else {sandbox.name: sandbox.coordinator}

    def look(self) -> None:
        """Answer what is asked, move the drill on, and show how it stands."""
        with self._lock:
            for request in self._store.requests(TOPIC):
                try:
                    answered = replace(request, state="done", answer=self._act(request))
                except WardroundError as error:
                    remedy = f"; {error.remedy}" if error.remedy else ""
                    answered = replace(request, state="refused", answer=f"{error}{remedy}")
                self._store.put_request(answered)
            if self._open is not None:
                self._open.note_alerts()
                self._show(self._open.shown)

    def turn(self) -> None:
        """Move the drill on."""
        if self._open is not None:
            with self._lock:
                if self._open is not None and self._open.turn():
                    self._end("", "")

    def close(self) -> None:
        """The hub stops, and a drill with it."""
        with self._lock:
            self._end("stopped", "the hub was stopped")

    # -- acts

    def _act(self, request: Request) -> str:
        if request.act == "edges":
            return msgspec.json.encode(self._able()).decode()
        if request.act == "start":
            return self._start(request)
        if request.act == "stop":
            if self._open is None:
                raise StudyError("no drill runs", remedy="`wardround drill --live` starts one")
            name = self._open.name
            self._record("change", "drill stopped", request.who, study=name)
            self._end("stopped", f"by {request.who}")
            return f"{name} is stopped"
        raise StudyError(f"this hub cannot {request.act[:40]!r} a drill", remedy="bring hub and command to the same version")

    def _able(self) -> list[str]:
        """Who is connected, allows drills, and gets work."""
        link = self._link()
        if link is None:
            return []
        return sorted(e for e in link.attached if ABILITY in link.abilities(e) and not self._held(e))

    def _start(self, request: Request) -> str:
        plan, link = read_plan(request.body), self._link()
        if self._open is not None:
            raise StudyError(f"{self._open.name} runs", remedy="wait for its end, or stop it: one drill at a time")
        check_plan(plan, self._able())
        folder = self._folder / plan.study.name
        if link is None or folder.exists():
            raise StudyError(f"{plan.study.name} cannot begin", remedy="give the drill another name")
        facts = {"fault": plan.fault or "none", "edges": list(plan.edges), "struck": list(plan.struck)}
        self._record("change", "drill started", request.who, study=plan.study.name, sandbox=True, **facts, told=plan.deliver)
        if plan.deliver:
            self._told.add(plan.study.name)
        own = {"clock": self._clock, "watch": self._watch, "send": link.send, "sign": self._sign, "held": self._held}
        try:
            sandbox = Sandbox(plan, folder=folder, **own)  # type: ignore[arg-type]  # as they are named
        except WardroundError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._show(sandbox.shown)
        self._open = sandbox  # from here on the link knows it
        for edge in plan.edges:
            if edge in link.attached:
                sandbox.coordinator.attach(EdgeId(edge))
        self._happened(f"Drill {sandbox.name} started", f"by {request.who}: {plan.fault or 'no fault'}, in a sandbox")
        return sandbox.name

    def _end(self, state: str, why: str) -> None:
        sandbox = self._open
        if sandbox is None:
            return
        self._open = None  # the link knows it no more
        sandbox.end(state, why)
        self._show(sandbox.shown)
        shown = sandbox.shown
        words = f"{shown.round_number} rounds, {len(shown.alerts)} alerts{f': {shown.why}' if shown.why else ''}"
        self._record("change", "drill over", "hub", study=sandbox.name, state=shown.state, rounds=shown.round_number)
        self._happened(f"Drill {sandbox.name} is over", words)

    def _show(self, shown: Shown) -> None:
        data = msgspec.json.encode(shown)
        if data != self._saved:
            self._saved = data
            self._store.save_state(SHOWN, data)

    def _clean(self) -> None:
        """After a kill: the drill is over, its alerts too, and its files are gone."""
        data = self._store.load_state(SHOWN)
        if data:
            try:
                shown = msgspec.json.decode(data, type=Shown)
            except MALFORMED:  # of another version: nobody waits for it any more
                shown = None
            if shown is not None and shown.state == "running":
                shown.state, shown.why, shown.ended_us = "failed", "the hub was stopped meanwhile", self._clock.now_us()
                self._show(shown)
            if shown is not None and shown.told:
                self._told.add(shown.study)  # who was told that it fires is told that it is over
        for study in {a.finding.study for a in self._watch.open_alerts()}:
            self._watch.drill_over(study)
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if not (folder / KEPT).exists():
                shutil.rmtree(folder, ignore_errors=True)
