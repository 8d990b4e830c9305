"""Streams of bytes that begin with no frame, over a real connection: hub, relay and edge say what is wrong, at once."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from wardround.learn.frames import frame
from wardround.learn.grpc_hub import HubLink
from wardround.learn.grpc_relay import HubSource
from wardround.learn.grpc_wire import SERVICE
from wardround.learn.manifests import Signed
from wardround.learn.shelf import SourceFailed
from wardround.trust.certificates import Authority, key_pem, new_key, write_private
from wardround.trust.channel import edge_channel, peer_certificate, peer_name, start_hub_listener
from wardround.wire import wardround_pb2 as pb

pytestmark = pytest.mark.timeout(360)


@pytest.fixture
def identities(tmp_path):
    authority = Authority.create(tmp_path / "pki", "hub")
    hub, edge = new_key(), new_key()
    write_private(tmp_path / "pki" / "hub.key", key_pem(hub))
    write_private(tmp_path / "pki" / "hub.pem", authority.issue_hub("hub", hub.public_key(), ["127.0.0.1"], 1.0), 0o644)
    (tmp_path / "icu-a").mkdir()
    write_private(tmp_path / "icu-a" / "edge.key", key_pem(edge))
    write_private(tmp_path / "icu-a" / "edge.pem", authority.issue_edge("icu-a", edge.public_key(), 1.0), 0o644)
    write_private(tmp_path / "icu-a" / "ca.pem", authority.pem, 0o644)
    return tmp_path


def hub_link():
    return HubLink(
        studies=dict,
        peer_name=peer_name,
        peer_certificate=peer_certificate,
        on_attached=lambda _edge, _version: None,
        on_beat=lambda _edge, _beat: None,
        on_lost=lambda _edge: None,
        sign=lambda manifest: Signed(manifest, b"", b""),
    )


async def with_channel(home, handlers, use):
    server, port = await start_hub_listener(
        {SERVICE: handlers}, host="127.0.0.1", port=0, pki=home / "pki", denied=lambda _name, _serial: False
    )
    channel = edge_channel(home / "icu-a", "127.0.0.1", port)
    try:
        return await use(channel)
    finally:
        await channel.close(None)
        await server.stop(0)


@pytest.mark.parametrize(
    ("messages", "code", "says"),
    [
        ([], grpc.StatusCode.INVALID_ARGUMENT, "begins with its head"),
        ([b""], grpc.StatusCode.INVALID_ARGUMENT, "0 bytes do not hold one"),
        ([b"\xff\xff\xff\x7f1234"], grpc.StatusCode.INVALID_ARGUMENT, "8 bytes do not hold one"),
        ([b"\x03\0\0\0\x0a\x7fx"], grpc.StatusCode.INVALID_ARGUMENT, "no UpdateHead"),
        ([frame(pb.UpdateHead(study="none"), b"1234")], grpc.StatusCode.NOT_FOUND, "no running study 'none'"),
    ],
)
def test_an_upload_that_begins_with_no_frame_is_told_so(identities, messages, code, says):
    async def upload(channel):
        call = channel.stream_unary(f"/{SERVICE}/UploadUpdate", response_deserializer=pb.UpdateReceipt.FromString)
        await call(iter(messages), timeout=10)

    async def run():
        await with_channel(identities, hub_link().handlers(), upload)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(run())
    assert caught.value.code() is code
    assert says in caught.value.details()


def test_a_source_of_models_that_sends_no_frame_has_failed(identities):
    async def garbage(_request, _context):
        yield b"\xff\xff\xff\x7f"

    async def fetch(channel):
        return [piece async for piece in HubSource(channel).pieces("0" * 64, 0)]

    async def run():
        handlers = {"FetchModel": grpc.unary_stream_rpc_method_handler(garbage)}
        await with_channel(identities, handlers, fetch)

    with pytest.raises(SourceFailed, match="the hub: a stream begins with its head"):
        asyncio.run(run())
