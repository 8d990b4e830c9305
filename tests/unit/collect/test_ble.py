"""The Bluetooth reader against a fake of bleak: no radio is used here, and none was when this was written."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import ClassVar

import pytest

from wardround.collect import ble
from wardround.collect.devices.decoders import decode
from wardround.collect.devices.gatt import Source
from wardround.errors import CollectError

HEART, BATTERY = ble.BASE.format(0x2A37), ble.BASE.format(0x2A19)


class FakeClient:
    """A device: each connection notifies what stands in `script`, then goes away unless it is the last."""

    script: ClassVar[list[list[bytes]]] = []
    characteristics = (HEART, BATTERY)
    subscribed: ClassVar[list[str]] = []

    def __init__(self, address, disconnected_callback):
        self.lost = disconnected_callback
        self.services = [SimpleNamespace(characteristics=[SimpleNamespace(uuid=u) for u in self.characteristics])]

    async def __aenter__(self):
        if not FakeClient.script:
            raise OSError("out of range")
        self.now = FakeClient.script.pop(0)
        return self

    async def __aexit__(self, *_):
        return

    async def start_notify(self, characteristic, callback):
        FakeClient.subscribed.append(characteristic.uuid)

        async def notify():
            for data in self.now:
                callback(characteristic, bytearray(data))
            if FakeClient.script:
                self.lost(self)

        self.task = asyncio.create_task(notify())


class FakeScanner:
    seen: ClassVar[dict] = {}

    @staticmethod
    async def discover(timeout, return_adv):  # noqa: ASYNC109 - so bleak calls it
        assert return_adv
        return FakeScanner.seen


BLEAK = SimpleNamespace(BleakClient=FakeClient, BleakScanner=FakeScanner)


def heard(name, rssi, *services):
    uuids = [ble.BASE.format(s) for s in services]
    return SimpleNamespace(address=f"addr-{name}", name=None), SimpleNamespace(local_name=name, rssi=rssi, service_uuids=uuids)


def test_a_scan_names_health_devices_the_nearest_first():
    FakeScanner.seen = {"a": heard("far", -80, 0x180D), "b": heard("lamp", -30, 0x180F), "c": heard("near", -40, 0x1822, 0x1809)}
    found = asyncio.run(ble.scan(BLEAK, 1.0))
    assert [(f.name, f.services) for f in found] == [("near", ("pulse oximeter", "thermometer")), ("far", ("heart rate",))]


def test_no_adapter_is_an_error_in_words():
    class Broken:
        @staticmethod
        async def discover(**_):
            raise OSError("org.bluez not available")

    with pytest.raises(CollectError, match=r"org\.bluez"):
        asyncio.run(ble.scan(SimpleNamespace(BleakScanner=Broken, BleakClient=None), 1.0))


def run(script, publish, **more):
    FakeClient.script, FakeClient.subscribed = script, []
    how = {"seconds": 0.3, "clock_s": lambda: 1_772_000_000.0, "retry_s": 0.01}
    return asyncio.run(ble.read(BLEAK, "addr", publish, **(how | more)))


def test_notifications_are_passed_on_through_lost_connections():
    messages = []
    counts = run([[b"\x00\x48", b"\x00\x49"], [b"\x00\x4a"]], messages.append)
    rates = [r.value for m in messages for r in decode("gatt", m, Source(0)).readings]
    assert rates == [72.0, 73.0, 74.0]
    assert (counts.notifications, counts.connections, counts.dropped) == (3, 2, 0)
    assert set(FakeClient.subscribed) == {HEART}  # what is not decoded is not asked for
    [first, *_] = decode("gatt", messages[0], Source(0)).readings
    assert first.t_us == 1_772_000_000_000_000


def test_a_device_without_a_known_characteristic_is_named(monkeypatch):
    monkeypatch.setattr(FakeClient, "characteristics", (BATTERY,))
    with pytest.raises(CollectError, match="no health characteristic"):
        run([[b"\x64"]], lambda _: None)


def test_what_cannot_be_passed_on_ends_the_reading():
    def refuse(_message):
        raise TimeoutError("64 messages wait for their receipt")

    with pytest.raises(TimeoutError, match="wait for their receipt"):
        run([[b"\x00\x48"], [b"\x00\x48"]], refuse)


def test_beyond_its_bound_the_oldest_go_and_are_counted(monkeypatch):
    monkeypatch.setattr(ble, "WAITING_MAX", 3)
    messages = []
    counts = run([[bytes([0, 60 + i]) for i in range(10)]], messages.append)
    assert counts.dropped == 10 - len(messages)
    assert counts.dropped >= 6
    assert decode("gatt", messages[-1], Source(0)).readings[0].value == 69.0


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bleak", None)
    with pytest.raises(CollectError) as caught:
        ble.load_bleak()
    assert "wardround[ble]" in caught.value.remedy
