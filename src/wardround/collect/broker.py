"""The broker inside the edge (amqtt): MQTT over TLS for devices, each kept to its own topics. Needs no root, no set-up.

A wearable signs in with its name and secret from devices.toml; anonymous ones are refused. The edge's collector signs in with
a secret made when the broker starts and kept in memory alone.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.broker import Broker
from amqtt.contexts import Action, BaseContext
from amqtt.errors import BrokerError
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session

from wardround.collect.registry import DeviceRegistry
from wardround.errors import PortTaken

COLLECTOR = "wardround-collector"
CONNECTIONS_MAX = 500
_brokers: dict[str, EmbeddedBroker] = {}  # the plugins are made by the library from a name: this is how they find their edge


class EmbeddedBroker:
    """One edge's broker; runs in the current asyncio loop."""

    def __init__(self, *, host: str, port: int, identity: Path, registry: DeviceRegistry) -> None:
        self._host, self._port, self._identity = host, port, identity
        self.registry = registry
        self.collector_secret = secrets.token_urlsafe(24)
        self._key = secrets.token_hex(8)
        self._broker: _Broker | None = None
        self._context: ssl.SSLContext | None = None

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
            "timeout_disconnect_delay": 2,
            "plugins": {
                "wardround.collect.broker.DeviceSignIn": {"broker": self._key},
                "wardround.collect.broker.OwnTopics": {},
            },
        }
        self._broker = _Broker(config)
        try:
            await self._broker.start()
        except BrokerError as exc:
            raise PortTaken(self._host, self._port, setting="mqtt.port") from exc
        self._context = self._broker.context
        return self._bound_port()

    def renew(self) -> None:
        """Take the renewed certificate into use; sessions that are open go on."""
        if self._context is not None:
            self._context.load_cert_chain(self._identity / "listener.pem", self._identity / "edge.key")

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        _brokers.pop(self._key, None)
        if self._broker is not None:
            with contextlib.suppress(Exception):
                await self._broker.shutdown()

    def _bound_port(self) -> int:
        if self._port:
            return self._port
        server: Any = self._broker._servers["default"].instance  # type: ignore[union-attr]
        return int(server.sockets[0].getsockname()[1])


class _Broker(Broker):  # type: ignore[misc]  # the library is untyped
    """The library's broker, which makes its TLS context and tells nobody: a renewed certificate goes into it."""

    context: ssl.SSLContext | None = None

    async def _create_server_instance(self, *args: Any, **kwargs: Any) -> Any:
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, ssl.SSLContext)]
        self.context = given[0] if given else None
        return await super()._create_server_instance(*args, **kwargs)


class DeviceSignIn(BaseAuthPlugin):  # type: ignore[misc]  # the library is untyped
    """Name and secret against devices.toml."""

    async def authenticate(self, *, session: Session) -> bool:
        """Whether this session may connect."""
        broker = _brokers.get(self.config.broker)
        if broker is None or not session.username or not session.password:
            return False
        if session.username == COLLECTOR:
            return secrets.compare_digest(session.password, broker.collector_secret)
        return broker.registry.check(session.username, session.password)

    @dataclass
    class Config:
        """Which broker this plugin serves."""

        broker: str = ""


class OwnTopics(BaseTopicPlugin):  # type: ignore[misc]  # the library is untyped
    """A device writes under wr/dev/NAME/up and reads under wr/dev/NAME/down; the collector does the reverse for all."""

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)

    async def topic_filtering(
        self, *, session: Session | None = None, topic: str | None = None, action: Action | None = None
    ) -> bool:
        """Whether this session may do this with this topic."""
        if session is None or topic is None or not session.username:
            return False
        if session.username == COLLECTOR:
            return topic.startswith("wr/dev/")
        own = f"wr/dev/{session.username}/"
        if action == Action.PUBLISH:
            return topic.startswith(own + "up")
        return topic.startswith(own + "down/") and "+" not in topic and "#" not in topic

    @dataclass
    class Config:
        """Nothing to set."""
