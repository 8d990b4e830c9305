"""An edge's masked rounds: carries `edge_masks` over the disk. What the edge has said of a session is kept before it is said.

One file a study holds the secrets of the session in hand and the newest round that was opened. A new session takes the place
of the last one; once a sum is opened, the secrets are gone.
"""

from __future__ import annotations

import threading

import msgspec
import structlog

from wardround.learn.blobs import Blobs
from wardround.learn.messages import Done, MaskStep, Order
from wardround.learn.privacy.edge_masks import ANYBODY, EdgeMasks, EdgeState, Rostered, Sign, Verify
from wardround.learn.privacy.modes import decode_mask_settings, session_of
from wardround.learn.privacy.vectors import limbs_of, masked_update, vector_of
from wardround.learn.privacy.wire import Circle, FromEdge, Inbox, MasksRefused, Session, Survivors, encode, from_hub

log = structlog.get_logger(__name__)


class _Saved(msgspec.Struct):
    opened: int = -1
    state: EdgeState | None = None


class MaskAgent:
    """One edge's sessions, at most one a study. Safe to use from several threads."""

    def __init__(self, edge: str, blobs: Blobs, *, sign: Sign, verify: Verify, rostered: Rostered = ANYBODY) -> None:
        self._edge, self._blobs, self._sign, self._verify, self._rostered = edge, blobs, sign, verify, rostered
        self._lock = threading.Lock()
        self._known: dict[str, _Saved] = {}

    def begin(self, order: Order) -> MaskStep:
        """Keys for an order's session: fresh, or those it has already.

        Raises:
            MasksRefused: the round was opened before, or the order hides nobody.
            StorageFull: they could not be kept, so they are not said.
        """
        session = _session(order)
        with self._lock:
            saved = self._read(order.study)
            if saved.state is None or saved.state.session != session:
                begun = EdgeMasks.begin(
                    session,
                    self._edge,
                    sign=self._sign,
                    verify=self._verify,
                    rostered=self._rostered,
                    opened=saved.opened,
                )
                self._keep(order.study, _Saved(saved.opened, begun.state))
            return self._step(order.study, self._masks(order.study).offer())

    def receive(self, step: MaskStep) -> MaskStep | None:
        """Answer a step of the hub; None where nothing is to be said, or where it belongs to a session that is not in hand.

        Raises:
            MasksRefused: it is not as agreed; nothing was given.
            StorageFull: the answer could not be kept, so it is not said.
        """
        with self._lock:
            saved = self._read(step.study)
            state = saved.state
            if state is None or (state.session.round_number, state.session.attempt) != (step.round_number, step.attempt):
                return None
            message, masks, opened = from_hub(step.body), self._masks(step.study), saved.opened
            answer: FromEdge | None = None
            if isinstance(message, Circle):
                answer = masks.deal(message)
            elif isinstance(message, Inbox):
                masks.take(message)
            elif isinstance(message, Survivors):
                answer = masks.vote(message)
            else:
                answer, opened = masks.open(message), max(opened, state.session.round_number)
            self._keep(step.study, _Saved(opened, state))
            return self._step(step.study, answer) if answer is not None else None

    def can_mask(self, order: Order) -> bool:
        """Whether the shares of the others are here."""
        with self._lock:
            state = self._read(order.study).state
            return state is not None and state.session == _session(order) and bool(state.inbox)

    def mask(self, order: Order, done: Done) -> Done:
        """A finished training under this session's masks.

        Raises:
            LearnError, MasksRefused: it cannot be masked.
            StorageFull: what the masks hide could not be noted.
        """
        settings = decode_mask_settings(order.masks)
        with self._lock:
            state = self._read(order.study).state
            if state is None or state.circle is None or state.session != _session(order):
                raise MasksRefused("order", "the session has moved on")
            vector, shrunk = vector_of(done, order.task, settings, len(state.circle.keys))
            if shrunk < 1.0:
                log.warning(
                    "update scaled down to fit privacy.clip", study=order.study, round_number=order.round_number, by=shrunk
                )
            words = self._masks(order.study).mask(vector, limbs=limbs_of(order.task))
            self._keep(order.study, _Saved(self._read(order.study).opened, state))
        return masked_update(words, done.kept)

    # -- parts

    def _masks(self, study: str) -> EdgeMasks:
        state = self._read(study).state
        assert state is not None  # noqa: S101 - asked by the callers
        return EdgeMasks(state, sign=self._sign, verify=self._verify, rostered=self._rostered)

    def _step(self, study: str, message: FromEdge) -> MaskStep:
        state = self._read(study).state
        assert state is not None  # noqa: S101
        return MaskStep(study, state.session.round_number, state.session.attempt, encode(message))

    def _read(self, study: str) -> _Saved:
        if study not in self._known:
            try:
                self._known[study] = msgspec.msgpack.decode(self._blobs.read(f"{study}.masks"), type=_Saved)
            except FileNotFoundError:
                self._known[study] = _Saved()
        return self._known[study]

    def _keep(self, study: str, saved: _Saved) -> None:
        try:
            self._blobs.write(f"{study}.masks", msgspec.msgpack.encode(saved))
        except BaseException:
            self._known.pop(study, None)  # what is on disk is what holds
            raise
        self._known[study] = saved


def _session(order: Order) -> Session:
    return session_of(order.study, order.round_number, order.attempt, order.task, order.base, order.settings, order.masks)
