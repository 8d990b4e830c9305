"""Bluetooth Low Energy at the edge: look for health devices, and pass their notifications on as an edge's device does.

A notification is sent once: what this reader holds is lost with it, and is safe once the edge has receipted it. bleak is an extra
(`wardround[ble]`); it is handed in, so that a fake one can stand for it.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import structlog

from wardround.collect.devices.decoders import Notification
from wardround.collect.devices.gatt import characteristics
from wardround.errors import CollectError

log = structlog.get_logger(__name__)
BASE = "0000{:04x}-0000-1000-8000-00805f9b34fb"  # a 16-bit UUID in 128 bits
SERVICES = {
    0x180D: "heart rate",
    0x1809: "thermometer",
    0x1810: "blood pressure",
    0x1822: "pulse oximeter",
    0x1808: "glucose",
    0x181F: "continuous glucose",
    0x181D: "weight",
}
WAITING_MAX = 1_000  # notifications between the radio and the edge; beyond it the oldest go, and are counted
RETRY_S, RETRY_S_MAX = 1.0, 60.0


class Bleak(Protocol):
    """What of bleak is used."""

    BleakScanner: Any
    BleakClient: Any


@dataclass(frozen=True, slots=True)
class Found:
    """A device that advertises a health service."""

    address: str
    name: str
    rssi_dbm: int
    services: tuple[str, ...]


@dataclass
class Counts:
    """What a reader has seen."""

    notifications: int = 0
    dropped: int = 0
    connections: int = 0


def load_bleak() -> Bleak:
    """The library.

    Raises:
        CollectError: the extra is not installed.
    """
    try:
        return importlib.import_module("bleak")
    except ImportError as exc:
        raise CollectError("Bluetooth needs the extra `ble`", remedy="pip install 'wardround[ble]'") from exc


async def scan(bleak: Bleak, seconds: float) -> list[Found]:
    """Devices that advertise a health service, the nearest first.

    Raises:
        CollectError: there is no adapter, or it may not be used.
    """
    try:
        seen = await bleak.BleakScanner.discover(timeout=seconds, return_adv=True)
    except Exception as exc:  # each platform's backend has errors of its own
        raise CollectError(f"Bluetooth cannot be used: {exc}", remedy="is there an adapter, and is it switched on?") from exc
    known = {BASE.format(uuid): name for uuid, name in SERVICES.items()}
    found = [
        Found(device.address, heard.local_name or device.name or "", heard.rssi, services)
        for device, heard in seen.values()
        if (services := tuple(known[u] for u in heard.service_uuids if u in known))
    ]
    return sorted(found, key=lambda f: -f.rssi_dbm)


async def read(
    bleak: Bleak,
    address: str,
    publish: Callable[[bytes], None],
    *,
    seconds: float,
    clock_s: Callable[[], float] = time.time,
    retry_s: float = RETRY_S,
) -> Counts:
    """Pass on what a device notifies, for so long; a connection that is lost is made again, with a growing wait.

    `publish(message)` is called in a thread, one message after the other: format `gatt`, with the time of arrival.

    Raises:
        CollectError: the device has none of the characteristics that are decoded.
    """
    counts = Counts()
    waiting: asyncio.Queue[Notification] = asyncio.Queue(WAITING_MAX)
    until = time.monotonic() + seconds
    sending = asyncio.create_task(_pass_on(waiting, publish))
    wait_s = retry_s
    try:
        while (left := until - time.monotonic()) > 0:
            try:
                await _connection(bleak, address, waiting, counts, left, clock_s)
                wait_s = retry_s
            except CollectError:
                raise
            except Exception as exc:  # noqa: BLE001 - each platform's backend has errors of its own
                log.warning("bluetooth connection lost", reason=str(exc)[:200], retry_s=wait_s)
            if sending.done():
                break
            await asyncio.sleep(min(wait_s, max(0.0, until - time.monotonic())))
            wait_s = min(2 * wait_s, RETRY_S_MAX)
        if not sending.done():
            await waiting.join()
    finally:
        sending.cancel()
        results = await asyncio.gather(sending, return_exceptions=True)
    if isinstance(results[0], Exception):
        raise results[0]
    return counts


async def _connection(
    bleak: Bleak, address: str, waiting: asyncio.Queue[Notification], counts: Counts, seconds: float, clock_s: Callable[[], float]
) -> None:
    """One connection, until it is lost or the time is over."""
    lost = asyncio.Event()
    async with bleak.BleakClient(address, disconnected_callback=lambda _client: lost.set()) as client:
        counts.connections += 1
        known = {BASE.format(uuid): f"{uuid:04X}" for uuid in characteristics()}
        wanted = [c for service in client.services for c in service.characteristics if c.uuid in known]
        if not wanted:
            raise CollectError(
                f"{address} has no health characteristic that is decoded",
                remedy="`wardround edge ble scan` shows which devices have",
            )
        for characteristic in wanted:
            await client.start_notify(characteristic, _taker(known[characteristic.uuid], waiting, counts, clock_s))
        try:
            await asyncio.wait_for(lost.wait(), seconds)
        except TimeoutError:
            return
    raise ConnectionError("the device went away")


def _taker(
    characteristic: str, waiting: asyncio.Queue[Notification], counts: Counts, clock_s: Callable[[], float]
) -> Callable[[Any, bytearray], None]:
    def take(_sender: Any, data: bytearray) -> None:
        counts.notifications += 1
        if waiting.full():
            counts.dropped += 1
            waiting.get_nowait()
            waiting.task_done()
        waiting.put_nowait(Notification(characteristic, bytes(data).hex(), clock_s()))

    return take


async def _pass_on(waiting: asyncio.Queue[Notification], publish: Callable[[bytes], None]) -> None:
    while True:
        batch: Sequence[Notification] = [await waiting.get()]
        await asyncio.to_thread(publish, msgspec.json.encode(batch))
        waiting.task_done()
