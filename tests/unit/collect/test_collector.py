"""The collector: acknowledgements after the commit, and what has no room is held or dropped."""

from __future__ import annotations

import asyncio
import json

import pytest

from wardround.collect import collector as module
from wardround.collect.collector import Collector, Message, parse_topic


class Device:
    """Numbers its messages; what it was told, in order."""

    def __init__(self):
        self.acknowledged, self.receipts = [], []

    def message(self, seq, *, qos=1, boot="b"):
        acknowledge = (lambda: self.acknowledged.append(seq)) if qos else None
        return Message("d1", boot, seq, b'[{"n":"heart-rate","u":"/min","v":60}]', acknowledge=acknowledge)

    async def receipt(self, topic, body):
        self.receipts.append((topic, json.loads(body)["seq"]))


def play(gate, steps, *, queue_max=100):
    """Run a collector beside `steps(collector, device)`."""
    device = Device()

    async def run():
        collector = Collector(gate.gateway, queue_max=queue_max, commit_interval_s=0.0, commit_observations_max=10)
        running = asyncio.create_task(collector.run(device.receipt))
        await steps(collector, device)
        running.cancel()

    asyncio.run(run())
    return device


async def until(holds):
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)


def test_an_acknowledgement_follows_the_commit(gate):
    async def steps(collector, device):
        for seq in (1, 2):
            await collector.offer(device.message(seq))
            await until(lambda seq=seq: seq in device.acknowledged)
            assert len(gate.waiting()) == seq

    device = play(gate, steps)
    assert device.receipts == [("wr/dev/d1/down/receipt", 1), ("wr/dev/d1/down/receipt", 2)]


def test_while_there_is_no_room_an_acknowledged_message_is_held_and_another_dropped(gate, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    gate.storage.free = 0

    async def steps(collector, device):
        await collector.offer(device.message(1))
        await collector.offer(device.message(1, boot="other", qos=0))
        await until(lambda: gate.gateway.counts.refused > 5)
        assert device.acknowledged == []
        gate.storage.free = 10**12
        await until(lambda: device.acknowledged == [1])

    assert len(play(gate, steps).receipts) == 1
    assert len(gate.waiting()) == 1


def test_what_is_too_far_ahead_of_its_device_is_not_acknowledged_before_it_is_durable(gate):
    async def steps(collector, device):
        await collector.offer(device.message(400))
        await collector.offer(device.message(1))
        await until(lambda: device.acknowledged == [1])
        for seq in range(2, 400):
            await collector.offer(device.message(seq))
        await until(lambda: len(device.acknowledged) == 400)

    play(gate, steps)
    assert len(gate.waiting()) == 400


def test_a_full_queue_drops_what_nobody_waits_for_and_makes_the_others_wait(gate):
    async def steps(collector, device):
        for seq in range(1, 6):
            collector.offer_now(device.message(seq, qos=0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Collector.offer(collector, device.message(6)), 0.01)

    device = Device()

    async def run():
        collector = Collector(gate.gateway, queue_max=3, commit_interval_s=0.0, commit_observations_max=10)
        await steps(collector, device)
        assert collector._queue.qsize() == 3

    asyncio.run(run())


def test_large_messages_fill_no_memory_they_are_dropped_or_wait_their_turn(gate, monkeypatch):
    """Ten thousand messages of eight megabytes were within the bound of the queue, and of one device's good name."""
    monkeypatch.setattr(module, "BYTES_MAX", 100)
    device, large = Device(), b"x" * 60

    async def run():
        collector = Collector(gate.gateway, queue_max=1_000, commit_interval_s=0.0, commit_observations_max=10)
        for seq in range(1, 50):
            collector.offer_now(Message("d1", "b", seq, large))
        assert collector._queue.qsize() == 1
        told = []
        waiting = [
            asyncio.create_task(collector.offer(Message("d1", "c", seq, large, acknowledge=lambda seq=seq: told.append(seq))))
            for seq in range(1, 6)
        ]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        running = asyncio.create_task(collector.run(device.receipt))
        await until(lambda: len(told) == 5)
        assert collector._bytes == 0
        collector.offer_now(Message("d1", "d", 1, b"y" * 1_000))  # one is always taken
        assert collector._queue.qsize() == 1
        running.cancel()

    asyncio.run(run())


def test_what_is_held_for_want_of_room_counts_as_long_as_it_is(gate, monkeypatch):
    monkeypatch.setattr(module, "BYTES_MAX", 100)
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    device = Device()

    async def run():
        collector = Collector(gate.gateway, queue_max=1_000, commit_interval_s=0.0, commit_observations_max=10)
        gate.quarantine._db.execute("PRAGMA query_only = 1")
        await collector.offer(Message("d1", "b", 1, b"x" * 90, acknowledge=lambda: device.acknowledged.append(1)))
        running = asyncio.create_task(collector.run(device.receipt))
        await until(lambda: collector._held)
        collector.offer_now(Message("d1", "b", 2, b"x" * 90))
        assert collector._dropped == 1
        gate.quarantine._db.execute("PRAGMA query_only = 0")
        await until(lambda: device.acknowledged)
        await until(lambda: not collector._bytes)
        running.cancel()

    asyncio.run(run())


GOOD = {"wr/dev/d/up": ("d", "", 0), "wr/dev/d/up/boot/7": ("d", "boot", 7)}
BAD = ["wr/dev//up", "wr/dev/d/down", "wr/dev/d/up/boot", "wr/dev/d/up/boot/0", "wr/dev/d/up/boot/x", "wr/dev/d/up/b/1/2", "x"]


@pytest.mark.parametrize(("topic", "parsed"), [*GOOD.items(), *((topic, None) for topic in BAD)])
def test_topics(topic, parsed):
    assert parse_topic(topic) == parsed
