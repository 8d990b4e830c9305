"""The edge's side of rounds over gRPC: attach, take orders, fetch the model, upload the update.

An update takes two calls (where did we stop; the bytes), one where the hub knows nothing of it yet, and goes on at the byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import structlog

from wardround.errors import LearnError, WardroundError
from wardround.learn.abilities import abilities
from wardround.learn.announcements import announcement
from wardround.learn.condition import Condition
from wardround.learn.drills import DrillPart
from wardround.learn.frames import frame
from wardround.learn.grpc_wire import (
    IDLE_S,
    SERVICE,
    Beat,
    Stride,
    about_to_wire,
    alerts_to_wire,
    condition_to_wire,
    denied_of,
    loads_to_wire,
    masks_of,
    masks_to_wire,
    order_of,
    own_report_to_wire,
    release_of,
)
from wardround.learn.heartbeats import Reports
from wardround.learn.messages import Done, MaskStep, Order, Release, Upload, UploadReceipt
from wardround.learn.own_report import SignedReport
from wardround.learn.participant import Participant, Ready
from wardround.learn.privacy.agent import MaskAgent
from wardround.learn.privacy.wire import MasksRefused
from wardround.learn.receipts import advice
from wardround.learn.shelf import SourceFailed
from wardround.learn.trainer import TrainingFailed
from wardround.records import is_sandbox
from wardround.threads import ended, to_its_end
from wardround.trust.denied import DenyList
from wardround.wire import wardround_pb2 as pb

log = structlog.get_logger(__name__)
RETRY_S_MIN, RETRY_S_MAX = 0.2, 2.0
UPLOAD_TRIES = 20
OTHERS_MAX = 1_000
BUSY = "busy with a study"
OTHERS = ("wishes", "erasure", "audit_head", "names_asked", "known_consents", "acknowledge")


class Declined(LearnError):
    """This edge's own schedule forbids training now; the message is a constant of schedule.py."""


class SitsOut(LearnError):
    """This edge's own screens have found something in its update, so it gives none in this round."""

    def __init__(self, screen: str) -> None:
        super().__init__(f"sat out by the edge's own screens: {screen}", remedy=advice("sat-out", screen))
        self.screen = screen


class _Stream:
    """The stream to the hub, on which several parts of an edge write: one after the other, as gRPC ends a stream with INTERNAL
    when a write begins while another is under way."""

    def __init__(self, call: Any) -> None:
        self._call, self._turn = call, asyncio.Lock()
        self.read, self.cancel = call.read, call.cancel

    async def write(self, message: pb.EdgeMessage) -> None:
        async with self._turn:
            await self._call.write(message)


class EdgeLink:
    """One edge's agent: attaches, takes orders, trains, uploads; attaches again whenever the hub was gone."""

    def __init__(
        self,
        *,
        channel: Any,
        participant: Participant,
        train: Callable[[Order, bytes, bytes], Awaitable[Done]],
        beat: Callable[[], Beat],
        heartbeat_s: float,
        version: str,
        fetch: Callable[[Order], Awaitable[bytes]],
        condition: Callable[[bool], Condition],
        sign: Callable[[bytes], bytes],
        relay_address: str = "",
        hold: Callable[[Release], Awaitable[None]] | None = None,
        on_denied: Callable[[DenyList], None] = lambda _denied: None,
        on_other: Callable[[pb.HubMessage], pb.EdgeMessage | None] = lambda _message: None,
        greet: Callable[[], Sequence[pb.EdgeMessage]] = lambda: (),
        masks: MaskAgent | None = None,
        on_lie: Callable[[str, int, MasksRefused], None] = lambda _study, _round, _error: None,
        declines: Callable[[Order], str] = lambda _order: "",
        drills: DrillPart | None = None,
        watch: Callable[[Order, Done], SignedReport | None] = lambda _order, _done: None,
    ) -> None:
        """`fetch(order)` gives the bytes of its base model; `relay_address` is where this edge passes models on;
        `hold(release)` keeps the model to predict with, or raises a WardroundError; `sign(announcement)` puts this edge's name
        to an upload; `on_denied(list)` is told whom this edge must give no model; `masks` hides updates in blind studies, and
        `on_lie(study, round, error)` is told, in a thread, of what only a hub that lies can have said;
        `declines(order)` gives the reason for which this edge wants no part in it; `drills` is its part in live drills;
        `watch(order, done)`, in a thread, is what it says of an update that masks will hide, or nothing.

        `train(order, model, kept)` gives the update or raises TrainingFailed. Every `heartbeat_s`, or more often where the hub
        wants that, `beat()` is called, and `condition(at_work)` in a thread: while it says that the edge is unwilling, nothing is
        trained. It is said as often as the hub wants, and what somebody waits for at once."""
        self._channel, self._participant, self._train = channel, participant, train
        self._beat, self._heartbeat_s, self._version = beat, heartbeat_s, version
        self._reports = Reports(heartbeat_s)  # on the newest stream
        self._fetch, self._condition, self._relay_address = fetch, condition, relay_address
        self._masks, self._on_lie, self._declines = masks, on_lie, declines
        self._drills, self._watch = drills, watch
        self._masks_moved = asyncio.Event()
        self._training = False
        self._turn = 0
        self._call: Any = None  # the newest stream to the hub
        self._sign, self._hold, self._on_denied = sign, hold, on_denied
        self._greet = greet  # in a thread: what is said after each attachment
        self._on_other = on_other  # in a thread: what is no business of rounds, and the answer to it
        self._others: asyncio.Queue[pb.HubMessage] = asyncio.Queue(OTHERS_MAX)
        self._answering = asyncio.Lock()
        self._holding: dict[str, asyncio.Task[None]] = {}  # by study: the fetch of the model to predict with
        self._work: asyncio.Task[None] | None = None
        self._order: Order | None = None
        self._taking = asyncio.Lock()

    @property
    def working_on(self) -> str:
        """ "study/round" while there is an order in work."""
        busy = self._work is not None and not self._work.done()
        return f"{self._order.study}/{self._order.round_number}" if busy and self._order else ""

    async def run(self) -> None:
        """Stay attached until cancelled. A second `run` takes the first one's place: it attaches anew (on a renewed channel,
        say), the hub then ends the older stream, and the first one returns."""
        self._turn = turn = self._turn + 1
        wait_s = RETRY_S_MIN
        while turn == self._turn:
            try:
                await self._attached()
                wait_s = RETRY_S_MIN
            except grpc.aio.AioRpcError as error:
                log.info("hub out of reach", code=error.code().name, detail=error.details())
            except asyncio.InvalidStateError:  # the stream ended before a write: gRPC says that in another way
                log.info("hub out of reach", code="UNAVAILABLE", detail="the stream ended while it was opened")
            except asyncio.CancelledError:  # gRPC's word for a stream that ended on this side, too
                if (own := asyncio.current_task()) is None or own.cancelling():
                    raise
                log.info("hub out of reach", code="CANCELLED", detail="the stream was ended on this side")
            if turn == self._turn:
                await asyncio.sleep(random.uniform(wait_s / 2, wait_s))  # noqa: S311 - a hub that comes back meets no crowd
            wait_s = min(wait_s * 2, RETRY_S_MAX)

    async def _attached(self) -> None:
        beat = self._beat()
        hello = pb.Hello(
            software_version=self._version,
            examples=beat.examples,
            learners=[*abilities(), *(self._drills.abilities if self._drills is not None else ())],
            relay_address=self._relay_address,
            condition=condition_to_wire(await asyncio.to_thread(self._condition, self._training)),
        )
        call = _Stream(
            self._channel.stream_stream(
                f"/{SERVICE}/Attach",
                request_serializer=pb.EdgeMessage.SerializeToString,
                response_deserializer=pb.HubMessage.FromString,
            )()
        )
        self._call, self._reports = call, Reports(self._heartbeat_s)
        await call.write(pb.EdgeMessage(hello=hello))
        for greeting in await asyncio.to_thread(self._greet):
            await call.write(greeting)
        beating = asyncio.create_task(self._heartbeats(call))
        answering = asyncio.create_task(self._answer_others(call))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]  # missing in the stubs
                kind = message.WhichOneof("kind")
                if kind == "order":
                    await self._take(order_of(message.order))
                elif kind == "cancel" and self._order is not None and message.cancel.study == self._order.study:
                    await self._let_go()
                elif kind == "release" and self._hold is not None:
                    self._start_holding(self._hold, release_of(message.release))
                elif kind == "notice":
                    said = message.notice
                    await to_its_end(
                        self._participant.receipts.note, said.study, said.round, said.verdict, said.reason, said.detail
                    )
                elif kind == "masks":
                    await self._take_masks(masks_of(message.masks))
                elif kind == "heartbeat_interval":
                    self._reports.told(message.heartbeat_interval.seconds)
                elif kind == "denied":
                    self._on_denied(denied_of(message.denied))
                elif kind in OTHERS and not self._others.full():  # else: the hub says it again
                    self._others.put_nowait(message)
        finally:
            beating.cancel()
            answering.cancel()
            call.cancel()

    def _start_holding(self, hold: Callable[[Release], Awaitable[None]], release: Release) -> None:
        """Fetch the model to predict with, beside everything else; a newer one takes the place of a fetch under way."""
        self._holding = {study: task for study, task in self._holding.items() if not task.done()}
        if (older := self._holding.get(release.study)) is not None:
            older.cancel()

        async def work() -> None:
            try:
                await hold(release)
            except WardroundError as error:  # what was held stays; the hub says it again at the next attachment
                log.warning("a model to predict with could not be had", study=release.study, reason=str(error))

        self._holding[release.study] = asyncio.create_task(work())

    async def _answer_others(self, call: Any) -> None:
        """One after the other, beside the rounds; what the stream before this one asked may still be done in a thread."""
        while True:
            message = await self._others.get()
            try:
                async with self._answering:
                    answer = await to_its_end(self._on_other, message)
            except (WardroundError, OSError, sqlite3.Error) as error:  # a full disk: the hub asks again at the next attachment
                log.error("what the hub asks could not be done", kind=message.WhichOneof("kind"), reason=str(error))
                continue
            if answer is not None:
                await call.write(answer)

    async def _heartbeats(self, call: Any) -> None:
        reports = self._reports
        while True:
            beat = self._beat()
            condition = await asyncio.to_thread(self._condition, self._training)
            if condition.unwilling and self._training and (order := self._order) is not None:
                await self._let_go()
                await self._fail(order, condition.unwilling, declined=True)
            waited_for = [(a.alert_id, a.priority, a.state) for a in beat.alerts], beat.acknowledges, condition.unwilling
            if reports.due(time.monotonic(), waited_for):
                await call.write(pb.EdgeMessage(heartbeat=self._heartbeat(beat, condition, reports.interval_s)))
            await asyncio.sleep(reports.look_s)

    def _heartbeat(self, beat: Beat, condition: Condition, interval_s: float) -> pb.Heartbeat:
        return pb.Heartbeat(
            examples=beat.examples,
            spooled=beat.spooled,
            spool_bytes=beat.spool_bytes,
            working_on=self.working_on,
            condition=condition_to_wire(condition),
            model=beat.model,
            passed_on=dict(beat.passed_on),
            models=beat.models,
            alerts=alerts_to_wire(beat.alerts),
            about=about_to_wire(beat.alerts),
            load=loads_to_wire(beat.load),
            acknowledges=beat.acknowledges,
            interval_s=interval_s,
        )

    async def _take(self, order: Order) -> None:
        """Start on an order; the same one again, after a new attachment, goes on with the work that runs."""
        async with self._taking:  # an order that comes on the next stream meanwhile waits for its turn
            await self._take_in_turn(order)

    async def _take_in_turn(self, order: Order) -> None:
        running = self._work is not None and not self._work.done()
        if running and self._order is not None:
            if (order.study, order.round_number, order.base, order.masks) == (
                self._order.study,
                self._order.round_number,
                self._order.base,
                self._order.masks,
            ):
                if order.masks:  # its keys may have been lost with the stream before: they are the same again
                    with contextlib.suppress(WardroundError, OSError):  # whoever works on the order meets that, too, and says so
                        await self._offer_keys(order)
                return
            if is_sandbox(order.study) and not is_sandbox(self._order.study):  # a drill takes nothing from a study
                await self._fail(order, BUSY, declined=True)
                return
            dropped = self._order
            await self._drop()
            if is_sandbox(dropped.study) and dropped.study != order.study:
                await self._fail(dropped, BUSY, declined=True)
        self._order = order
        self._work = asyncio.create_task(self._do(order))

    async def _let_go(self) -> None:
        async with self._taking:  # the next order is begun when this one has ended
            await self._drop()

    async def _drop(self) -> None:
        """Let go of the work in hand, and wait until it has; a training that runs in the worker ends there, unused."""
        work, self._work, self._order = self._work, None, None
        if work is not None:
            work.cancel()
            await ended(work)

    async def _do(self, order: Order) -> None:
        try:
            self._check_wanted(order)
            if order.masks:
                await self._offer_keys(order)
            ready = await to_its_end(self._memory(order.study).ready, order)
            kept = ready is not None
            if ready is None:
                await self._settle(order.study)
                done = await self._trained(order)
                if order.masks:
                    await self._screen_own(order, done)
                    done = await self._masked(order, done)
                ready = await to_its_end(self._memory(order.study).keep, order, done)
            await self._upload(order, ready, resumed=kept)
        except MasksRefused as error:
            await self._masks_refused(order.study, order.round_number, error)
        except (TrainingFailed, SourceFailed) as error:
            log.warning("training failed", study=order.study, round_number=order.round_number, reason=str(error))
            await self._fail(order, str(error))
        except SitsOut as error:
            detail = f"{error}; {error.remedy}"
            await to_its_end(self._participant.receipts.note, order.study, order.round_number, "sat-out", error.screen, detail)
            await self._fail(order, f"{error}"[:300])
        except Declined as error:
            log.info("order declined", study=order.study, round_number=order.round_number, reason=str(error))
            await self._fail(order, str(error), declined=True)
        except Exception as error:  # a fault of ours: the round must not wait for it until its deadline
            log.exception("order could not be carried out", study=order.study, round_number=order.round_number)
            await self._fail(order, f"{type(error).__name__}: {error}"[:300])

    def _memory(self, study: str) -> Participant:
        """What is remembered of a study's rounds: of a live drill's in memory alone."""
        return self._drills.participant(study) if self._drills is not None and is_sandbox(study) else self._participant

    def _check_wanted(self, order: Order) -> None:
        """Raises Declined: this edge wants no part in an order like this."""
        if reason := self._declines(order):
            raise Declined(reason)

    async def _screen_own(self, order: Order, done: Done) -> None:
        """Look at this edge's own update, which nobody else can, and say what was seen.

        Raises:
            SitsOut: it is better not given.
        """
        said = await to_its_end(self._watch, order, done)
        if said is None:
            return
        await self._say(pb.EdgeMessage(own_report=own_report_to_wire(said)))
        if said.report.sits_out:
            raise SitsOut(said.report.sits_out)

    async def _offer_keys(self, order: Order) -> None:
        """Say this edge's keys for a masked round; the hub passes on the others' while this edge trains."""
        if self._masks is None:
            raise TrainingFailed("this edge cannot mask updates", remedy="bring edge and hub to the same version")
        await self._say_masks(await to_its_end(self._masks.begin, order))

    async def _masked(self, order: Order, done: Done) -> Done:
        """The update under masks, once the others' shares are here.

        Raises:
            TrainingFailed: they did not come before the round's deadline.
            MasksRefused, LearnError: it cannot be masked.
        """
        assert self._masks is not None  # noqa: S101 - it has offered keys
        try:
            async with asyncio.timeout(order.deadline_s):
                while not await to_its_end(self._masks.can_mask, order):
                    await self._masks_moved.wait()
                    self._masks_moved.clear()
        except TimeoutError as error:
            raise TrainingFailed("masks: the others' shares did not come in time", remedy="the round is tried again") from error
        return await to_its_end(self._masks.mask, order, done)

    async def _take_masks(self, step: MaskStep) -> None:
        """Answer the hub's step of a masked round; what it should not have said is refused, and reported."""
        if self._masks is None:
            return
        try:
            answer = await to_its_end(self._masks.receive, step)
        except MasksRefused as error:
            await self._masks_refused(step.study, step.round_number, error)
        except (WardroundError, OSError) as error:  # a full disk: nothing was said, and the hub asks again
            log.error("a step of a masked round could not be kept", study=step.study, reason=str(error))
        else:
            if answer is not None:
                await self._say_masks(answer)
        self._masks_moved.set()

    async def _masks_refused(self, study: str, round_number: int, error: MasksRefused) -> None:
        (log.critical if error.lie else log.warning)("masks refused", study=study, round_number=round_number, reason=str(error))
        if error.reason == "session":  # of an attempt that is over
            return
        detail = f"{error}; {error.remedy}"
        await to_its_end(self._participant.receipts.note, study, round_number, "refused", f"masks-{error.reason}", detail)
        if error.lie:
            await to_its_end(self._on_lie, study, round_number, error)
        await self._fail_round(study, round_number, f"masks: {error}"[:300])

    async def _say_masks(self, step: MaskStep) -> None:
        await self._say(pb.EdgeMessage(masks=masks_to_wire(step)))

    async def _fail(self, order: Order, reason: str, *, declined: bool = False) -> None:
        await self._fail_round(order.study, order.round_number, reason, declined=declined)

    async def _fail_round(self, study: str, round_number: int, reason: str, *, declined: bool = False) -> None:
        failed = pb.TrainingFailed(study=study, round=round_number, reason=reason, declined=declined)
        await self._say(pb.EdgeMessage(failed=failed))

    async def _say(self, message: pb.EdgeMessage) -> None:
        """On the newest stream, from work that may be dropped at any moment: a write that is cancelled half way would take the
        whole stream with it (gRPC cancels the call), so what is begun is ended."""
        call = self._call

        async def write() -> None:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it is said again at the next attachment
                await call.write(message)

        await asyncio.shield(write())

    async def _trained(self, order: Order) -> Done:
        """Fetch and train, if this edge's own schedule allows it.

        Raises:
            Declined: it does not.
            TrainingFailed, SourceFailed: there is no update.
        """
        condition = await asyncio.to_thread(self._condition, False)
        if condition.unwilling:
            raise Declined(condition.unwilling)
        self._training = True
        try:
            model = order.model or (await self._fetch(order) if order.base else b"")
            kept = await to_its_end(self._memory(order.study).kept, order.study, order.kept_since)
            done = await self._train(order, model, kept)
            await asyncio.to_thread(self._condition, True)  # what this training cost is not the machine's load
            return done
        finally:
            self._training = False

    async def _upload(self, order: Order, ready: Ready, *, resumed: bool) -> None:
        """Upload until there is a receipt, from where the hub stopped; a link that breaks often and moves on is good enough."""
        attempt, offset = 0, 0
        while attempt < UPLOAD_TRIES:
            try:
                if resumed:
                    position = await self._position(ready.upload)
                    if position.accepted:
                        await to_its_end(self._memory(order.study).answered, order, UploadReceipt(accepted=True))
                        return
                    attempt = 0 if position.offset > offset else attempt
                    offset = position.offset
                await self._answered(order, await self._push(ready, offset, attempt))
            except grpc.aio.AioRpcError as error:
                log.info("upload interrupted", code=error.code().name, round_number=order.round_number)
                resumed = True
                await asyncio.sleep(min(RETRY_S_MAX, RETRY_S_MIN * 2**attempt))
                attempt += 1
            else:
                return

    async def _settle(self, study: str) -> None:
        """Learn whether an update whose receipt was lost counts, before what the edge keeps moves on without it."""
        open_ = await to_its_end(self._memory(study).unsettled, study)
        if open_ is None:
            return
        for attempt in range(UPLOAD_TRIES):
            try:
                position = await self._position(open_)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(min(RETRY_S_MAX, RETRY_S_MIN * 2**attempt))
            else:
                await to_its_end(self._memory(study).settle, study, counts=position.accepted)
                return
        raise TrainingFailed("the hub does not say whether the last update counts", remedy="wait for the next order")

    async def _answered(self, order: Order, receipt: pb.UpdateReceipt) -> None:
        answer = UploadReceipt(receipt.accepted, receipt.reason, receipt.detail)
        await to_its_end(self._memory(order.study).answered, order, answer)
        if not receipt.accepted:
            log.warning("update refused", study=order.study, round_number=order.round_number, reason=receipt.reason)

    async def _position(self, upload: Upload) -> pb.UploadOffset:
        query = pb.UploadQuery(study=upload.study, round=upload.round_number, sha256=upload.sha256)
        answer: pb.UploadOffset = await self._channel.unary_unary(
            f"/{SERVICE}/UploadPosition",
            request_serializer=pb.UploadQuery.SerializeToString,
            response_deserializer=pb.UploadOffset.FromString,
        )(query, timeout=IDLE_S)
        return answer

    async def _push(self, ready: Ready, offset: int, attempt: int) -> pb.UpdateReceipt:
        upload = ready.upload
        head = pb.UpdateHead(
            study=upload.study,
            round=upload.round_number,
            task=upload.task,
            base_model=upload.base,
            size=upload.size,
            sha256=upload.sha256,
            offset=offset,
            examples=upload.examples,
            metrics=dict(upload.metrics),
            rows=upload.rows,
            signature=self._sign(announcement(upload)),
        )
        call = self._channel.stream_unary(f"/{SERVICE}/UploadUpdate", response_deserializer=pb.UpdateReceipt.FromString)()
        stride = Stride(attempt=attempt)
        part = ready.data[offset : offset + stride.size]
        await call.write(frame(head, part))
        while (offset := offset + len(part)) < len(ready.data):
            stride.passed(len(part))
            part = ready.data[offset : offset + stride.size]
            await call.write(part)
        await call.done_writing()
        receipt: pb.UpdateReceipt = await call
        return receipt
