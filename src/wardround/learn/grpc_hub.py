"""The hub's side of rounds over gRPC: orders are pushed down one open stream, models and updates move by digest.

Nothing here sleeps in the path of a round: an order is written the moment the coordinator gives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import grpc
import structlog

from wardround.errors import StorageFull, UpdateRefused
from wardround.learn import rounds
from wardround.learn.abilities import SAID_MAX
from wardround.learn.condition import Condition
from wardround.learn.frames import FrameMalformed, frame, unframe
from wardround.learn.grpc_wire import (
    CHUNK,
    IDLE_S,
    NAME_MAX,
    Beat,
    Stride,
    beat_of,
    condition_of,
    denied_to_wire,
    head_of,
    interval_to_wire,
    masks_of,
    own_report_of,
    receipt_of,
    to_wire,
    upload_of,
)
from wardround.learn.heartbeats import HEARTBEAT_S, HeartbeatInterval
from wardround.learn.manifests import Signed, make_manifest
from wardround.learn.messages import MaskStep, Notice, Order, Release, Upload, UploadReceipt, model_digest
from wardround.learn.own_report import SignedReport
from wardround.records import EdgeId
from wardround.threads import to_its_end
from wardround.trust.denied import DenyList
from wardround.wire import wardround_pb2 as pb

log = structlog.get_logger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
QUEUE_MAX = 64
SIGNED_MAX = 32
HELD_MAX = 1024 * 1024  # bytes of an upload that wait while others of it are written
_CORES = ThreadPoolExecutor(os.cpu_count() or 1, "bytes")  # moves and hashes bytes: more threads would only take turns


class Taking(Protocol):
    """What takes updates: a study's coordinator, or a run of a Flower app. Each method is said where the coordinator has it."""

    @property
    def name(self) -> str: ...

    @property
    def due(self) -> bool: ...

    def advance(self) -> None: ...

    def tick(self) -> None: ...

    def attach(self, edge: EdgeId) -> None: ...

    def lose(self, edge: EdgeId) -> None: ...

    def note(self, edge: EdgeId, condition: Condition) -> None: ...

    def fail(self, edge: EdgeId, round_number: int, reason: str, *, declined: bool = False) -> None: ...

    def position(self, edge: EdgeId, upload: Upload) -> tuple[int, bool]: ...

    def begin(self, edge: EdgeId, upload: Upload, offset: int = -1) -> None: ...

    def append(self, edge: EdgeId, upload: Upload, offset: int, data: bytes | memoryview) -> int: ...

    def finish(self, edge: EdgeId, upload: Upload) -> UploadReceipt: ...

    def model(self, digest_: str, offset: int = 0, size: int = -1) -> bytes: ...

    def model_size(self, digest_: str) -> int: ...


@runtime_checkable
class TakingMasks(Taking, Protocol):
    """What runs masked rounds as well: a study's coordinator."""

    def masks(self, edge: EdgeId, step: MaskStep) -> None: ...

    def own_report(self, edge: EdgeId, signed: SignedReport, certificate: bytes) -> None: ...


class HubLink:
    """The Learn service over any number of studies. `studies()` gives what edges work for, by name."""

    def __init__(
        self,
        *,
        studies: Callable[[], Mapping[str, Taking]],
        peer_name: Callable[[Any], EdgeId],
        peer_certificate: Callable[[Any], bytes],
        on_attached: Callable[[EdgeId, str], None],
        on_beat: Callable[[EdgeId, Beat], None],
        on_lost: Callable[[EdgeId], None],
        sign: Callable[[bytes], Signed],
        on_other: Callable[[EdgeId, pb.EdgeMessage], None] = lambda _edge, _message: None,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """`sign(manifest)` puts the hub's name to a model's manifest. In a thread `on_attached` is told who has attached, and
        `on_other(edge, message)` gets what is no business of rounds. Edges report every `heartbeat_s`, many of them
        less often."""
        self._on_other = on_other
        self._interval = HeartbeatInterval(heartbeat_s)
        self._studies, self._peer_name, self._peer_certificate = studies, peer_name, peer_certificate
        self._on_attached, self._on_beat, self._on_lost = on_attached, on_beat, on_lost
        self._sign = sign
        self._signed: dict[str, asyncio.Future[Signed]] = {}  # of the newest models asked for
        self._relays: dict[EdgeId, str] = {}  # addresses of edges that pass models on
        self._abilities: dict[EdgeId, frozenset[str]] = {}
        self.sent_bytes: dict[EdgeId, int] = {}  # of models, to each edge
        self._queues: dict[EdgeId, asyncio.Queue[pb.HubMessage | None]] = {}
        self._turns: dict[EdgeId, asyncio.Lock] = {}
        self._denied = pb.HubMessage(denied=pb.Denied())
        self._loop = asyncio.get_running_loop()
        self._behind: set[asyncio.Task[None]] = set()  # nobody waits for them

    @property
    def attached(self) -> set[EdgeId]:
        """Edges whose stream is open."""
        return set(self._queues)

    def send(self, edge: EdgeId, message: Order | rounds.Cancel | Release | Notice | MaskStep, study: str) -> None:
        """Push a message down an edge's stream, from any thread; an edge that is gone gets it when it attaches again."""
        if isinstance(message, Order):
            message = replace(message, relay_address=self._relays.get(EdgeId(message.relay), ""))
            self._count(edge, len(message.model))
        self._loop.call_soon_threadsafe(self._put, edge, to_wire(message, study))

    def deny(self, denied: DenyList) -> None:
        """Tell every edge whom it gives no model; from any thread. An edge that attaches later is told then."""
        self._loop.call_soon_threadsafe(self._deny, denied_to_wire(denied))

    def _deny(self, message: pb.HubMessage) -> None:
        if message != self._denied:
            self._denied = message
            for edge in list(self._queues):
                self._put(edge, message)

    def _settle_interval(self) -> None:
        if self._interval.settle(len(self._queues)):
            said = interval_to_wire(self._interval.seconds)
            for edge in list(self._queues):
                self._put(edge, said)

    def push(self, edge: EdgeId, message: pb.HubMessage) -> None:
        """Push what is no business of rounds down an edge's stream, from any thread; an edge that is gone does not get it."""
        self._loop.call_soon_threadsafe(self._put, edge, message)

    def abilities(self, edge: EdgeId) -> Collection[str]:
        """What an edge said that it can train, when it attached last (abilities.py)."""
        return self._abilities.get(edge, frozenset())

    @property
    def relays(self) -> dict[EdgeId, str]:
        """Edges that pass models on, with their addresses."""
        return dict(self._relays)

    def _advance(self, coordinator: Taking) -> None:
        """Let a round that has all it needs be committed, in a thread: no receipt waits for it."""
        if coordinator.due:
            self._do_behind(asyncio.to_thread(coordinator.advance))

    def _do_behind(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)

    async def settled(self) -> None:
        """Nothing of this link works any more when this returns; call it when the listener is closed."""
        while self._behind:
            await asyncio.wait(self._behind)

    def _count(self, edge: EdgeId, size: int) -> None:
        self.sent_bytes[edge] = self.sent_bytes.get(edge, 0) + size

    def handlers(self) -> dict[str, Any]:
        """The service's methods."""
        return {
            "Attach": grpc.stream_stream_rpc_method_handler(
                self._attach,
                request_deserializer=pb.EdgeMessage.FromString,
                response_serializer=pb.HubMessage.SerializeToString,
            ),
            "FetchModel": grpc.unary_stream_rpc_method_handler(self._fetch, request_deserializer=pb.ModelRequest.FromString),
            "UploadPosition": grpc.unary_unary_rpc_method_handler(
                self._position,
                request_deserializer=pb.UploadQuery.FromString,
                response_serializer=pb.UploadOffset.SerializeToString,
            ),
            "UploadUpdate": grpc.stream_unary_rpc_method_handler(
                self._upload, response_serializer=pb.UpdateReceipt.SerializeToString
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
        queue.put_nowait(self._denied)
        queue.put_nowait(interval_to_wire(self._interval.seconds))
        older = self._queues.get(edge)
        if older is not None:
            with contextlib.suppress(asyncio.QueueFull):
                older.put_nowait(None)  # a new stream of the same edge replaces the one that hangs
        self._queues[edge] = queue
        self._settle_interval()
        certificate = self._peer_certificate(context)
        reader = asyncio.create_task(self._read(edge, queue, messages, certificate))
        try:
            while (message := await queue.get()) is not None:
                yield message
        finally:
            reader.cancel()
            if self._queues.get(edge) is queue:
                del self._queues[edge]
                self._settle_interval()
            self._do_behind(self._gone(edge, reader))

    async def _gone(self, edge: EdgeId, reader: asyncio.Task[None]) -> None:
        """A stream has ended. What its reader still does in a thread comes first: an edge that is lost, then attached, would be
        waited for although it is not there. A stream that the edge has opened meanwhile stands for it."""
        await asyncio.wait([reader])
        if edge in self._queues:
            return
        for coordinator in list(self._studies().values()):
            coordinator.lose(edge)
            self._advance(coordinator)
        self._on_lost(edge)

    async def _read(
        self, edge: EdgeId, queue: asyncio.Queue[Any], messages: AsyncIterator[pb.EdgeMessage], certificate: bytes
    ) -> None:
        try:
            async for message in messages:
                kind = message.WhichOneof("kind")
                if kind == "hello":
                    self._relays.pop(edge, None)
                    if message.hello.relay_address:
                        self._relays[edge] = message.hello.relay_address[:300]
                    self._abilities[edge] = frozenset(said[:NAME_MAX] for said in message.hello.learners[:SAID_MAX])
                    await to_its_end(self._on_attached, edge, message.hello.software_version[:NAME_MAX])
                    for coordinator in list(self._studies().values()):
                        if message.hello.HasField("condition"):
                            coordinator.note(edge, condition_of(message.hello.condition))
                        await to_its_end(coordinator.attach, edge)
                elif kind == "heartbeat":
                    beat = beat_of(message.heartbeat)
                    self._on_beat(edge, beat)
                    for coordinator in list(self._studies().values()):
                        if beat.condition is not None:
                            coordinator.note(edge, beat.condition)
                elif kind in ("erased", "kept_head", "names_given", "erased_here"):
                    await to_its_end(self._on_other, edge, message)
                else:
                    await self._take(edge, message, certificate)
        finally:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(None)

    async def _take(self, edge: EdgeId, message: pb.EdgeMessage, certificate: bytes) -> None:
        """What an edge says of a round in progress, on a stream of this certificate."""
        kind = message.WhichOneof("kind")
        if kind == "failed" and (failed := self._studies().get(message.failed.study)):
            said = message.failed
            await to_its_end(failed.fail, edge, said.round, said.reason, declined=said.declined)
            self._advance(failed)
        elif kind == "masks" and isinstance(masked := self._studies().get(message.masks.study), TakingMasks):
            await to_its_end(masked.masks, edge, masks_of(message.masks))
            self._advance(masked)
        elif kind == "own_report" and isinstance(told := self._studies().get(message.own_report.study), TakingMasks):
            await to_its_end(told.own_report, edge, own_report_of(message.own_report), certificate)

    async def _fetch(self, request: pb.ModelRequest, context: Any) -> AsyncIterator[bytes]:
        try:
            name = model_digest(request.digest)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        edge = self._peer_name(context)
        for coordinator in list(self._studies().values()):
            size = await asyncio.to_thread(coordinator.model_size, name)
            if not size:
                continue
            signed = await self._manifest(coordinator, name)
            start, stride = request.offset, Stride(attempt=2)  # an edge that was interrupted asks as one that was not
            while start < size:
                data = await self._loop.run_in_executor(_CORES, coordinator.model, name, start, stride.size)
                self._count(edge, len(data))
                yield frame(head_of(signed), data) if start == request.offset else data
                start += len(data)
                stride.passed(len(data))
            return
        await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no model {name[:12]}")

    async def _manifest(self, coordinator: Taking, name: str) -> Signed:
        """The signed manifest of a model, made once, however many edges ask for it at the same time."""
        making = self._signed.get(name)
        if making is None or (making.done() and making.exception() is not None):
            self._signed.pop(name, None)
            making = self._loop.run_in_executor(_CORES, self._made, coordinator, name)
            self._signed[name] = making
            for old in list(self._signed)[:-SIGNED_MAX]:
                del self._signed[old]
        return await asyncio.shield(making)

    def _made(self, coordinator: Taking, name: str) -> Signed:
        parts = (coordinator.model(name, at, CHUNK) for at in range(0, coordinator.model_size(name), CHUNK))
        return self._sign(make_manifest(coordinator.name, name, CHUNK, parts))

    async def _position(self, query: pb.UploadQuery, context: Any) -> pb.UploadOffset:
        edge = self._peer_name(context)
        coordinator = await self._coordinator(query.study, context)
        upload = Upload(query.study, query.round, "", "", 0, query.sha256[:64], 0)
        offset, accepted = await self._in_turn(edge, coordinator.position, edge, upload)
        return pb.UploadOffset(offset=offset, accepted=accepted)

    async def _upload(self, messages: AsyncIterator[bytes], context: Any) -> pb.UpdateReceipt:
        edge = self._peer_name(context)
        arriving = _within(messages, IDLE_S)
        try:
            head, data = unframe(await anext(arriving), pb.UpdateHead)
            upload = upload_of(head, self._peer_certificate(context))
            coordinator = await self._coordinator(upload.study, context)
            if head.offset == 0 and len(data) == upload.size:
                await anext(arriving, None)
                receipt = await self._in_turn(edge, _take_whole, coordinator, edge, upload, data)
                self._advance(coordinator)
                return receipt_of(receipt)
            try:
                await self._take_parts(coordinator, edge, upload, head.offset, data, arriving)
            except UpdateRefused as error:
                log.info("upload refused", edge_id=edge, reason=error.reason)
            receipt = await self._in_turn(edge, coordinator.finish, edge, upload)  # says why, and tells the round
            self._advance(coordinator)
            return receipt_of(receipt)
        except StopAsyncIteration:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "an upload begins with its head")
        except FrameMalformed as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except LookupError as error:
            await context.abort(grpc.StatusCode.ABORTED, str(error))
        except StorageFull as error:
            log.error("upload refused", edge_id=edge, reason=str(error))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no byte came for {IDLE_S:.0f} s")
        raise AssertionError("abort raises")

    async def _take_parts(
        self, coordinator: Taking, edge: EdgeId, upload: Upload, offset: int, first: memoryview, arriving: AsyncIterator[bytes]
    ) -> None:
        """Keep the bytes of an upload.

        Raises:
            UpdateRefused, LookupError, StorageFull, TimeoutError: as its parts say.
        """
        await self._in_turn(edge, coordinator.begin, edge, upload, offset)
        writing = _Writing(partial(_keep, coordinator, edge, upload), offset)
        try:
            await writing.add(first)
            async for data in arriving:
                await writing.add(data)
            await writing.end()
        finally:
            await writing.settled()

    async def _in_turn(self, edge: EdgeId, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Work on an edge's uploads, in a thread; what a call that broke off still does comes first.

        Else that call, a moment later, would start the upload anew behind the back of the one that goes on with it, or find it
        truncated, and the edge would be out of the round for an update that is good.
        """
        async with self._turns.setdefault(edge, asyncio.Lock()):
            return await to_its_end(work, *arguments, **named)

    async def _coordinator(self, study: str, context: Any) -> Taking:
        found = self._studies().get(study)
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no running study {study[:60]!r}")
            raise AssertionError("abort raises")
        return found


def _take_whole(coordinator: Taking, edge: EdgeId, upload: Upload, data: memoryview) -> UploadReceipt:
    """An update that came in one message, in one visit to a thread."""
    with contextlib.suppress(UpdateRefused):  # `finish` says why, and tells the round
        coordinator.begin(edge, upload, 0)
        _keep(coordinator, edge, upload, 0, [data])
    return coordinator.finish(edge, upload)


class _Writing:
    """Keeps an upload in a thread: what arrives while it writes and hashes is next, in one go."""

    def __init__(self, keep: Callable[[int, Sequence[bytes | memoryview]], None], offset: int) -> None:
        self._keep, self._offset = keep, offset
        self._parts: list[bytes | memoryview] = []
        self._held = 0
        self._task: asyncio.Future[None] | None = None

    async def add(self, data: bytes | memoryview) -> None:
        """Take bytes; waits while more than HELD_MAX wait to be written."""
        self._parts.append(data)
        self._held += len(data)
        if self._task is None or self._task.done() or self._held >= HELD_MAX:
            await self._next()

    async def end(self) -> None:
        """Everything is written when this returns."""
        await self._next()
        await self._next()

    async def settled(self) -> None:
        """Nothing writes any more when this returns, behind the back of who resumes."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _next(self) -> None:
        if self._task is not None:
            await asyncio.shield(self._task)  # a call that is cancelled does not end its thread
        parts, self._parts = self._parts, []
        self._task = asyncio.get_running_loop().run_in_executor(_CORES, self._keep, self._offset, parts)
        self._offset, self._held = self._offset + self._held, 0


def _keep(coordinator: Taking, edge: EdgeId, upload: Upload, offset: int, parts: Sequence[bytes | memoryview]) -> None:
    """Add bytes where the upload stands.

    Raises:
        UpdateRefused: more bytes than announced.
        LookupError: another upload of the same update came between; ask for the position again.
    """
    for data in parts:
        if offset + len(data) > upload.size:
            raise UpdateRefused("too-large", "more bytes than announced")
        size = coordinator.append(edge, upload, offset, data)
        offset += len(data)
        if size != offset:
            raise LookupError(f"the upload stands at byte {size}, not {offset}")


async def _within(messages: AsyncIterator[bytes], idle_s: float) -> AsyncIterator[bytes]:
    """The messages, as long as each comes within `idle_s` of the one before: a slow link is judged by progress."""
    iterator = aiter(messages)
    while True:
        try:
            async with asyncio.timeout(idle_s):
                message = await anext(iterator)
        except StopAsyncIteration:
            return
        yield message
