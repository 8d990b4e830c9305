"""What one connection to the edge's own broker may make it hold in memory, before it has said who it is and after."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from amqtt.errors import NoDataError

from wardround.collect import broker as module
from wardround.collect.broker import CONNECT_BYTES_MAX, IN_FLIGHT_BYTES_MAX, PACKET_BYTES_MAX, _Gate, _Publisher


class Line:
    async def read(self, n=-1):
        return b"x" * n


def test_a_packet_of_somebody_who_is_not_known_yet_is_small():
    gate = _Gate(Line())

    async def read(n):
        return len(await gate.read(n))

    assert asyncio.run(read(CONNECT_BYTES_MAX)) == CONNECT_BYTES_MAX
    with pytest.raises(NoDataError):
        asyncio.run(read(CONNECT_BYTES_MAX + 1))


def test_who_has_connected_may_send_large_packets(monkeypatch):
    async def connected(_reader, _writer, _plugins):
        return SimpleNamespace(), SimpleNamespace(keep_alive=20)

    monkeypatch.setattr(module.BrokerProtocolHandler, "init_from_connect", connected)
    gate = _Gate(Line())

    async def run():
        made = SimpleNamespace(plugins_manager=None, collector=None)
        await module._Broker._initialize_client_session(made, gate, None, "127.0.0.1", 1)
        return len(await gate.read(PACKET_BYTES_MAX))

    assert asyncio.run(run()) == PACKET_BYTES_MAX
    with pytest.raises(NoDataError):
        asyncio.run(gate.read(PACKET_BYTES_MAX + 1))


def test_a_device_with_megabytes_that_are_not_durable_is_not_read_from():
    taken, sent = [], []

    class Collector:
        async def offer(self, message):
            taken.append(message)

    async def send(packet):
        sent.append(packet)

    async def run():
        gate = _Gate(Line())
        handler = SimpleNamespace(session=SimpleNamespace(username="d1"), _send_packet=send)
        publisher = _Publisher(handler, gate, Collector())
        half = bytes(IN_FLIGHT_BYTES_MAX // 2)
        tasks = []
        for number in (1, 2):
            packet = SimpleNamespace(topic_name=f"wr/dev/d1/up/b/{number}", data=half, qos=1, dup_flag=False, packet_id=number)
            assert gate.room.is_set()
            tasks.append(asyncio.create_task(publisher.publish(packet)))
            await asyncio.sleep(0)
        assert not gate.room.is_set()
        for message in taken:
            message.acknowledge()
        async with asyncio.timeout(60):
            await asyncio.gather(*tasks)
        assert gate.room.is_set()
        return len(sent)

    assert asyncio.run(run()) == 2
