"""What an edge declines of its own accord: the mode of a study is the hub's to say, and a hub may be dishonest."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.unit.learn.test_edge_link import Channel, link

from wardround.learn.messages import Order
from wardround.learn.privacy.modes import MaskSettings
from wardround.learn.privacy.willing import why_not
from wardround.settings import EdgePrivacySettings
from wardround.wire import wardround_pb2 as pb


def order(task="train", masks=b""):
    return Order("s", 1, 1, task, "b" * 64, b"", 20.0, masks=masks)


def masks(edges_min=3, group_edges=0):
    return msgspec.msgpack.encode(MaskSettings(8.0, 1000, edges_min, bytes(16), group_edges))


@pytest.mark.parametrize("task", ["train", "statistics", "survey", "flower"])
def test_an_edge_that_gives_masked_updates_alone_declines_the_rest(task):
    assert why_not(EdgePrivacySettings(), order(task)) == ""
    assert "blind_only" in why_not(EdgePrivacySettings(blind_only=True), order(task))
    assert why_not(EdgePrivacySettings(blind_only=True), order(task, masks())) == ""


@pytest.mark.parametrize(
    ("wanted", "task", "given", "declined"),
    [
        (3, "train", masks(3), False),
        (5, "train", masks(4), True),
        (5, "train", masks(5), False),
        (7, "train", masks(30, 10), False),  # two thirds of a group are a quorum
        (8, "train", masks(30, 10), True),
        (8, "statistics", masks(30, 10), False),  # round 0 is one circle
        (4, "train", masks(30, 1), True),
    ],
)
def test_an_edge_declines_sums_of_fewer_than_it_wants(wanted, task, given, declined):
    assert bool(why_not(EdgePrivacySettings(sum_edges_min=wanted), order(task, given))) is declined


def test_what_is_declined_is_neither_fetched_nor_trained_nor_answered_with_an_update():
    async def play():
        channel = Channel()
        own = link(channel)
        own._declines = lambda order: why_not(EdgePrivacySettings(blind_only=True), order)
        own._fetch = own._train = None  # neither is called
        running = asyncio.ensure_future(own.run())
        call = await asyncio.wait_for(channel.opened.get(), 10)
        said = []

        async def write(message):
            said.append(message)
            call.writing.set()

        call.write = write
        call.writing.clear()
        asked = pb.Order(study="s", round=1, task="train", base_model="b" * 64, deadline_s=20.0)
        call.incoming.put_nowait(pb.HubMessage(order=asked))
        while not any(m.WhichOneof("kind") == "failed" for m in said):
            await asyncio.wait_for(call.writing.wait(), 10)
            call.writing.clear()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return next(m.failed for m in said if m.WhichOneof("kind") == "failed")

    failed = asyncio.run(play())
    assert failed.declined
    assert "privacy.blind_only" in failed.reason
