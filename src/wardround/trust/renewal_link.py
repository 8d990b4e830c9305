"""Renewal over gRPC: one call, over the mutual TLS of the certificate that it replaces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import structlog

from wardround.errors import CertificateRefused, TrustError
from wardround.trust.channel import peer_certificate, peer_name
from wardround.trust.renewal import Renewed
from wardround.wire import wardround_pb2 as pb

log = structlog.get_logger(__name__)
SERVICE = "wardround.v1.Trust"
DEADLINE_S = 20.0
PEM_BYTES_MAX = 16_384


def renewal_handlers(renew: Callable[[bytes, bytes, bytes], Renewed]) -> dict[str, Any]:
    """The hub's method. `renew(peer, csr, listener)` is called in a thread, or raises TrustError."""

    async def answer(request: pb.RenewalRequest, context: Any) -> pb.RenewalAnswer:
        if max(len(request.csr), len(request.listener)) > PEM_BYTES_MAX:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is too large")
        try:
            renewed = await asyncio.to_thread(renew, peer_certificate(context), request.csr, request.listener)
        except TrustError as error:
            log.warning("renewal refused", edge_id=peer_name(context), reason=str(error))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
            raise AssertionError("abort raises") from error
        return pb.RenewalAnswer(certificate=renewed.certificate, listener=renewed.listener)

    handler = grpc.unary_unary_rpc_method_handler(
        answer, request_deserializer=pb.RenewalRequest.FromString, response_serializer=pb.RenewalAnswer.SerializeToString
    )
    return {"Renew": handler}


async def ask_renewal(channel: Any, csr: bytes, listener: bytes) -> Renewed:
    """The edge's side.

    Raises:
        CertificateRefused: the hub refuses, or cannot be reached.
    """
    call = channel.unary_unary(
        f"/{SERVICE}/Renew",
        request_serializer=pb.RenewalRequest.SerializeToString,
        response_deserializer=pb.RenewalAnswer.FromString,
    )
    try:
        answer = await call(pb.RenewalRequest(csr=csr, listener=listener), timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        raise CertificateRefused(
            f"the hub gave no new certificate: {error.code().name} {error.details()}",
            remedy="see that the hub runs and has not revoked this edge; it is tried again",
        ) from error
    return Renewed(answer.certificate, answer.listener)
