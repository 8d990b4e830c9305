"""MQTT with TLS, from both ends: the edge's collector and a device that keeps what was not receipted.

A device numbers its messages from 1 within one life of its memory and publishes them under
`wr/dev/{device}/up/{boot}/{seq}`; the edge answers on `wr/dev/{device}/down/receipt` once they are on its disk. A broker's own
acknowledgement says only that the broker has read the message.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import structlog
from paho.mqtt.enums import CallbackAPIVersion

from wardround.collect.gateway import Gateway, Receipt
from wardround.errors import StorageFull

log = structlog.get_logger(__name__)
UP = "wr/dev/+/up/#"
KEEPALIVE_S = 20
RESEND_S = 5.0
TOPIC_PARTS = 6  # wr/dev/{device}/up/{boot}/{seq}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a device; `seq` 0 for a plain device."""

    device: str
    boot: str
    seq: int
    payload: bytes


def parse_topic(topic: str) -> tuple[str, str, int] | None:
    """Device, boot and sequence of an upward topic; None when it is not one."""
    parts = topic.split("/")
    if len(parts) < 4 or parts[:2] != ["wr", "dev"] or parts[3] != "up" or not parts[2]:
        return None
    if len(parts) == 4:
        return parts[2], "", 0
    if len(parts) != TOPIC_PARTS or not parts[4] or len(parts[4]) > 40 or not parts[5].isdecimal() or len(parts[5]) > 15:
        return None
    seq = int(parts[5])
    return (parts[2], parts[4], seq) if seq else None


def _tls(authority: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _connect(client: mqtt.Client, host: str, port: int) -> None:
    """Connect and go on trying in the client's own thread, with a growing wait up to two seconds."""
    client.reconnect_delay_set(min_delay=1, max_delay=2)
    client.connect_async(host, port, keepalive=KEEPALIVE_S)
    client.loop_start()


class CollectorLink:
    """The edge's subscriber: messages from any broker into the gateway, receipts back."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        host: str,
        port: int,
        authority: Path,
        name: str,
        secret: str,
        queue_max: int,
        commit_interval_s: float,
        commit_observations_max: int,
    ) -> None:
        self._gateway = gateway
        self._host, self._port = host, port
        self._interval_s, self._observations_max = commit_interval_s, commit_observations_max
        self._queue: asyncio.Queue[Message | Callable[[], None]] = asyncio.Queue(queue_max)
        self._loop = asyncio.get_running_loop()
        self._dropped = 0
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=True)
        self._client.username_pw_set(name, secret)
        self._client.tls_set_context(_tls(authority))
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Collect until cancelled."""
        _connect(self._client, self._host, self._port)
        try:
            while True:
                await self._group(await self._queue.get())
        finally:
            self._client.disconnect()
            await asyncio.to_thread(self._client.loop_stop)

    async def ask(self, work: Callable[[], None]) -> None:
        """Have something done with the gateway, between two messages."""
        await self._queue.put(work)

    async def _group(self, first: Message | Callable[[], None]) -> None:
        """Work through what is there, until the interval or the size of a group is reached; then commit and receipt."""
        until = self._loop.time() + self._interval_s
        batch = [first]
        while len(batch) < self._observations_max and (left := until - self._loop.time()) > 0:
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), left))
            except TimeoutError:
                break
        try:
            receipts = await asyncio.to_thread(self._work, batch)
        except StorageFull as error:
            log.error("gateway refuses", reason=str(error), messages=len(batch))
            await asyncio.sleep(1.0)  # devices send again; a full disk is not filled faster by asking often
            return
        for receipt in receipts:
            body = json.dumps({"boot": receipt.boot, "seq": receipt.seq})
            self._client.publish(f"wr/dev/{receipt.device}/down/receipt", body, qos=0)

    def _work(self, batch: Sequence[Message | Callable[[], None]]) -> list[Receipt]:
        for message in batch:
            if isinstance(message, Message):
                self._gateway.receive(message.device, message.boot, message.seq, message.payload)
            else:
                message()
        return self._gateway.commit()

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            log.warning("broker refused the collector", reason=str(reason))
            return
        client.subscribe(UP, qos=1)
        self._loop.call_soon_threadsafe(self.connected.set)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        parsed = parse_topic(message.topic)
        if parsed is None:
            log.warning("topic not understood", topic_length=len(message.topic))
            return
        self._loop.call_soon_threadsafe(self._enqueue, Message(*parsed, bytes(message.payload)))

    def _enqueue(self, message: Message) -> None:
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:  # no receipt: the device sends it again
            self._dropped += 1
            if self._dropped % 1_000 == 1:
                log.warning("collector queue is full", dropped=self._dropped)


class DeviceLink:
    """A device's side: publish, keep until the receipt, send again after a time-out or a new connection.

    At most `window` messages wait for their receipt; `publish` waits beyond that. One thread publishes.
    """

    def __init__(
        self,
        device: str,
        secret: str,
        *,
        boot: str,
        host: str,
        port: int,
        authority: Path,
        on_receipted: Callable[[Sequence[int]], None],
        window: int = 64,
    ) -> None:
        """`on_receipted(seqs)` is called from the network thread, once for each sequence, in order."""
        self._device, self._boot, self._window = device, boot, window
        self._on_receipted = on_receipted
        self._waiting: OrderedDict[int, tuple[bytes, float]] = OrderedDict()
        self._room = threading.Condition()
        self._next = 1
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=device, clean_session=True)
        self._client.username_pw_set(device, secret)
        self._client.tls_set_context(_tls(authority))
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self.resent = 0
        _connect(self._client, host, port)

    def publish(self, payload: bytes, *, timeout_s: float) -> int:
        """Send a message; its sequence.

        Raises:
            TimeoutError: no room in the window for that long; the message was not taken.
        """
        until = time.monotonic() + timeout_s
        with self._room:
            while len(self._waiting) >= self._window:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{self._device}: {self._window} messages wait for their receipt")
                self._room.wait(min(left, 1.0))
                self._resend_old()
            seq = self._next
            self._next += 1
            self._waiting[seq] = (payload, time.monotonic())
        self._send(seq, payload)
        return seq

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything is receipted; False when the time ran out."""
        until = time.monotonic() + timeout_s
        with self._room:
            while self._waiting and time.monotonic() < until:
                self._room.wait(0.25)
                self._resend_old()
            return not self._waiting

    @property
    def unreceipted(self) -> int:
        """Messages that wait for their receipt."""
        return len(self._waiting)

    def close(self) -> None:
        """Leave; what waits is kept by the caller or lost with it."""
        self._client.disconnect()
        self._client.loop_stop()

    def _send(self, seq: int, payload: bytes) -> None:
        if self._client.is_connected():
            self._client.publish(f"wr/dev/{self._device}/up/{self._boot}/{seq}", payload, qos=0)

    def _resend_old(self) -> None:
        now = time.monotonic()
        for seq, (payload, sent) in list(self._waiting.items()):
            if now - sent > RESEND_S:
                self._waiting[seq] = (payload, now)
                self.resent += 1
                self._send(seq, payload)

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            log.warning("broker refused the device", device=self._device, reason=str(reason))
            return
        client.subscribe(f"wr/dev/{self._device}/down/receipt", qos=0)
        with self._room:
            waiting = [(seq, payload) for seq, (payload, _) in self._waiting.items()]
            now = time.monotonic()
            for seq, payload in waiting:
                self._waiting[seq] = (payload, now)
        for seq, payload in waiting:
            self._send(seq, payload)

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        try:
            body = json.loads(message.payload)
            boot, upto = str(body["boot"]), int(body["seq"])
        except (ValueError, KeyError, TypeError):
            return
        if boot != self._boot:
            return
        with self._room:
            done = [seq for seq in self._waiting if seq <= upto]
            if done:
                self._on_receipted(done)  # before it is forgotten here: the caller's record comes first
            for seq in done:
                del self._waiting[seq]
            self._room.notify_all()
