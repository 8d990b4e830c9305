"""How the hub moves bytes: a manifest is made once, and of an upload little waits in memory."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wardround.errors import UpdateRefused
from wardround.learn.frames import unframe
from wardround.learn.grpc_hub import HELD_MAX, HubLink, _Writing
from wardround.learn.manifests import Signed
from wardround.wire import wardround_pb2 as pb

MODEL = bytes(range(256)) * 20_000
NAME = "0" * 64


class OneModel:
    """What a fetch asks of a coordinator."""

    name = "sepsis"

    def model_size(self, name):
        return len(MODEL)

    def model(self, name, offset=0, size=-1):
        return MODEL[offset : offset + size]


def test_many_edges_that_fetch_at_once_have_the_model_hashed_and_signed_once():
    signed = []

    def sign(manifest):
        signed.append(manifest)
        return Signed(manifest, b"signature", b"certificate")

    async def fetch(link):
        first, *rest = [m async for m in link.handlers()["FetchModel"].unary_stream(pb.ModelRequest(digest=NAME), None)]
        head, data = unframe(first, pb.ModelHead)
        return head.signature, bytes(data) + b"".join(rest)

    async def run():
        link = HubLink(
            studies=lambda: {"sepsis": OneModel()},
            peer_name=lambda _context: "icu-a",
            peer_certificate=lambda _context: b"",
            on_attached=lambda _edge, _version: None,
            on_beat=lambda _edge, _beat: None,
            on_lost=lambda _edge: None,
            sign=sign,
        )
        return await asyncio.gather(*(fetch(link) for _ in range(8)))

    assert asyncio.run(run()) == [(b"signature", MODEL)] * 8
    assert len(signed) == 1


def test_a_manifest_that_could_not_be_made_is_made_when_it_is_asked_for_again():
    outcomes = [OSError("the disk is away"), Signed(b"m", b"s", b"c")]

    def sign(_manifest):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def run():
        link = HubLink(
            studies=dict,
            peer_name=lambda _context: "icu-a",
            peer_certificate=lambda _context: b"",
            on_attached=lambda _edge, _version: None,
            on_beat=lambda _edge, _beat: None,
            on_lost=lambda _edge: None,
            sign=sign,
        )
        with pytest.raises(OSError, match="away"):
            await link._manifest(OneModel(), NAME)
        return await link._manifest(OneModel(), NAME)

    assert asyncio.run(run()).signature == b"s"


def test_what_arrives_while_a_part_is_written_is_written_next_in_one_go():
    calls, gate = [], threading.Event()

    def keep(offset, parts):
        gate.wait(10)
        calls.append((offset, b"".join(parts)))

    async def run():
        writing = _Writing(keep, 7)
        for part in (b"one", b"two", b"three"):
            await writing.add(part)
        gate.set()
        await writing.end()

    asyncio.run(run())
    assert calls == [(7, b"one"), (10, b"twothree")] + [(18, b"")] * (len(calls) - 2)


def test_an_upload_waits_for_the_disk_when_much_of_it_waits():
    gate = threading.Event()
    part = bytes(HELD_MAX // 2)

    async def run():
        writing = _Writing(lambda _offset, _parts: gate.wait(10), 0)
        await writing.add(part)  # being written
        await writing.add(part)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writing.add(part), 0.05)
        gate.set()
        await writing.end()

    asyncio.run(run())


def test_what_the_disk_refuses_reaches_the_upload():
    def keep(_offset, _parts):
        raise UpdateRefused("too-large", "more bytes than announced")

    async def run():
        writing = _Writing(keep, 0)
        await writing.add(b"x")
        with pytest.raises(UpdateRefused):
            await writing.end()
        await writing.settled()

    asyncio.run(run())
