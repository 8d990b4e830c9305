"""Rounds over gRPC: orders are pushed down one open stream, models and updates move by digest, resumable at the byte.

An update takes two calls (where did we stop; the bytes), one where the hub knows nothing of it yet. Nothing here sleeps in
the path of a round: an order is written the moment the coordinator gives it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from wardround.errors import StorageFull, UpdateRefused
from wardround.learn import rounds
from wardround.learn.coordinator import Coordinator
from wardround.learn.messages import Done, Order, Upload, UploadReceipt, model_digest
from wardround.learn.models import digest
from wardround.learn.participant import Participant, Ready
from wardround.learn.trainer import TrainingFailed
from wardround.records import EdgeId
from wardround.wire import wardround_pb2 as pb

log = structlog.get_logger(__name__)
SERVICE = "wardround.v1.Learn"
CHUNK = 512 * 1024
QUEUE_MAX = 64
IDLE_S = 30.0  # an upload that brings no byte for so long is over; it resumes with the next call
RETRY_S_MIN, RETRY_S_MAX = 0.2, 2.0
UPLOAD_TRIES = 20


@dataclass(frozen=True, slots=True)
class Beat:
    """What an edge says of itself, a few times a minute."""

    examples: int
    spooled: int
    spool_bytes: int
    working_on: str
    version: str = ""


# -- the hub's side


class HubLink:
    """The Learn service over any number of studies. `studies()` gives the running coordinators by name."""

    def __init__(
        self,
        *,
        studies: Callable[[], dict[str, Coordinator]],
        peer_name: Callable[[Any], EdgeId],
        on_attached: Callable[[EdgeId, str], None],
        on_beat: Callable[[EdgeId, Beat], None],
        on_lost: Callable[[EdgeId], None],
    ) -> None:
        self._studies, self._peer_name = studies, peer_name
        self._on_attached, self._on_beat, self._on_lost = on_attached, on_beat, on_lost
        self._queues: dict[EdgeId, asyncio.Queue[pb.HubMessage | None]] = {}
        self._loop = asyncio.get_running_loop()

    @property
    def attached(self) -> set[EdgeId]:
        """Edges whose stream is open."""
        return set(self._queues)

    def send(self, edge: EdgeId, message: Order | rounds.Cancel, study: str) -> None:
        """Push a message down an edge's stream, from any thread; an edge that is gone gets it when it attaches again."""
        self._loop.call_soon_threadsafe(self._put, edge, _to_wire(message, study))

    def handlers(self) -> dict[str, Any]:
        """The service's methods."""
        return {
            "Attach": grpc.stream_stream_rpc_method_handler(
                self._attach,
                request_deserializer=pb.EdgeMessage.FromString,
                response_serializer=pb.HubMessage.SerializeToString,
            ),
            "FetchModel": grpc.unary_stream_rpc_method_handler(
                self._fetch, request_deserializer=pb.ModelRequest.FromString, response_serializer=pb.Chunk.SerializeToString
            ),
            "UploadPosition": grpc.unary_unary_rpc_method_handler(
                self._position,
                request_deserializer=pb.UploadQuery.FromString,
                response_serializer=pb.UploadOffset.SerializeToString,
            ),
            "UploadUpdate": grpc.stream_unary_rpc_method_handler(
                self._upload,
                request_deserializer=pb.UpdateChunk.FromString,
                response_serializer=pb.UpdateReceipt.SerializeToString,
            ),
        }

    def _put(self, edge: EdgeId, message: pb.HubMessage) -> None:
        queue = self._queues.get(edge)
        if queue is None:
            return
        try:
            queue.put_nowait(message)
        except asyncio.QueueFull:  # an edge that reads nothing is as good as gone: it attaches again
            log.warning("edge reads no orders", edge_id=edge)
            self._queues.pop(edge, None)
            with contextlib.suppress(asyncio.QueueEmpty):
                queue.get_nowait()
            queue.put_nowait(None)

    async def _attach(self, messages: AsyncIterator[pb.EdgeMessage], context: Any) -> AsyncIterator[pb.HubMessage]:
        edge = self._peer_name(context)
        queue: asyncio.Queue[pb.HubMessage | None] = asyncio.Queue(QUEUE_MAX)
        older = self._queues.get(edge)
        if older is not None:
            with contextlib.suppress(asyncio.QueueFull):
                older.put_nowait(None)  # a new stream of the same edge replaces the one that hangs
        self._queues[edge] = queue
        reader = asyncio.create_task(self._read(edge, queue, messages))
        try:
            while (message := await queue.get()) is not None:
                yield message
        finally:
            reader.cancel()
            if self._queues.get(edge) is queue:
                del self._queues[edge]
                for coordinator in self._studies().values():
                    coordinator.lose(edge)
                self._on_lost(edge)

    async def _read(self, edge: EdgeId, queue: asyncio.Queue[Any], messages: AsyncIterator[pb.EdgeMessage]) -> None:
        try:
            async for message in messages:
                kind = message.WhichOneof("kind")
                if kind == "hello":
                    self._on_attached(edge, message.hello.software_version)
                    for coordinator in self._studies().values():
                        await asyncio.to_thread(coordinator.attach, edge)
                elif kind == "heartbeat":
                    beat = message.heartbeat
                    self._on_beat(edge, Beat(beat.examples, beat.spooled, beat.spool_bytes, beat.working_on))
                elif kind == "failed" and (failed := self._studies().get(message.failed.study)):
                    await asyncio.to_thread(failed.fail, edge, message.failed.round, message.failed.reason)
        finally:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(None)

    async def _fetch(self, request: pb.ModelRequest, context: Any) -> AsyncIterator[pb.Chunk]:
        try:
            name = model_digest(request.digest)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        for coordinator in self._studies().values():
            try:
                size = await asyncio.to_thread(coordinator.model_size, name)
                for start in range(min(request.offset, size), size, CHUNK):
                    yield pb.Chunk(data=await asyncio.to_thread(coordinator.model, name, start, CHUNK), total=size)
            except FileNotFoundError:
                continue
            if size:
                return
        await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no model {name[:12]}")

    async def _position(self, query: pb.UploadQuery, context: Any) -> pb.UploadOffset:
        edge = self._peer_name(context)
        coordinator = await self._coordinator(query.study, context)
        upload = Upload(query.study, query.round, "", "", 0, query.sha256[:64], 0)
        offset, accepted = await asyncio.to_thread(coordinator.position, edge, upload)
        return pb.UploadOffset(offset=offset, accepted=accepted)

    async def _upload(self, chunks: AsyncIterator[pb.UpdateChunk], context: Any) -> pb.UpdateReceipt:
        edge = self._peer_name(context)
        arriving = _within(chunks, IDLE_S)
        try:
            first = await anext(arriving)
            upload = _upload_of(first.header)
            coordinator = await self._coordinator(upload.study, context)
            try:
                await asyncio.to_thread(coordinator.begin, edge, upload, first.header.offset)
                size = await self._keep(coordinator, edge, upload, first.header.offset, first.data)
                async for chunk in arriving:
                    size = await self._keep(coordinator, edge, upload, size, chunk.data)
            except UpdateRefused as error:
                log.info("upload refused", edge_id=edge, reason=error.reason)
            return _receipt(await asyncio.to_thread(coordinator.finish, edge, upload))  # says why, and tells the round
        except StopAsyncIteration:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an upload begins with its header")
        except LookupError as error:
            await context.abort(grpc.StatusCode.ABORTED, str(error))
        except StorageFull as error:
            log.error("upload refused", edge_id=edge, reason=str(error))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no byte came for {IDLE_S:.0f} s")
        raise AssertionError("abort raises")

    async def _keep(self, coordinator: Coordinator, edge: EdgeId, upload: Upload, offset: int, data: bytes) -> int:
        """Add a chunk; how many bytes are here now.

        Raises:
            UpdateRefused: more bytes than announced.
            LookupError: another upload of the same update came between; ask for the position again.
        """
        if offset + len(data) > upload.size:
            raise UpdateRefused("too-large", "more bytes than announced")
        size = await asyncio.to_thread(coordinator.append, edge, upload, offset, data)
        if size != offset + len(data):
            raise LookupError(f"the upload stands at byte {size}, not {offset + len(data)}")
        return size

    async def _coordinator(self, study: str, context: Any) -> Coordinator:
        found = self._studies().get(study)
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no running study {study[:60]!r}")
            raise AssertionError("abort raises")
        return found


async def _within(chunks: AsyncIterator[pb.UpdateChunk], idle_s: float) -> AsyncIterator[pb.UpdateChunk]:
    """The chunks, as long as each comes within `idle_s` of the one before: a slow link is judged by progress."""
    iterator = aiter(chunks)
    while True:
        try:
            yield await asyncio.wait_for(anext(iterator), idle_s)
        except StopAsyncIteration:
            return


def _upload_of(header: pb.UpdateHeader) -> Upload:
    return Upload(
        study=header.study,
        round_number=header.round,
        task=header.task,
        base=header.base_model,
        size=header.size,
        sha256=header.sha256[:64],
        examples=header.examples,
        metrics=dict(header.metrics),
    )


def _receipt(receipt: UploadReceipt) -> pb.UpdateReceipt:
    return pb.UpdateReceipt(accepted=receipt.accepted, reason=receipt.reason, detail=receipt.detail)


def _to_wire(message: Order | rounds.Cancel, study: str) -> pb.HubMessage:
    if isinstance(message, rounds.Cancel):
        return pb.HubMessage(cancel=pb.Cancel(study=study, reason=message.reason))
    return pb.HubMessage(
        order=pb.Order(
            study=message.study,
            round=message.round_number,
            attempt=message.attempt,
            task=message.task,
            base_model=message.base,
            settings=message.settings,
            deadline_s=message.deadline_s,
            model=message.model,
        )
    )


# -- the edge's side


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
    ) -> None:
        """`train(order, model, kept)` gives the update or raises TrainingFailed; `beat()` is called for every heartbeat."""
        self._channel, self._participant, self._train = channel, participant, train
        self._beat, self._heartbeat_s, self._version = beat, heartbeat_s, version
        self._work: asyncio.Task[None] | None = None
        self._order: Order | None = None
        self._refusals: list[tuple[int, str]] = []

    @property
    def working_on(self) -> str:
        """ "study/round" while there is an order in work."""
        busy = self._work is not None and not self._work.done()
        return f"{self._order.study}/{self._order.round_number}" if busy and self._order else ""

    async def run(self) -> None:
        """Stay attached until cancelled."""
        wait_s = RETRY_S_MIN
        while True:
            try:
                await self._attached()
                wait_s = RETRY_S_MIN
            except grpc.aio.AioRpcError as error:
                log.info("hub out of reach", code=error.code().name, detail=error.details())
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_S_MAX)

    async def _attached(self) -> None:
        call = self._channel.stream_stream(
            f"/{SERVICE}/Attach",
            request_serializer=pb.EdgeMessage.SerializeToString,
            response_deserializer=pb.HubMessage.FromString,
        )()
        beat = self._beat()
        hello = pb.Hello(software_version=self._version, examples=beat.examples, learners=["mlp"])
        await call.write(pb.EdgeMessage(hello=hello))
        beating = asyncio.create_task(self._heartbeats(call))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]  # missing in the stubs
                kind = message.WhichOneof("kind")
                if kind == "order":
                    await self._take(call, _order_of(message.order))
                elif kind == "cancel" and self._order is not None and message.cancel.study == self._order.study:
                    await self._drop()
        finally:
            beating.cancel()
            call.cancel()

    async def _heartbeats(self, call: Any) -> None:
        while True:
            beat = self._beat()
            await call.write(
                pb.EdgeMessage(
                    heartbeat=pb.Heartbeat(
                        examples=beat.examples,
                        spooled=beat.spooled,
                        spool_bytes=beat.spool_bytes,
                        working_on=self.working_on,
                    )
                )
            )
            await asyncio.sleep(self._heartbeat_s)

    async def _take(self, call: Any, order: Order) -> None:
        """Start on an order; the same one again, after a new attachment, goes on with the work that runs."""
        running = self._work is not None and not self._work.done()
        if running and self._order is not None:
            if (order.study, order.round_number, order.base) == (
                self._order.study,
                self._order.round_number,
                self._order.base,
            ):
                return
            await self._drop()
        self._order = order
        self._work = asyncio.create_task(self._do(call, order))

    async def _drop(self) -> None:
        """Let go of the work in hand; a training that runs in the worker ends there, unused."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        self._work = self._order = None

    async def _do(self, call: Any, order: Order) -> None:
        try:
            ready = await asyncio.to_thread(self._participant.ready, order)
            kept = ready is not None
            if ready is None:
                await self._settle(order.study)
                model = order.model or (await self._fetch(order.base) if order.base else b"")
                done = await self._train(order, model, await asyncio.to_thread(self._participant.kept, order.study))
                ready = await asyncio.to_thread(self._participant.keep, order, done)
            await self._upload(order, ready, resumed=kept)
        except TrainingFailed as error:
            log.warning("training failed", study=order.study, round_number=order.round_number, reason=str(error))
            failed = pb.TrainingFailed(study=order.study, round=order.round_number, reason=str(error))
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(pb.EdgeMessage(failed=failed))

    async def _fetch(self, name: str) -> bytes:
        """The model of this digest, resumed where a lost connection stopped.

        Raises:
            TrainingFailed: the bytes do not have their digest, or the hub stays out of reach.
        """
        data = bytearray()
        for attempt in range(UPLOAD_TRIES):
            call = self._channel.unary_stream(
                f"/{SERVICE}/FetchModel",
                request_serializer=pb.ModelRequest.SerializeToString,
                response_deserializer=pb.Chunk.FromString,
            )(pb.ModelRequest(digest=name, offset=len(data)))
            try:
                async for chunk in call:
                    data += chunk.data
                break
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    raise TrainingFailed(f"the hub has no model {name[:12]}", remedy="wait for the next order") from error
                await asyncio.sleep(min(RETRY_S_MAX, RETRY_S_MIN * 2**attempt))
        if digest(bytes(data)) != name:
            raise TrainingFailed(f"model {name[:12]} arrived damaged", remedy="it is fetched again with the next order")
        return bytes(data)

    async def _upload(self, order: Order, ready: Ready, *, resumed: bool) -> None:
        """Upload until there is a receipt, from where the hub stopped."""
        for attempt in range(UPLOAD_TRIES):
            try:
                offset = 0
                if resumed:
                    position = await self._position(ready.upload)
                    if position.accepted:
                        await asyncio.to_thread(self._participant.settle, order.study, counts=True)
                        return
                    offset = position.offset
                await self._answered(order, await self._push(ready, offset))
            except grpc.aio.AioRpcError as error:
                log.info("upload interrupted", code=error.code().name, round_number=order.round_number)
                resumed = True
                await asyncio.sleep(min(RETRY_S_MAX, RETRY_S_MIN * 2**attempt))
            else:
                return

    async def _settle(self, study: str) -> None:
        """Learn whether an update whose receipt was lost counts, before what the edge keeps moves on without it."""
        open_ = await asyncio.to_thread(self._participant.unsettled, study)
        if open_ is None:
            return
        for attempt in range(UPLOAD_TRIES):
            try:
                position = await self._position(open_)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(min(RETRY_S_MAX, RETRY_S_MIN * 2**attempt))
            else:
                await asyncio.to_thread(self._participant.settle, study, counts=position.accepted)
                return
        raise TrainingFailed("the hub does not say whether the last update counts", remedy="wait for the next order")

    async def _answered(self, order: Order, receipt: pb.UpdateReceipt) -> None:
        await asyncio.to_thread(self._participant.settle, order.study, counts=receipt.accepted)
        if not receipt.accepted:
            self._refusals = [*self._refusals[-20:], (order.round_number, receipt.reason)]
            log.warning("update refused", study=order.study, round_number=order.round_number, reason=receipt.reason)

    async def _position(self, upload: Upload) -> pb.UploadOffset:
        query = pb.UploadQuery(study=upload.study, round=upload.round_number, sha256=upload.sha256)
        answer: pb.UploadOffset = await self._channel.unary_unary(
            f"/{SERVICE}/UploadPosition",
            request_serializer=pb.UploadQuery.SerializeToString,
            response_deserializer=pb.UploadOffset.FromString,
        )(query, timeout=IDLE_S)
        return answer

    async def _push(self, ready: Ready, offset: int) -> pb.UpdateReceipt:
        upload = ready.upload
        header = pb.UpdateHeader(
            study=upload.study,
            round=upload.round_number,
            task=upload.task,
            base_model=upload.base,
            size=upload.size,
            sha256=upload.sha256,
            offset=offset,
            examples=upload.examples,
            metrics=dict(upload.metrics),
        )
        call = self._channel.stream_unary(
            f"/{SERVICE}/UploadUpdate",
            request_serializer=pb.UpdateChunk.SerializeToString,
            response_deserializer=pb.UpdateReceipt.FromString,
        )()
        await call.write(pb.UpdateChunk(header=header, data=ready.data[offset : offset + CHUNK]))
        for start in range(offset + CHUNK, len(ready.data), CHUNK):
            await call.write(pb.UpdateChunk(data=ready.data[start : start + CHUNK]))
        await call.done_writing()
        receipt: pb.UpdateReceipt = await call
        return receipt


def _order_of(message: pb.Order) -> Order:
    return Order(
        study=message.study,
        round_number=message.round,
        attempt=message.attempt,
        task=message.task,
        base=message.base_model,
        settings=message.settings,
        deadline_s=message.deadline_s,
        model=message.model,
    )
