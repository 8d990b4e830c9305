"""Observations over gRPC: one open stream per edge, batches up, receipts down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import structlog

from wardround.collect.forwarder import Batch, Forwarder
from wardround.collect.inbox import Gap
from wardround.collect.intake import ForwardReceipt, Intake, Refusal
from wardround.errors import StorageFull
from wardround.records import Consent
from wardround.threads import to_its_end
from wardround.trust.consent import ConsentRecord
from wardround.wire import wardround_pb2 as pb

log = structlog.get_logger(__name__)
SERVICE = "wardround.v1.Collect"
IDLE_S = 0.05  # how long a new observation may wait in the spool before it is sent
RETRY_S_MIN, RETRY_S_MAX = 0.2, 5.0
_METHOD = f"/{SERVICE}/Forward"


def collect_handlers(
    intake: Intake,
    take_consents: Callable[[Sequence[ConsentRecord], str, int], None],
    peer_name: Callable[[Any], str],
    on_seen: Callable[[str], None],
) -> dict[str, Any]:
    """The hub's methods. Consents of an edge are taken over before the observations of the same request."""

    async def forward(requests: AsyncIterator[pb.ForwardRequest], context: Any) -> AsyncIterator[pb.ForwardReceipt]:
        edge = peer_name(context)
        async for request in requests:
            on_seen(edge)
            if request.consents:
                records = [
                    ConsentRecord(c.subject, c.code, Consent(c.choice), c.version, c.purpose or "*") for c in request.consents
                ]
                await asyncio.to_thread(take_consents, records, edge, request.wishes_taken)
            gaps = [Gap(g.first_seq, g.last_seq, g.reason) for g in request.gaps]
            try:
                receipt = await asyncio.to_thread(
                    intake.receive, edge, request.boot, request.first_seq, request.observations, gaps
                )
            except StorageFull as error:
                log.error("intake refused", edge_id=edge, reason=str(error))
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
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
