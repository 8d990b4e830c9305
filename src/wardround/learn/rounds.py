"""One round as a pure state machine: events in, commands out; no clock, no network, no files.

A round asks its participants, counts who has delivered, and ends in exactly one of two ways: committed with the edges that
delivered, or abandoned at no cost. It waits for nobody for ever: an edge that is gone does not hold up the others once the
quorum is there, and the deadline ends whatever is left. In a buffered study a round is a buffer: it ends when enough updates
are in it, and those still at work on an older model go on and count, weighed by their staleness, in the buffer that is open
when they are done (Nguyen et al., FedBuff, AISTATS 2022, arXiv:2106.06639). Source of the roles of quorum, deadline and
over-selection: Bonawitz et al., Towards Federated Learning at Scale, MLSys 2019, arXiv:1902.01046, section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from wardround.records import EdgeId


class Phase(StrEnum):
    """Where a round stands."""

    OPEN = "open"
    COMMITTED = "committed"
    ABANDONED = "abandoned"


# -- events


@dataclass(frozen=True, slots=True)
class Attached:
    """An edge has opened its stream, for the first time or again."""

    edge: EdgeId


@dataclass(frozen=True, slots=True)
class Lost:
    """An edge's stream has ended."""

    edge: EdgeId


@dataclass(frozen=True, slots=True)
class Delivered:
    """An update of this edge is accepted and on disk."""

    edge: EdgeId


@dataclass(frozen=True, slots=True)
class Failed:
    """This edge will not deliver in this round: training failed, or its update was refused."""

    edge: EdgeId
    reason: str


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time of the round is over."""


Event = Attached | Lost | Delivered | Failed | Deadline

# -- commands


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Send the order to this edge."""

    edge: EdgeId


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tell this edge that its work is no longer wanted."""

    edge: EdgeId
    reason: str


@dataclass(frozen=True, slots=True)
class Commit:
    """Fold the updates of these edges."""

    edges: tuple[EdgeId, ...]


@dataclass(frozen=True, slots=True)
class Abandon:
    """Give the round up; its updates may count in the next attempt, as the base is the same."""

    reason: str


Command = Dispatch | Cancel | Commit | Abandon


@dataclass(frozen=True, slots=True)
class RoundState:
    """A round; every set is a part of `participants`."""

    participants: frozenset[EdgeId]
    quorum: int
    wanted: int  # deliveries that are enough: fewer than participants when more were asked than needed
    carry: bool = False  # buffered: whoever is still at work when the round ends goes on, and counts in a later one
    attached: frozenset[EdgeId] = frozenset()
    delivered: frozenset[EdgeId] = frozenset()
    failed: frozenset[EdgeId] = frozenset()
    phase: Phase = Phase.OPEN

    @property
    def outstanding(self) -> frozenset[EdgeId]:
        """Who has neither delivered nor failed."""
        return self.participants - self.delivered - self.failed


def open_round(
    participants: frozenset[EdgeId],
    attached: frozenset[EdgeId],
    *,
    quorum: int,
    wanted: int,
    delivered: frozenset[EdgeId],
    carry: bool = False,
) -> tuple[RoundState, list[Command]]:
    """Start a round, or take it up again after a restart with what had arrived.

    Raises:
        ValueError: there are no participants, or quorum and wanted do not fit them.
    """
    if not participants or not 1 <= quorum <= len(participants) or not quorum <= wanted <= len(participants):
        raise ValueError(f"quorum {quorum} and wanted {wanted} do not fit {len(participants)} participants")
    state = RoundState(participants, quorum, wanted, carry, attached=attached & participants, delivered=delivered & participants)
    orders: list[Command] = [Dispatch(edge) for edge in sorted(state.attached & state.outstanding)]
    return _settle(state, orders)


def step(state: RoundState, event: Event) -> tuple[RoundState, list[Command]]:
    """The next state, and what to do. An event after the end, or of an edge that was not asked, changes nothing."""
    if state.phase is not Phase.OPEN:
        return state, []
    if isinstance(event, Deadline):
        return _end(state, "deadline")
    if event.edge not in state.participants:
        return state, []
    edge = frozenset({event.edge})
    orders: list[Command] = []
    if isinstance(event, Attached):
        state = replace(state, attached=state.attached | edge)
        if event.edge in state.outstanding:
            orders.append(Dispatch(event.edge))
    elif isinstance(event, Lost):
        state = replace(state, attached=state.attached - edge)
    elif isinstance(event, Delivered):
        state = replace(state, delivered=state.delivered | edge, failed=state.failed - edge)
    elif event.edge not in state.delivered:
        state = replace(state, failed=state.failed | edge)
    return _settle(state, orders)


def _settle(state: RoundState, commands: list[Command]) -> tuple[RoundState, list[Command]]:
    """End the round if it can end: enough delivered, or nobody left who is here and could."""
    enough = len(state.delivered) >= state.wanted
    waiting = state.outstanding & state.attached
    hopeless = len(state.delivered) + len(state.outstanding) < state.quorum
    if enough or (not waiting and len(state.delivered) >= state.quorum) or hopeless:
        state, end = _end(state, "too few edges can deliver")
        return state, commands + end
    return state, commands


def _end(state: RoundState, reason: str) -> tuple[RoundState, list[Command]]:
    """The end comes last: a commit may open the next round at once, whose order must not be met by this round's cancel."""
    waiting = [] if state.carry else sorted(state.outstanding & state.attached)
    if len(state.delivered) >= state.quorum:
        cancels: list[Command] = [Cancel(edge, "round committed") for edge in waiting]
        return replace(state, phase=Phase.COMMITTED), [*cancels, Commit(tuple(sorted(state.delivered)))]
    cancels = [Cancel(edge, reason) for edge in waiting]
    said = f"{reason}: {len(state.delivered)} of {state.quorum} needed had delivered"
    return replace(state, phase=Phase.ABANDONED), [*cancels, Abandon(said)]
