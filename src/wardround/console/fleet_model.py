"""The read model of the Fleet screen: every edge as a row, how models reach the edges, and invitations that are open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from wardround.console.model import EdgeState, Priority

StepState = Literal["done", "waiting"]


@dataclass(frozen=True, slots=True)
class FleetEdge:
    """One edge. `need` is what it needs in words, empty: nothing; `urgency` puts those that need something first, 0 before all.

    Times are microseconds since 1970, 0: not known. `battery` is per cent, None: it has none, or has not said.
    """

    name: str
    state: EdgeState
    urgency: int
    need: str = ""
    priority: Priority | None = None  # of the most urgent alert about it
    alerts: int = 0
    seen_us: int = 0
    joined_us: int = 0
    per_s: float = 0.0
    certificate_us: int = 0
    spooled: int = 0
    spool_bytes: int = 0
    told: bool = False  # whether it has said anything of its spool and its machine since the hub started
    battery: float | None = None
    machine: str = ""  # what it says of its machine, in words
    via: str = ""  # the edge that it gets models from; empty: the hub
    model: str = ""  # the newest one it trained from, in words
    drain: str = ""  # how far it is when it gets no more work: finishing, emptying, safe, off, away
    drain_words: str = ""


@dataclass(frozen=True, slots=True)
class Branch:
    """An edge in the tree of the newest study; every one is after the one above it."""

    name: str
    above: str  # empty: the hub
    attached: bool


@dataclass(frozen=True, slots=True)
class InviteStep:
    """One step of an invitation."""

    title: str
    state: StepState


@dataclass(frozen=True, slots=True)
class Invitation:
    """One edge that is asked to join. Its token stands nowhere."""

    edge: str
    who: str
    until_us: int
    steps: tuple[InviteStep, ...]
    over: bool = False  # its token holds no more, and nobody used it


@dataclass(frozen=True, slots=True)
class FleetView:
    """Every edge that has joined, those that need something first."""

    now_us: int
    edges: tuple[FleetEdge, ...] = ()
    study: str = ""  # whose tree it is
    tree: tuple[Branch, ...] = ()
    invitations: tuple[Invitation, ...] = field(default=())  # the newest first


class FleetDesk(Protocol):
    """What the screen asks of the hub. Every act asks for the person's role again, and stands in the audit log."""

    def fleet(self) -> FleetView:
        """The newest read model."""

    def ask(self, who: str) -> None:
        """Whether this person may invite and revoke. Raises NotAllowed."""

    def invite(self, edge: str, who: str) -> str:
        """A join token for a name, shown once and kept nowhere. Raises NotAllowed, WardroundError."""

    def revoke(self, edge: str, who: str) -> None:
        """Shut an edge out. Raises NotAllowed, WardroundError."""

    def drain(self, edge: str, who: str) -> str:
        """Give an edge no more work; words. Raises NotAllowed, WardroundError."""

    def undrain(self, edge: str, who: str) -> str:
        """Give it work again; words. Raises NotAllowed, WardroundError."""
