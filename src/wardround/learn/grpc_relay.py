"""Edge to edge over gRPC: an edge passes models on to those the hub named, and fetches from the one the hub named.

Mutual TLS both ways: the relay shows its listener's certificate, who fetches shows its edge certificate, and only edges that
stand in the relay's newest order as its children are answered. Who receives checks every piece against the hub's signature.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import grpc

from wardround.learn.frames import FrameMalformed, frame, unframe
from wardround.learn.grpc_wire import RELAY, SERVICE, head_of
from wardround.learn.manifests import Signed
from wardround.learn.messages import model_digest
from wardround.learn.shelf import ModelSource, Piece, Shelf, SourceFailed
from wardround.records import EdgeId
from wardround.trust.certificates import listener_name
from wardround.trust.channel import edge_channel
from wardround.wire import wardround_pb2 as pb

HUB_IDLE_S, RELAY_IDLE_S = 30.0, 5.0  # a source that brings no piece for so long has failed
HUB_TRIES, RELAY_TRIES = 20, 1
NAMED_S = 2.0  # an edge may ask before the order that names it is here: so long it waits


class HubSource:
    """The hub, over the channel that the edge keeps open."""

    name, tries = "the hub", HUB_TRIES

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def pieces(self, digest: str, offset: int) -> AsyncIterator[Piece]:
        return _pieces(self._channel, f"/{SERVICE}/FetchModel", digest, offset, HUB_IDLE_S, self.name)


class RelaySource:
    """Another edge."""

    tries = RELAY_TRIES

    def __init__(self, identity: Path, edge: str, address: str) -> None:
        self.name = edge
        self._identity, self._address = identity, address

    async def pieces(self, digest: str, offset: int) -> AsyncIterator[Piece]:
        host, _, port = self._address.rpartition(":")
        if not host or not port.isdigit():
            raise SourceFailed(f"{self.name} passes models on at {self._address!r}, which is no address")
        channel = edge_channel(self._identity, host, int(port), name=listener_name(self.name))
        try:
            async for piece in _pieces(channel, f"/{RELAY}/FetchModel", digest, offset, RELAY_IDLE_S, self.name):
                yield piece
        finally:
            await channel.close(None)


class RelayLink:
    """The Relay service of one edge."""

    def __init__(self, shelf: Shelf, *, peer_name: Callable[[Any], EdgeId], sources: Callable[[], Sequence[ModelSource]]) -> None:
        """`sources()` is where this edge itself fetches what it is asked for and does not have."""
        self._shelf, self._peer_name, self._sources = shelf, peer_name, sources
        self._children: frozenset[str] = frozenset()
        self._named = asyncio.Event()
        self.sent_bytes: dict[EdgeId, int] = {}

    def allow(self, children: Collection[str]) -> None:
        """The edges that may fetch from now on, as the hub says in each order."""
        self._children = frozenset(children)
        self._named.set()
        self._named = asyncio.Event()

    def handlers(self) -> dict[str, Any]:
        """The service's methods."""
        return {"FetchModel": grpc.unary_stream_rpc_method_handler(self._fetch, request_deserializer=pb.ModelRequest.FromString)}

    async def _fetch(self, request: pb.ModelRequest, context: Any) -> AsyncIterator[bytes]:
        edge = self._peer_name(context)
        if edge not in self._children:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._named.wait(), NAMED_S)
        if edge not in self._children:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, f"the hub has not named {edge} to fetch here")
        try:
            name = model_digest(request.digest)
            first = True
            async for piece in self._shelf.pieces(name, request.offset, self._sources()):
                self.sent_bytes[edge] = self.sent_bytes.get(edge, 0) + len(piece.data)
                yield frame(head_of(piece.signed), piece.data) if first else piece.data
                first = False
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except SourceFailed as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))


async def _pieces(channel: Any, method: str, digest: str, offset: int, idle_s: float, name: str) -> AsyncIterator[Piece]:
    call = channel.unary_stream(method, request_serializer=pb.ModelRequest.SerializeToString)(
        pb.ModelRequest(digest=digest, offset=offset)
    )
    first = True
    try:
        while True:
            data = await asyncio.wait_for(call.read(), idle_s)
            if data is grpc.aio.EOF:  # type: ignore[attr-defined]  # missing in the stubs
                return
            signed = None
            if first:
                head, rest = unframe(data, pb.ModelHead)
                data, first = bytes(rest), False
                signed = Signed(head.manifest, head.signature, head.certificate) if head.manifest else None
            yield Piece(data, signed)
    except FrameMalformed as error:
        raise SourceFailed(f"{name}: {error}") from error
    except grpc.aio.AioRpcError as error:
        raise SourceFailed(f"{name}: {error.code().name} {error.details()}") from error
    except TimeoutError as error:
        raise SourceFailed(f"{name} gave nothing for {idle_s:.0f} s") from error
    finally:
        call.cancel()
