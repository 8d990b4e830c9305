"""Where ServerApps meet the hub: real sockets, frames, and those who say what cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import stat

import pytest

from wardround.clock import ManualClock
from wardround.flower import door as door_module
from wardround.flower.door import SOCKET, FlowerDoor, node_id
from wardround.flower.frames import pack, reachable, sizes
from wardround.flower.parcel import METRICS, Record, encode
from wardround.learn.messages import Upload
from wardround.learn.rounds import Cancel
from wardround.records import EdgeId
from wardround.simulation.toy import signed

EDGES = {EdgeId("edge-1"), EdgeId("edge-2")}
HELLO = {"op": "hello", "run": "a-run", "run_id": 5, "app": "app", "digest": "d", "run_config": {}, "limits": {"quorum": 2}}
CONTENT = encode([Record("c", METRICS, values={"x": 1})])
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Peer:
    """A ServerApp's end of the socket."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def say(self, header, payload=b""):
        self.writer.write(pack(header, len(payload)) + payload)

    async def hear(self):
        async with asyncio.timeout(10):
            header, payload = sizes(await self.reader.readexactly(12))
            return json.loads(await self.reader.readexactly(header)), await self.reader.readexactly(payload)


async def until(holds):
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for happens in other threads too
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def opened(home):
    sent = []
    door = FlowerDoor(
        home,
        clock=ManualClock(),
        attached=lambda: EDGES,
        known=lambda: EDGES,
        send=lambda edge, message, _study: sent.append((edge, message)),
        on_event=lambda _event: None,
    )
    server = await door.open()
    peers = []

    async def connect():
        peer = Peer(*await asyncio.open_unix_connection(reachable(home / "flower" / SOCKET)))
        peers.append(peer)
        return peer

    try:
        yield door, connect, sent
    finally:
        server.close()
        await door.close()
        for peer in peers:
            peer.writer.close()
            with contextlib.suppress(ConnectionError):
                await peer.writer.wait_closed()


def batch(number=1, content=DIGEST):
    facts = {"type": "query", "group": "1", "ttl": 60.0, "created_at": 0.0}
    rows = [
        {"number": i, "node": node_id(edge), "content": content, "message": {"id": f"m{i}", **facts}}
        for i, edge in enumerate(sorted(EDGES), 1)
    ]
    return {"op": "batch", "batch": number, "taken": 0, "timeout_s": 0.0, "messages": rows}


def reply(door, edge, number):
    data = encode([Record("r", METRICS, values={"n": number})])
    sha256 = hashlib.sha256(data).hexdigest()
    upload = signed(edge, Upload("a-run", number, "flower", DIGEST, len(data), sha256, 1))
    run = door.runs["a-run"]
    run.begin(edge, upload, 0)
    run.append(edge, upload, 0, data)
    assert run.finish(edge, upload).accepted
    return data


def test_a_round_goes_out_and_comes_back(tmp_path):
    async def play():
        async with opened(tmp_path) as (door, connect, sent):
            assert stat.S_IMODE((tmp_path / "flower" / SOCKET).stat().st_mode) == 0o600
            peer = await connect()
            peer.say(HELLO)
            assert (await peer.hear())[0] == {"op": "welcome"}
            peer.say({"op": "nodes"})
            header, _ = await peer.hear()
            assert {name for _, name in header["nodes"]} == EDGES
            peer.say({"op": "content", "digest": DIGEST}, CONTENT)
            peer.say(batch())
            await until(lambda: len(sent) == 2)
            replies = [reply(door, edge, i) for i, edge in enumerate(sorted(EDGES), 1)]
            assert [(await peer.hear()) for _ in range(2)] == [
                ({"op": "reply", "number": i}, data) for i, data in enumerate(replies, 1)
            ]
            header, _ = await peer.hear()
            assert (header["op"], header["batch"], header["failed"]) == ("decided", 1, [])
            peer.say({"op": "end"})
            await until(lambda: not door.runs)
            assert not (tmp_path / "flower" / "a-run").exists()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([HELLO | {"run": "../elsewhere"}], "a run's name"),
        ([HELLO | {"op": "welcome"}], "begins with hello"),
        ([HELLO | {"limits": {"quorum": 0}}], "quorum is at least 1"),
        ([HELLO | {"unknown": 1}], "unknown"),
        ([HELLO, {"op": "dance"}], "there is no 'dance' here"),
        ([HELLO, {"op": "content", "digest": "0" * 64}], "does not have the digest"),
        ([HELLO, batch(content="0" * 64)], "did not come"),
        ([HELLO, {"op": "batch"}], "missing required field"),
    ],
)
def test_what_cannot_be_is_refused_in_words_and_leaves_nothing(tmp_path, said, words):
    async def play():
        async with opened(tmp_path) as (door, connect, _):
            peer = await connect()
            for header in said:
                peer.say(header)
            heard = (await peer.hear())[0]
            if heard["op"] == "welcome":
                heard = (await peer.hear())[0]
            assert heard["op"] == "refused"
            assert words in heard["reason"]
            await until(lambda: not door.runs)

    asyncio.run(play())


def test_bytes_that_are_no_frames_cost_the_hub_nothing(tmp_path):
    async def play():
        async with opened(tmp_path) as (door, connect, _):
            peer = await connect()
            peer.writer.write(b"\xff" * 64)
            assert "too large" in (await peer.hear())[0]["reason"]
            again = await connect()
            again.say(HELLO)
            assert (await again.hear())[0] == {"op": "welcome"}
            assert list(door.runs) == ["a-run"]

    asyncio.run(play())


def test_a_server_app_that_is_gone_leaves_nobody_at_work(tmp_path):
    async def play():
        async with opened(tmp_path) as (door, connect, sent):
            peer = await connect()
            peer.say(HELLO)
            peer.say({"op": "content", "digest": DIGEST}, CONTENT)
            peer.say(batch())
            await until(lambda: len(sent) == 2)
            peer.writer.close()
            await until(lambda: not door.runs)
            assert sorted(edge for edge, m in sent if isinstance(m, Cancel)) == sorted(EDGES)
            assert not (tmp_path / "flower" / "a-run").exists()

    asyncio.run(play())


def test_what_a_run_has_on_disk_waits_for_its_server_app_when_the_hub_was_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(door_module, "AWAY_S", 0.3)
    folder = tmp_path / "flower" / "a-run"

    async def begin():
        async with opened(tmp_path) as (_, connect, sent):
            peer = await connect()
            peer.say(HELLO)
            peer.say({"op": "content", "digest": DIGEST}, CONTENT)
            peer.say(batch())
            await until(lambda: len(sent) == 2)
            assert (folder / "contents" / DIGEST).exists()

    async def come_back(back):
        async with opened(tmp_path) as (_, connect, _):
            assert folder.exists()
            if back:
                peer = await connect()
                peer.say(HELLO)
                assert (await peer.hear())[0] == {"op": "welcome"}
                await asyncio.sleep(0.6)
                assert folder.exists()
                return
            await until(lambda: not folder.exists())

    asyncio.run(begin())
    asyncio.run(come_back(back=True))
    asyncio.run(begin())
    asyncio.run(come_back(back=False))


def test_a_home_with_a_long_path_has_a_door_too(tmp_path):
    home = tmp_path / ("x" * 60) / ("y" * 60)
    home.mkdir(parents=True)

    async def play():
        async with opened(home) as (_, connect, _):
            peer = await connect()
            peer.say(HELLO)
            assert (await peer.hear())[0] == {"op": "welcome"}

    asyncio.run(play())
