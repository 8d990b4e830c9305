"""Observations over gRPC: one open stream per edge, batches up, receipts down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import structlog

from wardround.collect.forwarder import Batch, Forwarder
from wardround.collect.inbox import Gap
from wardround.collect.intake import SEQ_MAX, ForwardReceipt, Intake, Refusal
from wardround.errors import CollectError, StorageFull
from wardround.records import Consent
from wardround.threads import to_its_end
from wardround.trust.consent import ConsentRecord
from wardround.wire import wardround_pb2 as pb

log = structlog.get_logger(__name__)
SERVICE = "wardround.v1.Collect"
IDLE_S = 0.05  # how long a new observation may wait in the spool before it is sent
RETRY_S_MIN, RETRY_S_MAX = 0.2, 5.0
CONSENTS_MAX = 200_000  # of one request: more than its bytes hold of real ones
SAME_VERSION = "bring edge and hub to the same version"
_METHOD = f"/{SERVICE}/Forward"


def collect_handlers(
    intake: Intake,
    take_consents: Callable[[Sequence[ConsentRecord], str, int], None],
    peer_name: Callable[[Any], str],
    on_seen: Callable[[str], None],
) -> dict[str, Any]:
    """The hub's methods. Consents of an edge are taken over before the observations of the same request."""
    turns: dict[str, asyncio.Lock] = {}  # one an edge: whatever it sends, and on however many streams, takes one thread at a time

    def take(edge: str, request: pb.ForwardRequest) -> ForwardReceipt:
        if request.consents:
            take_consents(_consents(request.consents), edge, _counted(request.wishes_taken))
        gaps = [Gap(g.first_seq, g.last_seq, g.reason) for g in request.gaps]
        return intake.receive(edge, request.boot, request.first_seq, request.observations, gaps)

    async def forward(requests: AsyncIterator[pb.ForwardRequest], context: Any) -> AsyncIterator[pb.ForwardReceipt]:
        edge = peer_name(context)
        async for request in requests:
            on_seen(edge)
            try:
                async with turns.setdefault(edge, asyncio.Lock()):
                    receipt = await to_its_end(take, edge, request)
            except StorageFull as error:
                log.error("intake refused", edge_id=edge, reason=str(error))
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            except CollectError as error:
                log.warning("intake refused", edge_id=edge, reason=str(error))
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            yield pb.ForwardReceipt(
                boot=receipt.boot,
                committed_seq=receipt.committed_seq,
                refusals=[pb.Refusal(seq=r.seq, reason=r.reason) for r in receipt.refusals],
            )

    handler = grpc.stream_stream_rpc_method_handler(
        forward,
        request_deserializer=pb.ForwardRequest.FromString,
        response_serializer=pb.ForwardReceipt.SerializeToString,
    )
    return {"Forward": handler}


def _consents(records: Sequence[pb.ConsentRecord]) -> list[ConsentRecord]:
    """What an edge says of its register.

    Raises:
        CollectError: it is none that the hub could keep.
    """
    if len(records) > CONSENTS_MAX:
        raise CollectError(f"{len(records)} consents are no register", remedy="send less at once")
    try:
        return [ConsentRecord(c.subject, c.code, Consent(c.choice), _counted(c.version), c.purpose or "*") for c in records]
    except ValueError as error:
        raise CollectError(f"a consent cannot be read: {str(error)[:80]}", remedy=SAME_VERSION) from error


def _counted(number: int) -> int:
    """A number that the hub's files can hold.

    Raises:
        CollectError: it is none.
    """
    if number > SEQ_MAX:
        raise CollectError("a number is beyond what can be counted", remedy=SAME_VERSION)
    return number


async def run_forwarding(channel: Any, forwarder: Forwarder, on_refused: Callable[[Refusal], None]) -> None:
    """The edge's side, until cancelled: connect, send, take receipts; again after a loss, with a growing wait."""
    wait_s = RETRY_S_MIN
    while True:
        forwarder.reset()
        call = channel.stream_stream(
            _METHOD,
            request_serializer=pb.ForwardRequest.SerializeToString,
            response_deserializer=pb.ForwardReceipt.FromString,
        )()
        sender = asyncio.create_task(_send(call, forwarder))
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]  # missing in the stubs
                refusals = tuple(Refusal(r.seq, r.reason) for r in answer.refusals)
                receipt = ForwardReceipt(answer.boot, answer.committed_seq, refusals)
                await asyncio.to_thread(forwarder.receipted, receipt)
                for refusal in refusals:
                    on_refused(refusal)
                wait_s = RETRY_S_MIN
        except grpc.aio.AioRpcError as error:
            log.info("hub link lost", code=error.code().name, detail=error.details())
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            call.cancel()
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, RETRY_S_MAX)


async def _send(call: Any, forwarder: Forwarder) -> None:
    while True:
        # Cancelled, it is waited for all the same: a batch that is still being made would move the forwarder on after the next
        # connection has set it back, and its rows would not be sent.
        batch = await to_its_end(forwarder.next_batch)
        if batch is None:
            await asyncio.sleep(IDLE_S)
        else:
            await call.write(_request(batch))


def _request(batch: Batch) -> pb.ForwardRequest:
    return pb.ForwardRequest(
        boot=batch.boot,
        first_seq=batch.first_seq,
        observations=batch.observations,
        gaps=[pb.Gap(first_seq=g.first_seq, last_seq=g.last_seq, reason=g.reason) for g in batch.gaps],
        wishes_taken=batch.wishes_taken,
        consents=[
            pb.ConsentRecord(subject=c.subject, code=c.code, choice=c.choice.value, version=c.version, purpose=c.purpose)
            for c in batch.consents
        ],
    )
