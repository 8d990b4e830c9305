"""The door to gRPC: mutual TLS 1.3, identity from the certificate, the deny-list at every call and every message.

grpcio cannot be told a lowest TLS version from Python. Naming only an RSA cipher suite for TLS 1.2 while every certificate
here is ECDSA leaves 1.2 without a shared cipher. The variable must be set before grpc is imported, so it is set in the package's
own `__init__`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from traceback import clear_frames
from typing import Any, NamedTuple

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

import wardround
from wardround.errors import CertificateRefused, PortTaken, TrustError
from wardround.records import EdgeId
from wardround.trust.certificates import HUB_NAME, describe, load_key, public_key_of, signed_by
from wardround.trust.few_calls import FewCalls
from wardround.trust.open_streams import OpenStreams

log = structlog.get_logger(__name__)
MESSAGE_BYTES_MAX = 8 * 1024 * 1024
# How long a ping may go unanswered before the connection counts as dead. It waits behind what is sent already, a quarter of a
# megabyte of an upload: over 3G that takes ten seconds, and with less patience no upload over such a link ever came to its end.
KEEPALIVE_MS = 20_000
DENY_CHECK_S = 0.5
CALLS_MAX, CALLS_IN_ALL = 16, 32  # of one method, and of all, that a peer may have open at once, on however many connections
MESSAGE_S = 30.0  # for the message of a call that has one
STREAMS_MAX = 64  # calls of one connection: gRPC has those beyond wait
RETIRE_S = 10.0  # after the certificate's end: until then the hub has ended what was under way
_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
]
READ_AHEAD = 256 * 1024
ARENAS = 2
_M_ARENA_MAX = -8  # malloc.h
_HUB_OPTIONS = [
    *_OPTIONS,
    ("grpc.http2.bdp_probe", 0),  # probing grows each stream's window to megabytes: hundreds of edges would fill the memory
    ("grpc.http2.lookahead_bytes", READ_AHEAD),  # beside the message that is being read
    ("grpc.max_concurrent_streams", STREAMS_MAX),
    ("grpc.server_handshake_timeout_ms", 3_000),  # 119 s by default: silent connections would pile up
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.http2.min_ping_interval_without_data_ms", 4_000),
    ("grpc.so_reuseport", 0),  # a taken port is an error, not a second listener
]
_EDGE_OPTIONS = [
    *_OPTIONS,
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # How long one attempt to connect may take, whatever its name says: TCP and TLS are six ways over a link by satellite (0.6 s
    # each) or through a busy machine. What is refused is tried again after the backoff.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.use_local_subchannel_pool", 1),
]
Handlers = dict[str, Any]


def few_arenas() -> None:
    """Let this process allocate from ARENAS pools alone; call it before its threads start. Without effect outside glibc.

    glibc gives every thread a pool of its own, up to eight for each core, and none gives back what another could use: what a
    hundred uploads have passed through once stays with the process, in as many pools as gRPC and the disk work have threads.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


def peer_name(context: grpc.aio.ServicerContext[Any, Any]) -> EdgeId:
    """The name of the edge on the other side, from its certificate's URI SAN.

    Raises:
        CertificateRefused: no certificate, or not an edge's.
    """
    return EdgeId(_peer(context).name)


def peer_certificate(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """The certificate, PEM, of the edge on the other side, whose key TLS has seen it hold.

    Ask while the call's own handler runs, and in its task: gRPC (1.85) has let go of a call that is over, and asking it then is a
    segmentation fault of the whole process.

    Raises:
        CertificateRefused: it has shown none.
    """
    facts: dict[str, Any] = dict(context.auth_context())
    if not (pem := facts.get("x509_pem_cert")):
        raise CertificateRefused("an edge certificate is required", remedy="run `wardround edge join`")
    return bytes(pem[0])


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that has opened. To check its peer again asks gRPC nothing about the call: whoever reads a stream may still do so
    for a moment when the call is over."""

    peer: str
    ends: Callable[[], str]  # why the peer gets no answer now; empty: it does
    refuse: Callable[[str], Awaitable[Any]]

    async def check(self) -> None:
        """Raises AbortError: the call is refused."""
        if reason := self.ends():
            await self.refuse(reason)


class _Peer(NamedTuple):
    """Who is on the other side of a call."""

    name: str
    serial: str
    not_after_us: int
    certificate: bytes


def _peer(context: grpc.aio.ServicerContext[Any, Any]) -> _Peer:
    certificate = peer_certificate(context)
    described = describe(certificate)
    if described.role != "edge":
        raise CertificateRefused(f"a {described.role} certificate is not an edge's", remedy="run `wardround edge join`")
    return _Peer(described.name, described.serial, described.not_after_us, certificate)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Every call and every message of a stream: identity, notAfter and the deny-list."""

    def __init__(self, denied: Callable[[str, str], bool], issuer: bytes = b"") -> None:
        """`denied(name, serial)` answers from memory: it is asked for every message. With an `issuer` (PEM, one or more), who was
        issued by another under the same root gets no answer: an edge of another hub."""
        self._denied, self._issuer = denied, issuer
        self._few = FewCalls(CALLS_MAX, CALLS_IN_ALL)
        self._streams = OpenStreams(DENY_CHECK_S)  # a revoked edge's open stream ends, however quiet it is

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wrap the handler of this call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        return self._wrap(handler, handler_call_details.method)

    async def _opened(self, context: Any, method: str) -> _Call:
        """Check the peer of a call that opens; `_few` is told of it before anything else is waited for."""
        try:
            peer = _peer(context)
        except CertificateRefused as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            raise
        foreign = bool(self._issuer) and not _of_issuer(peer.certificate, self._issuer)
        call = _Call(peer.name, partial(self._against, peer, foreign), partial(context.abort, grpc.StatusCode.UNAUTHENTICATED))
        await call.check()
        if self._few.is_full(peer.name, method):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{peer.name} has too many calls open")
        return call

    def _against(self, peer: _Peer, foreign: bool) -> str:
        """Why this peer gets no answer now; empty: it does."""
        if peer.not_after_us < time.time_ns() // 1_000:
            return f"the certificate of {peer.name} has expired"
        if foreign:
            return f"the certificate of {peer.name} is of another hub"
        return f"{peer.name} is revoked" if self._denied(peer.name, peer.serial) else ""

    def _wrap(self, handler: Any, method: str) -> Any:
        async def incoming(requests: AsyncIterator[Any], call: _Call) -> AsyncIterator[Any]:
            async for request in requests:
                await call.check()
                yield request

        if handler.request_streaming and handler.response_streaming:

            async def stream_stream(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
                call = await self._opened(context, method)
                with self._few.one(call.peer, method), self._streams.watched(call.ends, call.refuse), _told():
                    async for response in handler.stream_stream(incoming(requests, call), context):
                        await call.check()
                        yield response

            return grpc.stream_stream_rpc_method_handler(stream_stream, handler.request_deserializer, handler.response_serializer)
        if handler.request_streaming:

            async def stream_unary(requests: AsyncIterator[Any], context: Any) -> Any:
                call = await self._opened(context, method)
                with self._few.one(call.peer, method), self._streams.watched(call.ends, call.refuse), _told():
                    return await handler.stream_unary(incoming(requests, call), context)

            return grpc.stream_unary_rpc_method_handler(stream_unary, handler.request_deserializer, handler.response_serializer)
        # Of a call with one message gRPC would read that before anybody is asked: two hundred of them, with megabytes each, were
        # too much for a hub. On the wire a stream of one message is the same; it is read once its peer is known and has few open.
        if handler.response_streaming:

            async def unary_stream(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
                call = await self._opened(context, method)
                with self._few.one(call.peer, method), self._streams.watched(call.ends, call.refuse), _told():
                    async for response in handler.unary_stream(await _only(requests, context), context):
                        await call.check()
                        yield response

            return grpc.stream_stream_rpc_method_handler(unary_stream, handler.request_deserializer, handler.response_serializer)

        async def unary_unary(requests: AsyncIterator[Any], context: Any) -> Any:
            call = await self._opened(context, method)
            with self._few.one(call.peer, method), self._streams.watched(call.ends, call.refuse), _told():
                return await handler.unary_unary(await _only(requests, context), context)

        return grpc.stream_unary_rpc_method_handler(unary_unary, handler.request_deserializer, handler.response_serializer)


async def _only(requests: AsyncIterator[Any], context: Any) -> Any:
    """The one message of a call that has one."""
    try:
        async with asyncio.timeout(MESSAGE_S):
            messages = aiter(requests)
            message = await anext(messages)
            await anext(messages, None)  # to its end: what reads a stream holds its newest message until then
            return message
    except (StopAsyncIteration, TimeoutError):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no message came within {MESSAGE_S:.0f} s")
        raise


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A handler's own mistake is logged here: gRPC would tell the edge "unknown" and nobody else.

    gRPC keeps the error with the call, in a circle that the collector of garbage finds late: where it was raised is let go of, or
    every call that is refused would leave its message in memory.
    """
    try:
        yield
    except grpc.aio.AbortError as error:
        clear_frames(error.__traceback__)
        raise
    except grpc.aio.BaseError as error:  # the other side has gone in the middle of the call
        log.info("a call broke off", reason=str(error).partition("(")[0].strip())
        clear_frames(error.__traceback__)
        raise
    except Exception as error:
        log.exception("a call failed in its handler")
        clear_frames(error.__traceback__)
        raise


async def start_hub_listener(
    services: dict[str, Handlers], *, host: str, port: int, pki: Path, denied: Callable[[str, str], bool]
) -> tuple[grpc.aio.Server, int]:
    """Listen for edges as the hub; the bound port. `services` maps a service's full name to its methods.

    Raises:
        PortTaken, TrustError: as start_listener.
    """
    files = (pki / "hub.key", pki / "hub.pem", pki / "ca.pem")
    earlier = (pki / "earlier.pem").read_bytes() if (pki / "earlier.pem").exists() else b""
    return await start_listener(services, host=host, port=port, files=files, denied=denied, setting="grpc.port", earlier=earlier)


async def start_listener(
    services: dict[str, Handlers],
    *,
    host: str,
    port: int,
    files: tuple[Path, Path, Path],
    denied: Callable[[str, str], bool],
    setting: str,
    earlier: bytes = b"",
) -> tuple[grpc.aio.Server, int]:
    """Listen for edges; the bound port. `files` are key, certificate and authority; `setting` names the port's setting;
    `earlier` are authorities before the present one under an offline root, PEM, whose edges are let in too.

    Raises:
        PortTaken: another process listens there.
        TrustError: grpc was imported before wardround, so that older TLS would be let in.
    """
    if wardround.grpc_came_first:
        raise TrustError("grpc was imported before wardround, and would let TLS 1.2 in", remedy="import wardround first")
    server = grpc.aio.server(interceptors=[Guard(denied, _issuer_of(files[1].read_bytes() + earlier))], options=_HUB_OPTIONS)
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())
    )
    read = _ListenerFiles(files)
    credentials = grpc.dynamic_ssl_server_credentials(read.configuration(), read.renewed, require_client_authentication=True)
    try:
        bound = server.add_secure_port(f"{host}:{port}", credentials)
    except RuntimeError as exc:
        raise PortTaken(host, port, setting=setting) from exc
    await server.start()
    return server, bound


@lru_cache(maxsize=4096)  # asked whenever a call opens
def _of_issuer(pem: bytes, issuer: bytes) -> bool:
    leaf = x509.load_pem_x509_certificate(pem)
    return any(signed_by(leaf, authority) for authority in x509.load_pem_x509_certificates(issuer))


def _issuer_of(chain: bytes) -> bytes:
    """The authority between a listener's certificate and an offline root; empty when the root signs by itself."""
    _leaf, *between = x509.load_pem_x509_certificates(chain)
    return b"".join(authority.public_bytes(serialization.Encoding.PEM) for authority in between)


class _ListenerFiles:
    """Key and certificate of a listener: a renewed pair is used from the next handshake on, and no connection is dropped."""

    def __init__(self, files: tuple[Path, Path, Path]) -> None:
        self._files = files
        self._seen = self._stamps()

    def configuration(self) -> Any:
        """What the files hold now."""
        key, certificate, authority = (path.read_bytes() for path in self._files)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)

    def renewed(self) -> Any:
        """The configuration when the files have changed and fit each other; else None. Asked at every handshake."""
        try:
            stamps = self._stamps()
            if stamps == self._seen:
                return None
            if load_key(self._files[0]).public_key() != public_key_of(self._files[1].read_bytes()):
                return None  # one of the two is on its way
            configuration = self.configuration()
        except (OSError, ValueError, TrustError) as error:
            log.error("a listener's certificate cannot be read; the one in use stays", reason=str(error))
            return None
        self._seen = stamps
        return configuration

    def _stamps(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in self._files)


def edge_channel(identity: Path, host: str, port: int, *, name: str = HUB_NAME) -> grpc.aio.Channel:
    """A channel with the edge's own certificate to whoever holds `name`, a reserved one; it reconnects within about a second
    of the other side's return.

    Not the address is verified: an edge may ask the authority for a listener's certificate under any address.
    """
    credentials = grpc.ssl_channel_credentials(
        root_certificates=(identity / "ca.pem").read_bytes(),
        private_key=(identity / "edge.key").read_bytes(),
        certificate_chain=(identity / "edge.pem").read_bytes(),
    )
    options = [*_EDGE_OPTIONS, ("grpc.ssl_target_name_override", name)]
    return grpc.aio.secure_channel(f"{host}:{port}", credentials, options=options)


class HubChannel:
    """The edge's way to its hub, made anew whenever its identity is: `renew`.

    Calls under way end on the connection they began on, which closes after them, or with its certificate; new calls take the new
    one. It offers what gRPC's own channel does, as far as edges call it.
    """

    def __init__(self, identity: Path, host: str, port: int) -> None:
        self._identity, self._host, self._port = identity, host, port
        self._line = self._open()
        self._retiring: set[asyncio.Task[None]] = set()

    def renew(self) -> None:
        """Take the new identity into use."""
        old, self._line = self._line, self._open()
        task = asyncio.create_task(old.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """End every call."""
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._line.channel.close(None)

    def unary_unary(self, method: str, **how: Any) -> Callable[..., Any]:
        """As grpc.aio.Channel."""
        return lambda *a, **k: self._line.begin("unary_unary", method, how, a, k)

    def unary_stream(self, method: str, **how: Any) -> Callable[..., Any]:
        """As grpc.aio.Channel."""
        return lambda *a, **k: self._line.begin("unary_stream", method, how, a, k)

    def stream_unary(self, method: str, **how: Any) -> Callable[..., Any]:
        """As grpc.aio.Channel."""
        return lambda *a, **k: self._line.begin("stream_unary", method, how, a, k)

    def stream_stream(self, method: str, **how: Any) -> Callable[..., Any]:
        """As grpc.aio.Channel."""
        return lambda *a, **k: self._line.begin("stream_stream", method, how, a, k)

    def _open(self) -> _Line:
        ends_us = describe((self._identity / "edge.pem").read_bytes()).not_after_us
        return _Line(edge_channel(self._identity, self._host, self._port), ends_us)


class _Line:
    """One channel, the calls under way on it, and when its certificate ends."""

    def __init__(self, channel: grpc.aio.Channel, ends_us: int) -> None:
        self.channel, self._ends_us = channel, ends_us
        self._calls: set[Any] = set()
        self._quiet = asyncio.Event()

    def begin(self, kind: str, method: str, how: dict[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call, remembered until it is done."""
        call = getattr(self.channel, kind)(method, **how)(*args, **kwargs)
        self._calls.add(call)
        self._quiet.clear()
        call.add_done_callback(self._done)
        return call

    def _done(self, call: Any) -> None:
        self._calls.discard(call)
        if not self._calls:
            self._quiet.set()

    async def retire(self) -> None:
        """Close once nothing is under way; the hub itself ends what outlives the certificate, and the edge resumes that."""
        left_s = (self._ends_us - time.time_ns() // 1_000) / 1e6
        try:
            with contextlib.suppress(TimeoutError):
                if self._calls:
                    await asyncio.wait_for(self._quiet.wait(), max(0.0, left_s) + RETIRE_S)
        finally:
            await self.channel.close(None)
