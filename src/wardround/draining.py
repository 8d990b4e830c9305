"""Draining: an edge that is to be switched off gets no more work, empties its spool, and then the hub says that it is safe.

Nothing here stops an edge: it goes on measuring, and what it measures from now on waits in its spool or is sent as ever. That an
edge which was safe is silent afterwards is no alert. One hub's; the list survives its restarts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import msgspec
import structlog

from wardround.clock import Clock
from wardround.errors import WardroundError
from wardround.learn.grpc_wire import Beat
from wardround.store import EdgeRecord, Request
from wardround.threads import pairs

log = structlog.get_logger(__name__)
STATE, TOPIC = "drains", "drains"
SHOWN = "drains-shown"  # how far each is, for other processes
WHY = "draining"  # why an edge is not asked, beside the constants of schedule.py
SAFE_S = 10.0  # before its newest heartbeat: what devices send is in the spool now and then, so lately empty is enough
SAFE_BEATS = 2.5  # intervals of an edge that reports more seldom: the newest, the one before, and what has not been looked at
Stage = Literal["finishing", "emptying", "safe", "off", "away"]


class Drain(msgspec.Struct, frozen=True):
    """What is kept of an edge that is drained."""

    edge: str
    who: str
    since_us: int
    safe_us: int = 0  # when nothing was left, last
    left: int = 0  # observations in its spool, as it said last


@dataclass(frozen=True, slots=True)
class Drained:
    """How far an edge is."""

    edge: str
    who: str
    since_us: int
    stage: Stage
    words: str


class Store(Protocol):
    """The store, as far as it is asked here."""

    def edges(self) -> list[EdgeRecord]: ...

    def load_state(self, key: str) -> bytes | None: ...

    def save_state(self, key: str, value: bytes) -> None: ...

    def requests(self, topic: str) -> list[Request]: ...

    def put_request(self, request: Request) -> None: ...


class Draining:
    """The edges of one hub that are drained. May be called from any thread."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        attached: Callable[[], Collection[str]],
        rounds: Callable[[str], Collection[str]],
        record: Callable[..., None],
        happened: Callable[[str, str], None],
    ) -> None:
        """`rounds(edge)` names what still waits for it: "round 7 of activity"."""
        self._store, self._clock, self._attached, self._rounds = store, clock, attached, rounds
        self._record, self._happened = record, happened
        self._lock = threading.Lock()
        kept = msgspec.json.decode(store.load_state(STATE) or b"[]", type=list[Drain])
        self._drains: Mapping[str, Drain] = {one.edge: one for one in kept}
        self._shown = b""
        self._said: dict[str, tuple[int, Beat]] = {}  # the newest heartbeat, since it is drained or the hub started

    # -- what people ask

    def begin(self, edge: str, who: str) -> str:
        """Give an edge no more work; words.

        Raises:
            WardroundError: there is no such edge, or it is drained already.
        """
        if not any(one.name == edge and one.revoked_us is None for one in self._store.edges()):
            raise WardroundError(f"no edge is called {edge}, or it is revoked", remedy="`wardround hub edges` names them")
        if edge in self._drains:
            raise WardroundError(f"{edge} is drained already", remedy=f"`wardround edge drain {edge} --undo` gives it work again")
        self._record("change", "edge drained", who, edge=edge)
        with self._lock:
            self._said.pop(edge, None)
            one = Drain(edge, who, self._clock.now_us())
            self._put({**self._drains, edge: one})
        self._happened(f"{edge} is drained", f"by {who}: it gets no more work")
        return f"{edge} gets no more work. {self._drained(one).words}"

    def end(self, edge: str, who: str) -> str:
        """Give it work again; words.

        Raises:
            WardroundError: it is not drained.
        """
        if edge not in self._drains:
            raise WardroundError(f"{edge} is not drained", remedy="`wardround edge drain` names those that are")
        self._record("change", "edge used again", who, edge=edge)
        with self._lock:
            self._put({name: one for name, one in self._drains.items() if name != edge})
        self._happened(f"{edge} is used again", f"by {who}")
        return f"{edge} is used again, from the next round on."

    def look(self) -> None:
        """Answer what the command line asks, see how far each edge is, forget those that have gone for good. Call it about once a
        second, in a thread."""
        for request in self._store.requests(TOPIC):
            act = self.begin if request.act == "drain" else self.end
            try:
                answered = replace(request, state="done", answer=act(str(request.body.get("edge", "")), request.who))
            except WardroundError as error:
                answered = replace(request, state="refused", answer=str(error))
            self._store.put_request(answered)
        if self._drains:
            known = {one.name for one in self._store.edges() if one.revoked_us is None}
            with self._lock:
                if set(self._drains) - known:
                    self._put({name: one for name, one in self._drains.items() if name in known})
            for edge, (at_us, beat) in pairs(self._said):
                self._see(edge, at_us, beat)
        told = msgspec.json.encode(self.all())
        if told != self._shown:
            self._shown = told
            self._store.save_state(SHOWN, told)

    def _see(self, edge: str, at_us: int, beat: Beat) -> None:
        idle = not beat.spooled and not beat.working_on and not self._rounds(edge)
        with self._lock:
            one = self._drains.get(edge)
            if one is None or at_us < one.since_us:
                return
            first = idle and not one.safe_us
            # Written when it says something new, not with each heartbeat.
            if first or one.left != beat.spooled or (idle and at_us - one.safe_us > SAFE_S * 1e6 / 2):
                changed = msgspec.structs.replace(one, safe_us=at_us if idle else one.safe_us, left=beat.spooled)
                self._put({**self._drains, edge: changed})
        if first:
            self._happened(f"{edge} can be switched off", "its spool is empty, and no round waits for it")

    # -- what the hub asks

    def why_not(self, edge: str) -> str:
        """Why an edge gets no work; empty: nothing here speaks against it."""
        return WHY if edge in self._drains else ""

    def heard(self, edge: str, beat: Beat) -> None:
        """A heartbeat. Waits for nothing: `look` does what follows from it."""
        if edge in self._drains:
            self._said[edge] = self._clock.now_us(), beat

    def off(self) -> frozenset[str]:
        """Edges of which silence is expected: nothing was left when they were last heard."""
        return frozenset(one.edge for one in self.all() if one.stage in ("safe", "off"))

    # -- how far each is

    def all(self) -> tuple[Drained, ...]:
        """Every edge that is drained, by name."""
        drains = self._drains  # as they stand: one may end meanwhile
        return tuple(self._drained(drains[edge]) for edge in sorted(drains))

    def of(self, edge: str) -> Drained:
        """One of them.

        Raises:
            WardroundError: it is not drained.
        """
        one = self._drains.get(edge)
        if one is None:
            raise WardroundError(f"{edge} is not drained", remedy=f"`wardround edge drain {edge}` begins")
        return self._drained(one)

    def _drained(self, one: Drain) -> Drained:
        stage, words = self._standing(one)
        return Drained(one.edge, one.who, one.since_us, stage, words)

    def _standing(self, one: Drain) -> tuple[Stage, str]:
        if one.edge not in self._attached():
            return self._away(one)
        at_us, beat = self._said.get(one.edge, (0, None))
        if parts := self._rounds(one.edge):
            return "finishing", f"{', '.join(sorted(parts))} still waits for it."
        if beat is None:
            return "emptying", "Its next heartbeat says what waits there."
        if beat.working_on:
            return "finishing", f"It still works on {beat.working_on}."
        if at_us - one.safe_us <= max(SAFE_S, SAFE_BEATS * beat.interval_s) * 1e6:
            return "safe", "It is safe to switch it off: its spool is empty, and no round waits for it."
        return "emptying", f"{_waiting(one.left)} in its spool."

    def _away(self, one: Drain) -> tuple[Stage, str]:
        if one.safe_us and not one.left:
            return "off", "It is away, and nothing was left there. It gets no work when it comes back, until this is undone."
        if not one.safe_us and one.edge not in self._said:
            return "away", "It is not connected. What waits there is not known; it is safe there, and is sent when it is back."
        return "away", f"It is not connected, and {_waiting(one.left)} there, safe, until it is back."

    def _put(self, drains: Mapping[str, Drain]) -> None:
        self._store.save_state(STATE, msgspec.json.encode([drains[edge] for edge in sorted(drains)]))
        self._drains = drains
        self._said = {edge: said for edge, said in self._said.items() if edge in drains}


def _waiting(n: int) -> str:
    return f"{n:,} observation waits" if n == 1 else f"{n:,} observations wait"


def shown(saved: bytes) -> list[Drained]:
    """What the hub has last shown under SHOWN."""
    return msgspec.json.decode(saved or b"[]", type=list[Drained])


def rounds_of(edge: str, open_rounds: Mapping[str, tuple[int, Collection[str]]]) -> set[str]:
    """The rounds in progress that an edge takes part in. `open_rounds` has the number and who was asked, by study."""
    return {f"round {number} of {study}" for study, (number, asked) in open_rounds.items() if edge in asked}
