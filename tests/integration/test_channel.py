"""Mutual TLS 1.3 between edge and hub: who gets an answer, and who does not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import subprocess
import sys
import time
import weakref
from functools import partial

import grpc
import pytest

from wardround.trust.certificates import Authority, key_pem, new_key, write_private
from wardround.trust.channel import CALLS_MAX, Guard, HubChannel, edge_channel, peer_name, start_hub_listener

pytestmark = pytest.mark.timeout(360)


def identity(folder, authority, name, hours=1.0):
    folder.mkdir()
    key = new_key()
    write_private(folder / "edge.key", key_pem(key))
    write_private(folder / "edge.pem", authority.issue_edge(name, key.public_key(), hours), 0o644)
    write_private(folder / "ca.pem", authority.pem, 0o644)
    return folder


async def echo(request, context):
    return f"{peer_name(context)}:".encode() + request


async def quiet(_requests, _context):
    yield b"here"
    await asyncio.sleep(30)


async def takes(requests, _context):
    async for _ in requests:
        pass
    return b"all"


async def gives(_request, _context):
    yield b"here"
    await asyncio.sleep(30)


class Much:
    """A stream that says more than fits between the two sides."""

    def __init__(self):
        self.said, self.over = 0, asyncio.Event()

    async def __call__(self, _requests, _context):
        try:
            while True:
                yield bytes(500_000)
                self.said += 1
        finally:
            self.over.set()


class Held:
    """A call with one message, which is answered when it may be; counts the messages that were read."""

    def __init__(self):
        self.read, self.go_on = 0, asyncio.Event()

    def message(self, data):
        self.read += 1
        return data

    async def __call__(self, request, _context):
        await self.go_on.wait()
        return request[:5]


class Message:
    """One that was read."""

    def __init__(self, there):
        there.add(self)


async def refuses(request, context):
    await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no {type(request).__name__}")


class Hub:
    """A listener with one method that answers and streams that say little, or much."""

    def __init__(self, folder):
        self.folder, self.denied = folder, set()
        self.authority = Authority.create(folder / "pki", "hub")
        key = new_key()
        write_private(folder / "pki" / "hub.key", key_pem(key))
        write_private(folder / "pki" / "hub.pem", self.authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 1.0), 0o644)

    async def __aenter__(self):
        self.much, self.held, self.there = Much(), Held(), weakref.WeakSet()
        read = partial(Message, self.there)
        handlers = {
            "Refuses": grpc.unary_unary_rpc_method_handler(refuses, request_deserializer=lambda _data: read()),
            "Held": grpc.unary_unary_rpc_method_handler(self.held, request_deserializer=self.held.message),
            "Much": grpc.stream_stream_rpc_method_handler(self.much),
            "Echo": grpc.unary_unary_rpc_method_handler(echo),
            "Quiet": grpc.stream_stream_rpc_method_handler(quiet),
            "Takes": grpc.stream_unary_rpc_method_handler(takes),
            "Gives": grpc.unary_stream_rpc_method_handler(gives),
        }
        self._server, self.port = await start_hub_listener(
            {"test.Test": handlers},
            host="127.0.0.1",
            port=0,
            pki=self.folder / "pki",
            denied=lambda name, _serial: name in self.denied,
        )
        return self

    async def __aexit__(self, *_):
        await self._server.stop(0)

    async def ask(self, folder, within_s=5.0):
        channel = edge_channel(folder, "127.0.0.1", self.port)
        try:
            return await channel.unary_unary("/test.Test/Echo")(b"hello", timeout=within_s)
        finally:
            await channel.close(None)


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


def code_of(coroutine) -> grpc.StatusCode:
    async def ask():
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await coroutine
        return refused.value.code()

    return ask()


def test_an_edge_is_known_by_its_certificate(hub, tmp_path):
    async def run():
        async with hub:
            return await hub.ask(identity(tmp_path / "a", hub.authority, "icu-a"))

    assert asyncio.run(run()) == b"icu-a:hello"


def test_no_answer_without_a_certificate_that_holds(hub, tmp_path):
    stranger = Authority.create(tmp_path / "other", "other")
    foreign = identity(tmp_path / "foreign", stranger, "icu-a")
    (foreign / "ca.pem").write_bytes(hub.authority.pem)
    expired = identity(tmp_path / "expired", hub.authority, "icu-a", hours=0.0002)
    time.sleep(1.5)
    listener = tmp_path / "listener"
    listener.mkdir()
    key = new_key()
    write_private(listener / "edge.key", key_pem(key))
    write_private(listener / "edge.pem", hub.authority.issue_listener("icu-a", key.public_key(), ["x"], 1.0), 0o644)
    write_private(listener / "ca.pem", hub.authority.pem, 0o644)

    async def run():
        async with hub:
            return [await code_of(hub.ask(folder, within_s=3.0)) for folder in (foreign, expired, listener)]

    assert set(asyncio.run(run())) <= {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }


def test_an_edge_does_not_talk_to_another_hub(hub, tmp_path):
    mine = Authority.create(tmp_path / "mine", "mine")
    edge = identity(tmp_path / "a", mine, "icu-a")

    async def run():
        async with hub:
            return await code_of(hub.ask(edge, within_s=3.0))

    assert asyncio.run(run()) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def quiet_both_ways(channel):
    call = channel.stream_stream("/test.Test/Quiet")()
    assert await call.read() == b"here"
    return call.read


async def quiet_upload(channel):
    call = channel.stream_unary("/test.Test/Takes")()
    await call.write(b"part")

    async def end():
        await call

    return end


async def quiet_download(channel):
    call = channel.unary_stream("/test.Test/Gives")(b"")
    assert await call.read() == b"here"
    return call.read


@pytest.mark.parametrize("open_stream", [quiet_both_ways, quiet_upload, quiet_download])
def test_a_revoked_edge_gets_no_answer_and_its_open_stream_ends(hub, tmp_path, open_stream):
    edge = identity(tmp_path / "a", hub.authority, "icu-a")

    async def run():
        async with hub:
            channel = edge_channel(edge, "127.0.0.1", hub.port)
            end = await open_stream(channel)
            await asyncio.sleep(0.2)
            hub.denied.add("icu-a")
            began = time.monotonic()
            code = await code_of(end())
            took_s = time.monotonic() - began
            await channel.close(None)
            return took_s, code, await code_of(hub.ask(edge))

    took_s, ended, code = asyncio.run(run())
    assert took_s < 5.0
    assert ended is code is grpc.StatusCode.UNAUTHENTICATED


def test_a_revoked_edge_that_reads_nothing_is_cut_off_as_well(hub, tmp_path):
    """The refusal waits behind what is not read; the stream does not wait for the refusal."""
    edge = identity(tmp_path / "a", hub.authority, "icu-a")

    async def run():
        async with hub:
            channel = edge_channel(edge, "127.0.0.1", hub.port)
            call = channel.stream_stream("/test.Test/Much")()
            await call.read()
            before = -1
            while before != hub.much.said:  # until nothing more goes out
                before = hub.much.said
                await asyncio.sleep(0.5)
            hub.denied.add("icu-a")
            await asyncio.wait_for(hub.much.over.wait(), 10.0)
            assert await code_of(read_on(call)) in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.CANCELLED)
            await channel.close(None)

    async def read_on(call):
        while await call.read() is not grpc.aio.EOF:
            pass

    asyncio.run(run())


def test_an_edge_has_few_calls_of_a_kind_open_and_the_others_are_not_held_up(hub, tmp_path):
    """Each may hold a message of eight megabytes at the hub: some hundred from one edge were the end of its memory."""
    greedy, other = identity(tmp_path / "a", hub.authority, "icu-a"), identity(tmp_path / "b", hub.authority, "icu-b")

    async def run():
        async with hub:
            channels = [edge_channel(greedy, "127.0.0.1", hub.port) for _ in range(2)]
            ends = [await quiet_download(channels[k % 2]) for k in range(CALLS_MAX)]
            beyond = [channels[k % 2].unary_stream("/test.Test/Gives")(b"") for k in range(20)]
            refused = {await code_of(call.read()) for call in beyond}
            another_kind = await hub.ask(greedy)
            another_edge = await quiet_download(edge_channel(other, "127.0.0.1", hub.port))
            await channels[0].close(None)
            await channels[1].close(None)
            async with asyncio.timeout(60):
                while True:  # until the hub has heard that they are over
                    channel = edge_channel(greedy, "127.0.0.1", hub.port)
                    call = channel.unary_stream("/test.Test/Gives")(b"")
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        if await call.read() == b"here":
                            break
                    await channel.close(None)
            return len(ends), refused, another_kind, another_edge is not None

    assert asyncio.run(run()) == (CALLS_MAX, {grpc.StatusCode.RESOURCE_EXHAUSTED}, b"icu-a:hello", True)


def test_of_calls_with_one_message_no_more_are_read_than_an_edge_may_have_open(hub, tmp_path):
    """gRPC reads such a message before it asks anybody: two hundred of them took the hub two gigabytes."""
    edge = identity(tmp_path / "a", hub.authority, "icu-a")

    async def run():
        async with hub:
            channel = edge_channel(edge, "127.0.0.1", hub.port)
            held = channel.unary_unary("/test.Test/Held")
            calls = [asyncio.ensure_future(held(bytes(100_000))) for _ in range(CALLS_MAX + 10)]
            async with asyncio.timeout(120):
                pending, refused = set(calls), []
                while len(refused) < 10:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    refused += [call.exception().code() for call in done]
                hub.held.go_on.set()
                answers = await asyncio.gather(*pending)
            await channel.close(None)
            return set(refused), answers, hub.held.read

    assert asyncio.run(run()) == ({grpc.StatusCode.RESOURCE_EXHAUSTED}, [bytes(5)] * CALLS_MAX, CALLS_MAX)


def test_a_call_that_is_refused_leaves_nothing_of_its_message_behind(hub, tmp_path):
    """It lay about until the collector of garbage came, which counts objects and not megabytes: 500 calls took five gigabytes."""
    edge = identity(tmp_path / "a", hub.authority, "icu-a")

    async def run():
        async with hub:
            channel = edge_channel(edge, "127.0.0.1", hub.port)
            gc.collect()
            gc.disable()
            try:
                codes = {await code_of(channel.unary_unary("/test.Test/Refuses")(b"x")) for _ in range(30)}
                left = len(hub.there)
            finally:
                gc.enable()
            await channel.close(None)
            return codes, left

    codes, left = asyncio.run(run())
    assert codes == {grpc.StatusCode.NOT_FOUND}
    assert left <= 2  # of a call that is just over


def test_calls_under_way_end_on_the_connection_they_began_on(hub, tmp_path):
    """A renewed identity is used by the next call, and an upload in the middle goes on with the one before."""
    edge = identity(tmp_path / "a", hub.authority, "icu-a")
    after = identity(tmp_path / "b", hub.authority, "icu-b")

    async def run():
        async with hub:
            channel = HubChannel(edge, "127.0.0.1", hub.port)
            upload = channel.stream_unary("/test.Test/Takes")()
            await upload.write(b"first part")
            before = await channel.unary_unary("/test.Test/Echo")(b"x")
            for name in ("edge.key", "edge.pem"):
                (after / name).replace(edge / name)
            channel.renew()
            then = await channel.unary_unary("/test.Test/Echo")(b"x")
            await upload.write(b"second part")
            await upload.done_writing()
            whole = await upload
            for _ in range(50):  # the older connection closes once nothing is under way on it
                if not channel._retiring:
                    break
                await asyncio.sleep(0.1)
            left = len(channel._retiring)
            await channel.close()
            return before, then, whole, left

    assert asyncio.run(run()) == (b"icu-a:x", b"icu-b:x", b"all", 0)


def test_a_listeners_renewed_certificate_is_used_from_the_next_connection_on(hub, tmp_path):
    edge = identity(tmp_path / "a", hub.authority, "icu-a")

    def serial(port):
        context = ssl.create_default_context(cafile=edge / "ca.pem")
        context.load_cert_chain(edge / "edge.pem", edge / "edge.key")
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname="127.0.0.1") as tls:
            return tls.getpeercert()["serialNumber"]

    async def run():
        async with hub:
            channel = edge_channel(edge, "127.0.0.1", hub.port)
            call = channel.stream_stream("/test.Test/Quiet")()
            assert await call.read() == b"here"
            first = await asyncio.to_thread(serial, hub.port)
            key = new_key()
            write_private(hub.folder / "pki" / "hub.key", key_pem(key))
            half = await asyncio.to_thread(serial, hub.port)  # the key is there, its certificate not yet
            pem = hub.authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 1.0)
            write_private(hub.folder / "pki" / "hub.pem", pem, 0o644)
            second = await asyncio.to_thread(serial, hub.port)
            open_still = not call.done()
            await channel.close(None)
            return first == half, first != second, open_still

    assert asyncio.run(run()) == (True, True, True)


def test_older_tls_is_refused(hub, tmp_path):
    edge = identity(tmp_path / "a", hub.authority, "icu-a")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(edge / "ca.pem")
    context.load_cert_chain(edge / "edge.pem", edge / "edge.key")
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def connect(port):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain, context.wrap_socket(plain):
            pass

    async def run():
        async with hub:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(connect, hub.port)

    asyncio.run(run())


def test_a_program_that_imported_grpc_first_opens_no_listener():
    code = (
        "import grpc, asyncio; from pathlib import Path; from wardround.trust.channel import start_hub_listener;"
        "asyncio.run(start_hub_listener({}, host='127.0.0.1', port=0, pki=Path('.'), denied=lambda *_: False))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode != 0
    assert "imported before wardround" in done.stderr


class Call:
    """Of a call whose end gRPC has seen: asked for its peer then, gRPC 1.85 reads through a null pointer."""

    def __init__(self, certificate):
        self.certificate, self.over, self.aborted = certificate, False, []

    def auth_context(self):
        assert not self.over, "this ends the process"
        return {"x509_pem_cert": [self.certificate]}

    async def abort(self, _code, reason):
        self.aborted.append(reason)
        raise grpc.aio.AbortError(reason)


def test_who_still_reads_a_stream_that_is_over_asks_grpc_nothing_about_it(tmp_path):
    """The reader of a stream is a task of its own; an edge that is killed has sent something just before."""
    asyncio.run(_still_reads(tmp_path))


async def _still_reads(tmp_path):
    authority, denied = Authority.create(tmp_path, "hub"), set()
    call, goes_on, read = Call(authority.issue_edge("edge-1", new_key().public_key(), 1.0)), asyncio.Event(), []

    async def requests():
        yield b"first"
        await goes_on.wait()
        yield b"second"
        yield b"third"

    async def handler(incoming, _context):
        async def reader():
            read.extend([request async for request in incoming])

        readers.append(asyncio.create_task(reader()))
        yield b"here"

    readers = []
    guard = Guard(lambda name, _serial: name in denied)
    wrapped = guard._wrap(grpc.stream_stream_rpc_method_handler(handler), "/test.Test/Quiet")
    assert [answer async for answer in wrapped.stream_stream(requests(), call)] == [b"here"]
    call.over = True
    goes_on.set()
    await readers[0]
    assert read == [b"first", b"second", b"third"]
    denied.add("edge-1")  # and while it is open, each message is checked against the list of now
    call.over = False
    with pytest.raises(grpc.aio.AbortError):
        [answer async for answer in wrapped.stream_stream(requests(), call)]
    assert call.aborted == ["edge-1 is revoked"]


class FarAway:
    """Passes bytes between an edge and its hub, each way half a second late: a link by satellite."""

    def __init__(self, port):
        self._port, self._tasks = port, set()

    async def _serve(self, near, back):
        self._tasks.add(asyncio.current_task())
        far, out = await asyncio.open_connection("127.0.0.1", self._port)
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await asyncio.gather(self._pass(near, out), self._pass(far, back))
        out.close()
        back.close()

    async def _pass(self, source, sink):
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await asyncio.sleep(0.5)
                sink.write(data)
                await sink.drain()
        sink.close()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def test_an_edge_gets_in_over_a_link_that_takes_seconds_to_open(hub, tmp_path):
    edge = identity(tmp_path / "edge", hub.authority, "icu-a")

    async def run():
        async with hub, FarAway(hub.port) as port:
            channel = edge_channel(edge, "127.0.0.1", port)
            try:
                return await channel.unary_unary("/test.Test/Echo")(b"hello", timeout=40, wait_for_ready=True)
            finally:
                await channel.close(None)

    assert asyncio.run(run()) == b"icu-a:hello"
