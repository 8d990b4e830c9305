"""MQTT with TLS, from both ends: the edge's collector at a broker, and a device that keeps what was not receipted.

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
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from wardround.collect.collector import Collector, Message, parse_topic
from wardround.errors import SettingsError

log = structlog.get_logger(__name__)
UP = "wr/dev/+/up/#"
KEEPALIVE_S = 20
RESEND_S = 5.0
COLLECTOR = "wardround-collector"
SESSION_S = 7 * 86_400  # how long a broker keeps the collector's session while the edge is away
IN_FLIGHT_MAX = 1_000  # messages that the broker may have sent and that are not durable yet


def secret_at_broker(home: Path) -> str:
    """With which the collector signs in at a broker that is not the edge's own.

    Raises:
        SettingsError: nobody has put it into the home.
    """
    path = home / "mqtt.secret"
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        secret = ""
    if not secret:
        raise SettingsError(
            f'mqtt.broker is "external", and {path} does not hold the secret with which {COLLECTOR} signs in there',
            remedy="write it into that file, with mode 0600 (docs/devices.md says what the broker needs)",
        )
    return secret


def _tls(authority: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(authority))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _connect(client: mqtt.Client, host: str, port: int, **more: Any) -> None:
    """Connect and go on trying in the client's own thread, with a growing wait up to two seconds."""
    client.reconnect_delay_set(min_delay=1, max_delay=2)
    client.connect_async(host, port, keepalive=KEEPALIVE_S, **more)
    client.loop_start()


class CollectorLink:
    """The edge's subscriber to a broker of its own process: messages into the collector, receipts back.

    MQTT 5 with a session that outlives the edge, so that the broker keeps for it what arrives while it is away. Each message is
    acknowledged to the broker after its commit, and at most IN_FLIGHT_MAX wait for that: the rest waits at the broker.
    """

    def __init__(
        self,
        collector: Collector,
        *,
        host: str,
        port: int,
        authority: Path,
        name: str,
        secret: str,
        on_subscribed: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_subscribed` is called in the loop, after each connection: from then on nothing is missed."""
        self._collector, self._on_subscribed = collector, on_subscribed
        self._host, self._port = host, port
        self._loop = asyncio.get_running_loop()
        self._connection = 0  # numbers of messages are the connection's own
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5, manual_ack=True
        )
        self._client.username_pw_set(name, secret)
        self._client.tls_set_context(_tls(authority))
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: self._loop.call_soon_threadsafe(self._on_subscribed)

    async def run(self) -> None:
        """Collect until cancelled."""
        session = Properties(PacketTypes.CONNECT)
        session.SessionExpiryInterval = SESSION_S
        session.ReceiveMaximum = IN_FLIGHT_MAX
        _connect(self._client, self._host, self._port, clean_start=False, properties=session)

        async def send(topic: str, body: bytes) -> None:
            self._client.publish(topic, body, qos=0)

        try:
            await self._collector.run(send)
        finally:
            self._client.disconnect()
            await asyncio.to_thread(self._client.loop_stop)

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            log.warning("broker refused the collector", reason=str(reason))
            return
        self._connection += 1
        client.subscribe(UP, qos=1)

    def _on_message(self, client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        connection, number, qos = self._connection, message.mid, message.qos

        def acknowledge() -> None:
            if connection == self._connection:  # the broker gives what was not acknowledged again, under another number
                client.ack(number, qos)

        parsed = parse_topic(message.topic)
        if parsed is None:
            log.warning("topic not understood", topic_length=len(message.topic))
            self._loop.call_soon_threadsafe(acknowledge)
            return
        known = Message(*parsed, bytes(message.payload), repeated=message.dup, acknowledge=acknowledge if qos else None)
        asyncio.run_coroutine_threadsafe(self._collector.offer(known), self._loop)  # IN_FLIGHT_MAX of them at most


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
