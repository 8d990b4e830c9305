"""Live drills: what a hub may order of an edge in one, and what the edge says to it.

A live drill is a sandbox: a study whose name no study can have, with examples that are made up, on edges that allow it. All that
it may do stands in its *charter*, which the hub signs and every order carries in place of a study's settings. So an order of a
study never has a fault in it: an edge reads a charter for a sandbox alone and settings for a study alone, and an edge that knows
of no drills finds settings that it cannot read. What an edge signs names the study that it is for: an update of a sandbox counts
in no other one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from wardround.errors import LearnError, TrustError
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.faults import struck
from wardround.learn.messages import Done, Order
from wardround.learn.participant import Participant
from wardround.learn.trainer import Source, TrainingFailed, Work
from wardround.malformed import MALFORMED
from wardround.records import is_sandbox

ABILITY = "drill"  # said with what an edge can train
TASK, FUNCTION = "drill", "wardround.drill.at_edge:answer"  # named, not imported: faults belong to the worker
TASKS = ("statistics", "train")
SLOWER_S_MAX = 10.0
AWAY = "away: what the drill has asked for"


class Charter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that one drill may do. An edge knows its seat by its place in `edges`."""

    study: str
    seed: int
    edges: tuple[str, ...]
    struck: tuple[str, ...]
    fault: str  # of the drill's catalogue; empty: nothing goes wrong
    from_round: int
    rounds: int
    until_us: int
    training: bytes  # TrainingSettings as MessagePack
    slower_s: float = 0.0  # that a struck edge waits with its update
    absent: float = 0.0  # chance that any edge goes away before it delivers

    def at_work(self, number: int) -> bool:
        """Whether the fault is there in this round."""
        return bool(self.fault) and number >= max(1, self.from_round)


class SignedCharter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Order.settings of a sandbox, as MessagePack: the charter, the hub's signature over it, the hub's certificate (PEM)."""

    charter: bytes
    signature: bytes
    certificate: bytes


class Ask(msgspec.Struct, frozen=True):
    """Work.kept of a drill: who trains, and what."""

    edge: str
    task: str


def read_charter(data: bytes) -> Charter:
    """A charter.

    Raises:
        LearnError: it is none that this version knows.
    """
    try:
        return msgspec.msgpack.decode(data, type=Charter)
    except MALFORMED as exc:
        raise LearnError(f"a drill's charter cannot be read: {exc}", remedy="bring edge and hub to the same version") from exc


def signed_charter(settings: bytes) -> SignedCharter | None:
    """What an order's settings hold where they are a drill's; None: they are a study's."""
    try:
        return msgspec.msgpack.decode(settings, type=SignedCharter)
    except MALFORMED:
        return None


class DrillPart:
    """One edge's part in live drills. Nothing of it is on the edge's disk."""

    def __init__(
        self,
        edge: str,
        *,
        allowed: bool,
        check: Callable[[SignedCharter], None],
        now_us: Callable[[], int],
        note: Callable[..., object],
    ) -> None:
        """`check` raises TrustError for what the hub has not signed; `note(what, **facts)` adds to the edge's audit log."""
        self._edge, self._allowed, self._check, self._now_us, self._note = edge, allowed, check, now_us, note
        self._known: tuple[bytes, Charter] | None = None  # whose signature holds
        self._participant: tuple[str, Participant] = ("", Participant(MemoryBlobs()))
        self._said = ("", "")

    @property
    def abilities(self) -> tuple[str, ...]:
        """What is said with what this edge can train."""
        return (ABILITY,) if self._allowed else ()

    def participant(self, study: str) -> Participant:
        """What is remembered of the newest drill's rounds, in memory alone."""
        if self._participant[0] != study:
            self._participant = (study, Participant(MemoryBlobs()))
        return self._participant[1]

    def why_not(self, order: Order) -> str:
        """Why an order is not carried out; empty: nothing of drills speaks against it."""
        if not is_sandbox(order.study):
            ordered = signed_charter(order.settings) is not None
            reason = "a drill is ordered in a study that is no sandbox" if ordered else ""
        elif not self._allowed:
            reason = "this edge takes no part in drills (learning.drills)"
        else:
            reason = self._beyond_charter(order)
        return self._refused(order, reason) if reason else ""

    def _beyond_charter(self, order: Order) -> str:
        """What an order of a sandbox asks for that no charter of the hub's allows; empty: nothing."""
        try:
            charter = self._charter(order)
        except (LearnError, TrustError) as error:
            return str(error)
        more = order.masks or order.relay or order.children or (order.base and not order.model)
        wrong = {
            f"the charter is of another drill, {charter.study[:60]!r}": charter.study != order.study,
            "this edge is not one of the drill's": self._edge not in charter.edges,
            "a drill asks for what no charter allows": order.task not in TASKS or bool(more),
            "the drill is over": self._now_us() > charter.until_us or not 0 <= order.round_number <= charter.rounds,
        }
        return next((reason for reason, holds in wrong.items() if holds), "")

    async def train(self, order: Order, model: bytes, *, home: str, run: Callable[[Work], Awaitable[Done]]) -> Done:
        """Carry an order out that `why_not` has let pass. `run` trains in the worker.

        Raises:
            TrainingFailed: the drill has this edge go away, or there is no update.
        """
        charter = self._charter(order)
        at_work = order.task == "train" and charter.at_work(order.round_number)
        place = (charter.seed, "drill", self._edge, order.round_number, order.attempt)
        if at_work and struck(charter.absent, *place):
            raise TrainingFailed(AWAY, remedy="the drill goes on without it")
        ask = msgspec.msgpack.encode(Ask(self._edge, order.task))
        settings = msgspec.msgpack.encode(charter)
        done = await run(Work(Source(FUNCTION, home, self._edge), TASK, settings, model, order.round_number, ask, order.study))
        if at_work and self._edge in charter.struck and charter.slower_s > 0:
            await asyncio.sleep(min(charter.slower_s, SLOWER_S_MAX))
        return done

    def _charter(self, order: Order) -> Charter:
        """Raises LearnError, TrustError: it cannot be read, or is not the hub's."""
        if self._known is not None and self._known[0] == order.settings:
            return self._known[1]
        signed = signed_charter(order.settings)
        if signed is None:
            raise LearnError("an order of a sandbox has no charter", remedy="bring edge and hub to the same version")
        self._check(signed)
        charter = read_charter(signed.charter)
        known = self._known is not None and self._known[1].study == charter.study
        if not known and charter.study == order.study and self._edge in charter.edges:
            hit = self._edge in charter.struck
            self._note("takes part in a drill", study=charter.study, fault=charter.fault, struck=hit, rounds=charter.rounds)
        self._known = (order.settings, charter)
        return charter

    def _refused(self, order: Order, reason: str) -> str:
        if self._said != (order.study, reason):  # once, however often it is ordered
            self._said = (order.study, reason)
            self._note("a drill's order is refused", study=order.study[:80], reason=reason)
        return reason
