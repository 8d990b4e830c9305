"""What programs ask of the hub: the console's desk, with the acts that only the command line had, each in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from wardround.clock import Clock
from wardround.console.model import HoursView, Overview, RoutineView
from wardround.records import ApiTokenRecord
from wardround.store import Store
from wardround.trust.join import TOKEN_LIFE_S, mint
from wardround.watch.alerts import Silence

RECORDED = ("acknowledge", "undo")  # the console's desk records them itself


class Desk(Protocol):
    """The desk of the console, as far as it is asked here."""

    def overview(self) -> Overview: ...

    def routines(self) -> tuple[RoutineView, ...]: ...

    @property
    def hours(self) -> Callable[[], HoursView | None]: ...

    def answer(self, act: str, body: Mapping[str, Any], who: str) -> str: ...


Record = Callable[..., None]  # (kind, what, who, **facts): an entry of the audit log


class ApiDesk:
    """The desk of one hub for its API. May be called from any thread."""

    def __init__(
        self,
        desk: Desk,
        *,
        store: Store,
        clock: Clock,
        record: Record,
        silences: Callable[[], Sequence[Silence]],
        request_id: Callable[[Clock], str],
        invites: Callable[[], tuple[str, int, bytes]],
    ) -> None:
        """`invites()` gives host and port of the enrolment listener, and the authority's fingerprint."""
        self._desk, self._store, self._clock, self._record = desk, store, clock, record
        self.silences, self._request_id, self._invites = silences, request_id, invites

    def overview(self) -> Overview:
        """The newest read model."""
        return self._desk.overview()

    def routines(self) -> tuple[RoutineView, ...]:
        """What the hub does by the clock."""
        return self._desk.routines()

    def hours(self) -> HoursView | None:
        """How complete each signal came."""
        return self._desk.hours()

    def answer(self, act: str, body: Mapping[str, Any], who: str) -> str:
        """Do what is asked of alerts. Raises WardroundError: it cannot be done, and why."""
        if act not in RECORDED:
            facts = {name: str(value) for name, value in body.items()}
            self._record("change", f"alerts: {act}", who, **facts)
        return self._desk.answer(act, body, who)

    def invite(self, edge: str, who: str) -> tuple[str, float]:
        """A join token, and how long it holds. Raises WardroundError: the name is not allowed."""
        host, port, pin = self._invites()
        self._record("change", "edge invited", who, edge=edge)
        return mint(self._store, self._clock, name=edge, host=host, port=port, pin=pin), TOKEN_LIFE_S

    def revoke(self, edge: str, who: str) -> bool:
        """Shut an edge out."""
        if not any(known.name == edge and known.revoked_us is None for known in self._store.edges()):
            return False
        self._record("change", "edge revoked", who, edge=edge)
        return self._store.revoke_edge(edge, self._clock.now_us())

    def new_request_id(self) -> str:
        """For what is asked of a study."""
        return self._request_id(self._clock)

    def now_us(self) -> int:
        """The hub's time."""
        return self._clock.now_us()

    # -- tokens

    def api_token(self, token_id: str) -> ApiTokenRecord | None:
        """A token as it is kept."""
        return self._store.api_token(token_id)

    def api_token_used(self, token_id: str, now_us: int) -> None:
        """Note its use."""
        self._store.api_token_used(token_id, now_us)

    def role(self, person: str) -> str:
        """What the person is now; empty for nobody."""
        known = self._store.person(person)
        return known.role if known is not None else ""

    def denied(self, what: str, who: str, reason: str) -> None:
        """An entry of the audit log."""
        self._record("denied", what, who, reason=reason)
