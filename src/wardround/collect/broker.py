"""The broker inside the edge (amqtt): MQTT over TLS for devices, each kept to its own topics. Needs no root, no set-up.

A wearable signs in with its name and secret from devices.toml; anonymous ones are refused. What a device publishes goes
straight to the collector, and its acknowledgement (PUBACK, or PUBREC for QoS 2) follows the commit: while there is no room
it waits, and a device that has IN_FLIGHT_MAX messages waiting is not read from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action, BaseContext
from amqtt.errors import AMQTTError, BrokerError, MQTTError, NoDataError, ProtocolHandlerError
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.pubcomp import PubcompPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.pubrec import PubrecPacket
from amqtt.mqtt.pubrel import PubrelPacket
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from wardround.collect.collector import Collector, Message, parse_topic
from wardround.collect.registry import DeviceRegistry
from wardround.errors import PortTaken

log = structlog.get_logger(__name__)
CONNECTIONS_MAX = 500
CONNECT_S = 10.0  # from the connection to the CONNECT
KEEPALIVE_S_MAX, KEEPALIVE_GRACE_S = 1_800, 2  # a device that promises none is not waited for without end
PACKET_BYTES_MAX = 8_000_000
CONNECT_BYTES_MAX = 65_536  # a packet of somebody who is not known yet
REVOKED_LOOK_S = 1.0
IN_FLIGHT_MAX, IN_FLIGHT_BYTES_MAX = 64, 4_000_000  # messages of one device that wait for their commit
RELEASE_S = 20.0  # how long a device may take to answer a PUBREC
_brokers: dict[str, EmbeddedBroker] = {}  # the plugins are made by the library from a name: this is how they find their edge


class EmbeddedBroker:
    """One edge's broker; runs in the current asyncio loop."""

    def __init__(self, collector: Collector, *, host: str, port: int, identity: Path, registry: DeviceRegistry) -> None:
        self._host, self._port, self._identity = host, port, identity
        self.registry, self._collector = registry, collector
        self._key = secrets.token_hex(8)
        self._broker: _Broker | None = None
        self._context: ssl.SSLContext | None = None
        self._watching: asyncio.Task[None] | None = None
        self.signed_in: dict[str, str] = {}  # device -> what its secret was kept as when it signed in

    async def start(self) -> int:
        """Listen; the bound port.

        Raises:
            PortTaken: another process listens there.
        """
        logging.getLogger("amqtt").setLevel(logging.CRITICAL)
        logging.getLogger("transitions").setLevel(logging.ERROR)
        _brokers[self._key] = self
        config = {
            "listeners": {
                "default": {
                    "type": "tcp",
                    "bind": f"{self._host}:{self._port}",
                    "ssl": True,
                    "certfile": str(self._identity / "listener.pem"),
                    "keyfile": str(self._identity / "edge.key"),
                    "cafile": str(self._identity / "ca.pem"),
                    "max_connections": CONNECTIONS_MAX,
                }
            },
            "plugins": {
                "wardround.collect.broker.DeviceSignIn": {"broker": self._key},
                "wardround.collect.broker.OwnTopics": {},
            },
        }
        self._broker = _Broker(config)
        self._broker.collector = self._collector
        try:
            await self._broker.start()
        except BrokerError as exc:
            raise PortTaken(self._host, self._port, setting="mqtt.port") from exc
        self._context = self._broker.context
        self._watching = asyncio.create_task(self._watch())
        return self._bound_port()

    def renew(self) -> None:
        """Take the renewed certificate into use; sessions that are open go on."""
        if self._context is not None:
            self._context.load_cert_chain(self._identity / "listener.pem", self._identity / "edge.key")

    async def run(self) -> None:
        """Collect until cancelled."""
        broker = self._broker
        assert broker is not None  # noqa: S101 - our own order of calls
        await self._collector.run(lambda topic, body: broker.internal_message_broadcast(topic, body, 0))

    async def _watch(self) -> None:
        """End the sessions of devices that were revoked, or have a new secret."""
        while True:
            await asyncio.sleep(REVOKED_LOOK_S)
            for session, handler in list(self._broker._sessions.values()) if self._broker is not None else ():
                name = session.username or ""
                if session.transitions.is_connected() and self.registry.secret_hash(name) != self.signed_in.get(name, ""):
                    log.warning("a device's session is ended: it is revoked or has a new secret", device=name)
                    await handler.handle_connection_closed()

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        _brokers.pop(self._key, None)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._broker is not None:
            with contextlib.suppress(Exception):
                await self._broker.shutdown()

    def _bound_port(self) -> int:
        if self._port:
            return self._port
        server: Any = self._broker._servers["default"].instance  # type: ignore[union-attr]
        return int(server.sockets[0].getsockname()[1])


class _Broker(Broker):  # type: ignore[misc]  # the library is untyped
    """The library's broker, in which what devices publish goes to the collector and to nobody else.

    The library makes its TLS context and tells nobody: it is kept here, so that a renewed certificate can go into it.
    """

    collector: Collector
    context: ssl.SSLContext | None = None

    async def _create_server_instance(self, *args: Any, **kwargs: Any) -> Any:
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, ssl.SSLContext)]
        self.context = given[0] if given else None
        return await super()._create_server_instance(*args, **kwargs)

    async def _run_broadcast(self, running_tasks: Any) -> None:
        with contextlib.suppress(RuntimeError):  # a subscription came or went meanwhile: the device asks for its receipt again
            await super()._run_broadcast(running_tasks)

    async def _client_connected(self, listener_name: str, reader: ReaderAdapter, writer: WriterAdapter) -> None:
        await super()._client_connected(listener_name, _Gate(reader), writer)

    async def _initialize_client_session(
        self, reader: ReaderAdapter, writer: WriterAdapter, remote_address: str, remote_port: int
    ) -> tuple[BrokerProtocolHandler, Session]:
        """Read the CONNECT. A session is its connection's alone, and ends with it.

        The library looks sessions up by the identifier that is claimed, before it knows by whom: anybody could end another's
        session, or be given it. And it publishes a last will without asking whose topic that is: a receipt could be forged.
        """
        assert isinstance(reader, _Gate)  # noqa: S101 - as it came from above
        try:
            async with asyncio.timeout(CONNECT_S):
                handler, session = await BrokerProtocolHandler.init_from_connect(reader, writer, self.plugins_manager)
        except (TimeoutError, AMQTTError, MQTTError, NoDataError) as error:
            await writer.close()
            raise MQTTError(f"no CONNECT that holds: {error}") from error
        session.client_id = f"{remote_address}:{remote_port}-{secrets.token_hex(8)}"
        session.clean_session, session.parent = True, 0
        session.will_flag = False
        session.keep_alive = min(session.keep_alive or KEEPALIVE_S_MAX, KEEPALIVE_S_MAX) + KEEPALIVE_GRACE_S
        reader.packet_bytes_max = PACKET_BYTES_MAX
        handler.handle_publish = _Publisher(handler, reader, self.collector).publish
        return handler, session

    async def _handle_client_session(
        self,
        reader: ReaderAdapter,
        writer: WriterAdapter,
        client_session: Session,
        handler: BrokerProtocolHandler,
        server: Any,
        listener_name: str,
    ) -> None:
        try:
            await super()._handle_client_session(reader, writer, client_session, handler, server, listener_name)
        finally:  # refused ones would be kept for ever
            self._sessions.pop(client_session.client_id, None)
            await self._del_all_subscriptions(client_session)


class _Gate(ReaderAdapter):  # type: ignore[misc]  # the library is untyped
    """A device's stream, which is not read from while `room` is not set."""

    def __init__(self, reader: ReaderAdapter) -> None:
        self._reader = reader
        self.packet_bytes_max = CONNECT_BYTES_MAX
        self.room = asyncio.Event()
        self.room.set()

    async def read(self, n: int = -1) -> bytes:
        if n > self.packet_bytes_max:
            raise NoDataError(f"a packet of {n} bytes is not taken")
        await self.room.wait()
        return bytes(await self._reader.read(n))

    def feed_eof(self) -> None:
        self._reader.feed_eof()


class _Publisher:
    """What one session publishes."""

    def __init__(self, handler: BrokerProtocolHandler, gate: _Gate, collector: Collector) -> None:
        self._handler, self._gate, self._collector = handler, gate, collector
        self._in_flight = self._bytes = 0

    async def publish(self, packet: PublishPacket) -> None:
        """To the collector; the acknowledgement goes out once the message is durable."""
        session = self._handler.session
        parsed = parse_topic(packet.topic_name or "")
        if session is None or packet.data is None or parsed is None or parsed[0] != session.username:
            log.warning("a publish was not allowed", topic_length=len(packet.topic_name or ""))
            await self._handler.handle_connection_closed()  # MQTT 3.1.1 has no other way to refuse one
            await self._handler.stop()
            return
        if packet.qos == 0:
            self._collector.offer_now(Message(*parsed, bytes(packet.data)))
            return
        durable = asyncio.Event()
        self._in_flight += 1
        self._bytes += len(packet.data)
        if self._in_flight >= IN_FLIGHT_MAX or self._bytes >= IN_FLIGHT_BYTES_MAX:
            self._gate.room.clear()
        try:
            await self._collector.offer(Message(*parsed, bytes(packet.data), repeated=packet.dup_flag, acknowledge=durable.set))
            await durable.wait()
        finally:
            self._in_flight -= 1
            self._bytes -= len(packet.data)
            if self._in_flight < IN_FLIGHT_MAX and self._bytes < IN_FLIGHT_BYTES_MAX:
                self._gate.room.set()
        if self._handler.session is not None:
            with contextlib.suppress(ProtocolHandlerError):  # the device has gone meanwhile: it will ask again
                await self._acknowledge(packet.packet_id, packet.qos)

    async def _acknowledge(self, packet_id: int, qos: int) -> None:
        handler = self._handler
        if qos == 1:
            await handler._send_packet(PubackPacket.build(packet_id))
            return
        released: asyncio.Future[PubrelPacket] = asyncio.get_running_loop().create_future()
        handler._pubrel_waiters[packet_id] = released
        try:
            await handler._send_packet(PubrecPacket.build(packet_id))
            await asyncio.wait_for(released, RELEASE_S)
            await handler._send_packet(PubcompPacket.build(packet_id))
        except TimeoutError:
            log.warning("a device did not release its message", waited_s=RELEASE_S)
        finally:
            handler._pubrel_waiters.pop(packet_id, None)


class DeviceSignIn(BaseAuthPlugin):  # type: ignore[misc]  # the library is untyped
    """Name and secret against devices.toml."""

    async def authenticate(self, *, session: Session) -> bool:
        """Whether this session may connect."""
        broker = _brokers.get(self.config.broker)
        if broker is None or not session.username or not session.password:
            return False
        if not broker.registry.check(session.username, session.password):
            return False
        broker.signed_in[session.username] = broker.registry.secret_hash(session.username)
        return True

    @dataclass
    class Config:
        """Which broker this plugin serves."""

        broker: str = ""


class OwnTopics(BaseTopicPlugin):  # type: ignore[misc]  # the library is untyped
    """A device writes under wr/dev/NAME/up and reads under wr/dev/NAME/down."""

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        """Whether this session may do this with this topic."""
        if session is None or topic is None or not session.username:
            return False
        own = f"wr/dev/{session.username}/"
        if action == Action.PUBLISH:
            return topic.startswith(own + "up")
        return topic.startswith(own + "down/") and "+" not in topic and "#" not in topic

    @dataclass
    class Config:
        """Nothing to set."""
