"""Updates on their way from an announcement to where they count. What is on disk counts once, many that came at once in one sync.

Bytes come in and are checked side by side (reception.py); the order they answer is looked at under the coordinator's lock, when
they begin and again when they count: the round may have moved on in between.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wardround.clock import Clock
from wardround.errors import UpdateRefused
from wardround.learn import rounds
from wardround.learn.announcements import check_signed, signed_announcement
from wardround.learn.in_progress import InProgress
from wardround.learn.journal import Accepted, Journal, Refusal
from wardround.learn.messages import Upload, UploadReceipt
from wardround.learn.noted import Noted
from wardround.learn.reception import Reception
from wardround.learn.spans import Spans, span
from wardround.learn.study import Study
from wardround.learn.triage import examples_counted
from wardround.records import EdgeId

LATE = UploadReceipt(accepted=False, reason="late", detail="the round was over when the update was complete")


@dataclass(slots=True)
class _Arrived:
    """A checked update whose bytes are on disk: it waits to count, with others that came at the same time."""

    edge: EdgeId
    upload: Upload
    norm: float
    receipt: UploadReceipt = LATE
    error: BaseException | None = None
    settled: bool = False


class Emit(Protocol):
    """Tells what has happened in the round."""

    def __call__(self, kind: str, *, round_number: int | None = None, **facts: object) -> None: ...


class Arrivals:
    """One study's uploads. Safe to use from several threads."""

    def __init__(
        self,
        study: Study,
        *,
        lock: threading.RLock,
        now: InProgress,
        noted: Noted,
        reception: Reception,
        journal: Journal,
        clock: Clock,
        spans: Spans,
        emit: Emit,
        carry_out: Callable[[Sequence[rounds.Command]], None],
    ) -> None:
        """`lock` is the coordinator's, under which the round `now` moves; `carry_out` does what the state machine says."""
        self._study, self._lock, self._now, self._noted, self._reception = study, lock, now, noted, reception
        self._journal, self._clock, self._spans, self._emit, self._carry_out = journal, clock, spans, emit, carry_out
        self._arrived: deque[_Arrived] = deque()  # at most one an upload under way

    def position(self, edge: EdgeId, upload: Upload) -> tuple[int, bool]:
        """How many bytes of an upload are here, and whether it has been accepted already."""
        if self._journal.has(edge, upload.round_number):
            return upload.size, True
        return self._reception.size(edge, upload), False

    def begin(self, edge: EdgeId, upload: Upload, offset: int = -1) -> None:
        """Check what an upload announces; at offset 0 it starts anew, whatever was here.

        Raises:
            UpdateRefused: it cannot count, whatever its bytes are.
        """
        check_signed(edge, upload)
        with self._lock:
            self._check_order(edge, upload, self._now.state)
        self._spans.end("train", upload.round_number, edge)
        self._spans.begin("upload", upload.round_number, edge, bytes=upload.size)
        self._reception.announce(edge, upload, offset)

    def append(self, edge: EdgeId, upload: Upload, offset: int, data: bytes | memoryview) -> int:
        """Keep bytes of an upload; how many are here now."""
        return self._reception.append(edge, upload, offset, data)

    def finish(self, edge: EdgeId, upload: Upload) -> UploadReceipt:
        """Check a whole upload, make it durable, count it. Refusals are answers here, not errors.

        Raises:
            StorageFull: the hub's disk refused; the edge keeps its update and tries again.
        """
        with self._reception.alone(edge):
            if self._journal.has(edge, upload.round_number):  # asked twice, perhaps when its round is long over
                return UploadReceipt(accepted=True)
            try:
                self.begin(edge, upload)
                self._spans.end("upload", upload.round_number, edge)
                with span(self._spans, "triage", upload.round_number, edge):
                    norm = self._reception.check(edge, upload, self._journal.past_norms(edge, upload.round_number))
            except UpdateRefused as error:
                self._reception.drop(edge, upload)
                self._refused(edge, upload, error)
                return UploadReceipt(accepted=False, reason=error.reason, detail=str(error))
            self._reception.sync(edge, upload)  # without the study's lock: the disk takes several at once
            arrived = _Arrived(edge, upload, norm)
            self._arrived.append(arrived)
            with self._lock:
                if not arrived.settled:
                    self._count()
        if arrived.error is not None:
            raise arrived.error
        return arrived.receipt

    def _count(self) -> None:
        """Let every update that has arrived count: one sync of the folder and one of the journal, however many they are."""
        batch = [self._arrived.popleft() for _ in range(len(self._arrived))]
        try:
            self._accept(batch)
        except BaseException as error:  # noqa: BLE001 - the disk's, as a rule; each edge's own call raises it
            for arrived in batch:
                arrived.error = error
        finally:
            for arrived in batch:
                arrived.settled = True

    def _accept(self, batch: Sequence[_Arrived]) -> None:
        """Record those whose order stands, then move the round and answer them.

        Raises:
            StorageFull: the disk refused; nothing has changed.
        """
        open_, state = self._now.open, self._now.state
        commands: list[rounds.Command] = []
        counted: dict[EdgeId, tuple[_Arrived, Accepted]] = {}
        late: list[_Arrived] = []
        for arrived in batch:
            edge, upload = arrived.edge, arrived.upload
            if edge in counted or self._journal.has(edge, upload.round_number):
                arrived.receipt = UploadReceipt(accepted=True)
                continue
            try:
                self._check_order(edge, upload, state)  # the round may have moved on while the bytes were looked at
            except UpdateRefused:
                late.append(arrived)
                continue
            assert state is not None  # noqa: S101 - there is an order, so there is a round
            state, more = rounds.step(state, rounds.Delivered(edge))
            commands += more
            examples = examples_counted(upload.examples, self._journal.registered(edge), self._study.triage)
            update = Accepted(edge, upload.sha256, examples, arrived.norm, upload.metrics, upload.round_number)
            counted[edge] = arrived, update
        if counted:
            assert open_ is not None  # noqa: S101
            self._reception.keep({edge: arrived.upload for edge, (arrived, _) in counted.items()}, open_.number)
            now_us = self._clock.now_us()
            updates = [(u, signed_announcement(a.upload, now_us)) for a, u in counted.values()]
            self._journal.accept(open_.number, updates, {edge: a.upload.rows for edge, (a, _) in counted.items()})
            self._now.state = state
        for edge, (arrived, update) in counted.items():
            arrived.receipt = UploadReceipt(accepted=True)
            self._spans.end("order", update.based_on, edge, outcome="accepted", examples=update.examples)
            self._emit("accepted", edge=edge, metrics=update.metrics)
        self._carry_out(commands)
        for arrived in late:
            self._note_refusal(arrived.edge, arrived.upload, UpdateRefused(LATE.reason, LATE.detail))

    def _check_order(self, edge: EdgeId, upload: Upload, state: rounds.RoundState | None) -> None:
        """Whether an upload answers an order that stands."""
        open_ = self._now.open
        if upload.study != self._study.name:
            raise UpdateRefused("study", f"this hub runs {self._study.name}, the update is for {upload.study[:60]!r}")
        if open_ is None or state is None or state.phase is not rounds.Phase.OPEN:
            raise UpdateRefused("round", f"round {upload.round_number} is not open")
        number, base = self._now.asked(edge) if edge in open_.participants else (open_.number, open_.base)
        if upload.round_number != number:
            raise UpdateRefused("round", f"round {upload.round_number} is not open")
        if edge not in open_.participants:
            raise UpdateRefused("participant", f"{edge} was not asked in round {open_.number}")
        if upload.base != base or upload.task != open_.task:
            raise UpdateRefused("base", f"the update is not based on model {base[:12] or '(none)'} of this round")

    def _refused(self, edge: EdgeId, upload: Upload, error: UpdateRefused) -> None:
        with self._lock:
            told = self._note_refusal(edge, upload, error)
            if error.reason == "round":  # late: known, answered, nobody's fault
                return
            if told:
                self._emit("refused", edge=edge, reason=error.reason, detail=str(error))
            state = self._now.state
            if state is not None and self._now.asked(edge)[0] == upload.round_number:
                self._now.state, commands = rounds.step(state, rounds.Failed(edge, error.reason))
                self._carry_out(commands)

    def _note_refusal(self, edge: EdgeId, upload: Upload, error: UpdateRefused) -> bool:
        """Write it down, and whether it is: of an edge that is refused without end a few are."""
        verdict = "late" if error.reason in ("round", "late") else "refused"
        self._spans.end("order", upload.round_number, edge, outcome=verdict, reason=error.reason)
        if not self._noted.is_one_of_few(edge):
            return False
        facts = (verdict, error.reason, str(error)[:300], upload.sha256, upload.examples)
        asked = verdict == "late" or upload.round_number == self._now.asked(edge)[0]
        number = upload.round_number if asked else self._now.next_number  # what an edge claims its round to be hides no refusal
        self._journal.refuse(Refusal(self._clock.now_us(), min(number, self._now.next_number), edge, *facts))
        return True
