"""The hub's masked rounds: carries `hub_masks` over the link and the disk, beside the round's own state machine.

Steps: keys, shares, updates, votes, opening. The first two pass while edges train. Each has a deadline; who has not answered by
then is out of the round, and a round that too few are left in comes to nothing. What was decided is on disk before it is sent.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec
import structlog

from wardround.clock import Clock
from wardround.errors import StudyError, TrustError
from wardround.learn.blobs import Blobs
from wardround.learn.journal import OpenRound
from wardround.learn.messages import MaskStep
from wardround.learn.models import Parameters, TensorSource
from wardround.learn.privacy.edge_masks import Verify
from wardround.learn.privacy.groups import GROUPS_MIN
from wardround.learn.privacy.hub_masks import HubMasks, HubState
from wardround.learn.privacy.modes import decode_mask_settings, mask_settings, session_of
from wardround.learn.privacy.ring import Words
from wardround.learn.privacy.vectors import added, limbs_of, mean_of, sums_of
from wardround.learn.privacy.wire import Deal, FromHub, MasksRefused, Offer, Opening, Session, Vote, encode, from_edge
from wardround.learn.study import Study
from wardround.malformed import MALFORMED
from wardround.records import EdgeId
from wardround.trust.roster import admit_shown, read_roster

log = structlog.get_logger(__name__)
STATE = "masks/round"
STEP_S_MAX = 20.0
KEYS, SHARES, UPDATES, VOTES, OPENING = "keys", "shares", "updates", "votes", "opening"


class _Saved(msgspec.Struct):
    settings: bytes
    step: str
    hub: HubState
    parts: list[HubState] = []


class Sum(NamedTuple):
    """An unmasked sum, and how many edges its circle had."""

    words: Words
    edges: int


class Masking(NamedTuple):
    """How masks are carried: `verify` checks an edge's signature as edges do; `send` must return at once; `roster()` gives the
    newest roster that this hub was given, and nothing if it was given none.
    """

    verify: Verify
    send: Callable[[EdgeId, MaskStep], None]
    roster: Callable[[], bytes] = lambda: b""


class Blind:
    """The masked half of a study's rounds. Not safe by itself: the coordinator calls it under its lock."""

    def __init__(self, study: Study, masking: Masking, *, blobs: Blobs, clock: Clock) -> None:
        self._study, self._blobs, self._clock = study, blobs, clock
        self._masking, self._send = masking, masking.send
        self._unread = b""  # a roster that cannot be read, and was said to be one
        self.settings = b""  # of the round in progress, as Order.masks holds them
        self._step_s = min(STEP_S_MAX, study.rounds.deadline_s / 3)
        self._step = KEYS
        self._hub: HubMasks | None = None  # of the whole circle, until it is closed
        self._parts: list[HubMasks] = []  # it, or one for each group that is still in the round
        self._participants: frozenset[EdgeId] = frozenset()
        self._lost: set[EdgeId] = set()
        self._out: set[EdgeId] = set()  # known to the round as failed
        self._deadline_s = 0.0

    # -- the round begins and ends

    def eligible(self, edges: Sequence[EdgeId]) -> list[EdgeId]:
        """Who of these may be asked: all, or those whom the roster names. Others would spoil the circle for them."""
        data = self._masking.roster()
        try:
            named = read_roster(data)[0].edges if data else None
        except TrustError as error:
            if data != self._unread:
                log.error("no blind round begins", study=self._study.name, reason=str(error), remedy=error.remedy)
            self._unread, named = data, {}
        return [edge for edge in edges if named is None or edge in named]

    def open(self, open_: OpenRound, order_settings: bytes) -> None:
        """A round begins, or is taken up again: where its session stood, if it was on disk."""

        def session(masks: bytes) -> Session:
            return session_of(self._study.name, open_.number, open_.attempt, open_.task, open_.base, order_settings, masks)

        saved = self._saved()
        if saved is not None and saved.hub.session == session(saved.settings):
            self.settings, self._step, state, parts = saved.settings, saved.step, saved.hub, saved.parts
        else:
            self.settings, self._step = mask_settings(self._study, secrets.token_bytes(16), len(open_.participants)), KEYS
            state, parts = HubState(session(self.settings), self._masking.roster()), []
        self._hub = HubMasks(state, verify=self._masking.verify, admit=admit_shown)
        grouped = [HubMasks(part, verify=self._masking.verify, admit=admit_shown) for part in parts]
        self._parts = grouped if state.session.group_edges else [self._hub]
        self._participants, self._lost, self._out = frozenset(open_.participants), set(), set()
        self._begin_wait()

    def close(self) -> None:
        """The round is over: what was shared for it is forgotten."""
        self._hub, self._parts = None, []
        self._blobs.delete(STATE)

    @property
    def survivors(self) -> tuple[EdgeId, ...]:
        """Whose updates are in the sum; empty before that is decided."""
        return tuple(EdgeId(e) for e in sorted(e for part in self._parts for e in part.state.survivors))

    @property
    def opened(self) -> bool:
        """Whether the sum can be unmasked."""
        return self._step == OPENING and bool(self._parts) and all(part.ready for part in self._parts)

    @property
    def asked_to_open(self) -> bool:
        """Whether edges may have opened this round's sum: they open none of this round again."""
        return self._step == OPENING and self._hub is not None

    # -- what edges say

    def receive(self, edge: EdgeId, step: MaskStep) -> None:
        """Take an edge's step; one of an older attempt is ignored.

        Raises:
            MasksRefused: it is not as agreed.
        """
        hub = self._hub
        if hub is None or (step.round_number, step.attempt) != (hub.state.session.round_number, hub.state.session.attempt):
            return
        if edge not in self._participants:
            raise MasksRefused("order", f"{edge} was not asked in this round")
        message = from_edge(step.body)
        if isinstance(message, Offer):
            hub.offer(edge, message)
            self.again(edge)
            return
        part = self._part(edge)
        if part is None and edge in hub.members:  # its group has come to nothing
            return
        part = part or hub
        if isinstance(message, Deal):
            part.deal(edge, message)
        elif isinstance(message, Vote):
            part.vote(edge, message)
        elif isinstance(message, Opening):
            part.opening(edge, message)

    def attach(self, edge: EdgeId) -> None:
        """An edge is there, perhaps after a restart of either side: say again where the session stands."""
        self._lost.discard(edge)
        self.again(edge)

    def lose(self, edge: EdgeId) -> None:
        """An edge has gone: no step waits for it."""
        self._lost.add(edge)

    def fail(self, edge: EdgeId) -> None:
        """An edge is out of the round."""
        self._out.add(edge)

    # -- moving

    def progress(self) -> list[EdgeId]:
        """Take the next step if everybody who is waited for has answered, or the time is over; who is out by that.

        Raises:
            MasksRefused: the round cannot go on.
        """
        hub = self._hub
        if hub is None:
            return []
        late = self._clock.monotonic_s() >= self._deadline_s
        if self._step == KEYS and (late or not self._waits(hub.state.offers, self._participants)):
            circle = [EdgeId(keys.edge) for keys in hub.close_circle().keys]
            self._parts = hub.groups()
            return self._next(SHARES, circle, self._participants)
        if self._step == SHARES and hub.state.circle is not None:
            members = frozenset(EdgeId(edge) for edge in hub.members)
            if late or not self._waits([e for part in self._parts for e in part.state.deals], members):
                self._go_on_with(lambda part: part.close_deals())
                return self._next(UPDATES, [EdgeId(e) for part in self._parts for e in part.state.dealt], members)
        if self._step == VOTES and (late or all(part.votes is not None for part in self._parts)):
            before = self.survivors
            self._go_on_with(lambda part: self._answered(part.votes is not None))
            return self._next(OPENING, self.survivors, before)
        if self._step == OPENING and late and not self.opened:
            before = self.survivors
            self._go_on_with(lambda part: self._answered(part.ready))
            return sorted(set(before) - set(self.survivors))
        return []

    def survive(self, edges: Collection[EdgeId]) -> None:
        """The updates of these edges are here, and no others come.

        Raises:
            MasksRefused: they are too few.
        """
        assert self._hub is not None  # noqa: S101 - a round that ends was open
        if self._step != UPDATES:
            raise MasksRefused("order", "the round ends before anybody could mask")
        self._go_on_with(lambda part: part.survive([edge for edge in edges if edge in part.members]))
        self._next(VOTES, self.survivors, ())

    def again(self, edge: EdgeId) -> None:
        """Send an edge the message of the step that it is in; an edge that has answered answers the same."""
        hub, part = self._hub, self._part(edge)
        if hub is None or part is None:
            return
        state = part.state
        messages: list[FromHub] = []
        if hub.state.circle is not None and self._step in (SHARES, UPDATES):
            messages.append(hub.state.circle)
        if self._step == UPDATES and edge in state.dealt:
            messages.append(part.inbox(edge))
        if edge in state.survivors:
            messages.append(part.survive(()))
            if self._step == OPENING and part.votes is not None:
                messages.append(part.votes)
        for each in messages:
            self._say(edge, each)

    # -- the sum

    def unmasked(self, sources: Mapping[EdgeId, TensorSource]) -> list[Sum]:
        """The sum of the survivors' updates; of each group its own.

        Raises:
            MasksRefused: a dealer has dealt shares of something else.
        """
        found = []
        for part in self._parts:
            task = part.state.session.task
            total = added([sources[EdgeId(edge)] for edge in part.state.survivors], task)
            part.unmask(total, limbs=limbs_of(task))
            found.append(Sum(total, len(part.members)))
        return found

    def mean(self, total: Sum, base: TensorSource, names: Collection[str]) -> tuple[Parameters, int]:
        """The mean update by examples of an unmasked sum, and the examples.

        Raises:
            MasksRefused: it is no sum of updates.
        """
        return mean_of(total.words, decode_mask_settings(self.settings), total.edges, base, names)

    def sums(self, total: Sum, shape: tuple[int, int]) -> Parameters:
        """The federated sums of an unmasked sum."""
        return sums_of(total.words, shape)

    # -- parts

    def _part(self, edge: str) -> HubMasks | None:
        """The hub in an edge's group; None before the circle is closed, or where that group has come to nothing."""
        return next((part for part in self._parts if edge in part.members), None)

    def _answered(self, enough: bool) -> None:
        if not enough:
            raise MasksRefused("too-few", f"the step `{self._step}` was not answered by enough edges in {self._step_s:.0f} s")

    def _go_on_with(self, step: Callable[[HubMasks], object]) -> None:
        """Take a step in every group. One that cannot is out of the round, and the others go on if a rule can still compare them.

        Raises:
            MasksRefused: too few groups are left; or the one circle there is cannot.
        """
        assert self._hub is not None  # noqa: S101
        left, refused = [], MasksRefused("too-few", "no group is left")
        for part in self._parts:
            try:
                step(part)
                left.append(part)
            except MasksRefused as error:
                refused = error
        if len(left) < (GROUPS_MIN if self._hub.state.session.group_edges else 1):
            raise refused
        if len(left) < len(self._parts):
            log.warning("groups are out of a masked round", study=self._study.name, left=len(left), reason=str(refused))
        self._parts = left

    def _waits(self, answered: Collection[str], asked: Collection[EdgeId]) -> bool:
        return bool(set(asked) - set(answered) - self._lost - self._out)

    def _next(self, step: str, members: Collection[EdgeId], before: Collection[EdgeId]) -> list[EdgeId]:
        """The step is on disk, then every member is told; who is out by it."""
        assert self._hub is not None  # noqa: S101
        self._step = step
        self._blobs.write(STATE, msgspec.msgpack.encode(self._state(step)))
        self._begin_wait()
        log.info("masked round", study=self._study.name, round_number=self._hub.state.session.round_number, step=step)
        for edge in members:
            self._tell(edge)
        out = sorted(set(before) - set(members) - self._out)
        self._out.update(out)
        return out

    def _tell(self, edge: EdgeId) -> None:
        """The message that begins a step."""
        hub = self._part(edge)
        assert self._hub is not None  # noqa: S101
        assert hub is not None  # noqa: S101 - whoever is out is told nothing
        if self._step == SHARES:
            self._say(edge, self._hub.close_circle())
        elif self._step == UPDATES:
            self._say(edge, hub.inbox(edge))
        elif self._step == VOTES:
            self._say(edge, hub.survive(()))
        elif self._step == OPENING and hub.votes is not None:
            if edge not in hub.state.votes:  # the list was lost, with a stream say: votes under no list look like a lie
                self._say(edge, hub.survive(()))
            self._say(edge, hub.votes)

    def _say(self, edge: EdgeId, message: FromHub) -> None:
        assert self._hub is not None  # noqa: S101
        session = self._hub.state.session
        self._send(edge, MaskStep(session.study, session.round_number, session.attempt, encode(message)))

    def _begin_wait(self) -> None:
        self._deadline_s = self._clock.monotonic_s() + self._step_s

    def _state(self, step: str) -> _Saved:
        assert self._hub is not None  # noqa: S101
        grouped = bool(self._hub.state.session.group_edges)
        return _Saved(self.settings, step, self._hub.state, [part.state for part in self._parts] if grouped else [])

    def _saved(self) -> _Saved | None:
        try:
            return msgspec.msgpack.decode(self._blobs.read(STATE), type=_Saved)
        except (FileNotFoundError, *MALFORMED):
            return None


def make_blind(study: Study, masking: Masking | None, *, blobs: Blobs, clock: Clock) -> Blind | None:
    """The masked half of a study's rounds; None where the hub sees every update.

    Raises:
        StudyError: the study is blind, and this hub has no way to carry masks.
    """
    if not study.privacy.mode.startswith("blind"):
        return None
    if masking is None:
        raise StudyError(
            f"privacy.mode is `{study.privacy.mode}`, and masks are not carried here",
            remedy="run it on Wardround's own edges and hub",
        )
    return Blind(study, masking, blobs=blobs, clock=clock)
