"""HTTPS for devices that speak no MQTT: `POST /v1/devices/{device}/messages`, one message a request, over TLS 1.3.

The answer 202 is the receipt: it is given once the message is on the edge's disk, and never before. 503 with Retry-After says
that it may not be there: the device sends it again, under the same number if it numbers its messages (`Wardround-Boot`,
`Wardround-Seq`), and it counts once. A device signs in with `Authorization: Bearer` and the secret of its registration.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import h11
import structlog

from wardround.collect.devices.decoders import CONTENT_TYPES
from wardround.collect.registry import Device
from wardround.errors import PortTaken
from wardround.settings import HttpsSettings

log = structlog.get_logger(__name__)
HEAD_S, BODY_S, IDLE_S = 10.0, 30.0, 60.0
TLS_S = 10.0
RECEIPT_S = 15.0  # the longest that a request waits for its commit
RETRY_AFTER_S = 5
WRONG_SECRET_S = 1.0  # before the answer: guessing takes time
HEAD_BYTES_MAX = 16_384
READ_BYTES = 65_536
_PATH = re.compile(r"/v1/devices/([a-z0-9][a-z0-9-]{0,39})/messages")
_BOOT = re.compile(r"[A-Za-z0-9._-]{1,40}")
Submit = Callable[[str, str, int, bytes], Awaitable[None]]


class Devices(Protocol):
    """Who may send."""

    def check(self, device: str, secret: str, /) -> bool:
        """Whether a device may sign in with this secret."""
        ...

    def get(self, device: str, /) -> Device | None:
        """A device by its name."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets."""

    status: int
    body: dict[str, object] = field(default_factory=dict)
    headers: tuple[tuple[str, str], ...] = ()


class Refused(Exception):
    """A request that is not taken."""

    def __init__(self, status: int, error: str, *headers: tuple[str, str]) -> None:
        super().__init__(error)
        self.answer = Answer(status, {"error": error}, headers)


Work = Callable[[h11.Request, Callable[[], Awaitable[bytes]]], Awaitable[Answer]]


class HttpsListener:
    """One edge's listener; runs in the current asyncio loop."""

    def __init__(self, submit: Submit, *, devices: Devices, identity: Path, settings: HttpsSettings) -> None:
        """`submit(device, boot, seq, payload)` returns once the message is durable."""
        self._submit, self._devices, self._identity, self._settings = submit, devices, identity, settings
        self._context: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        """Listen; the bound port.

        Raises:
            PortTaken: another process listens there.
        """
        context = self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.renew()
        host, port = self._settings.host, self._settings.port
        try:
            self._server = await asyncio.start_server(
                self._connected, host, port, ssl=context, limit=READ_BYTES, ssl_handshake_timeout=TLS_S
            )
        except OSError as exc:
            raise PortTaken(host, port, setting="https.port") from exc
        return int(self._server.sockets[0].getsockname()[1])

    def renew(self) -> None:
        """Take the renewed certificate into use; connections that are open go on."""
        if self._context is not None:
            self._context.load_cert_chain(self._identity / "listener.pem", self._identity / "edge.key")

    async def stop(self) -> None:
        """Close every connection; what was not answered is sent again."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as one
        if len(self._open) >= self._settings.connections_max:
            writer.close()  # TLS alone was spent on it
            return
        self._open.add(task)
        try:
            await serve(reader, writer, self.answer, body_bytes_max=self._settings.body_bytes_max)
        except asyncio.CancelledError:
            pass  # the edge stops
        finally:
            self._open.discard(task)
            writer.close()
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(writer.wait_closed(), 1.0)

    async def answer(self, request: h11.Request, body: Callable[[], Awaitable[bytes]]) -> Answer:
        """Work one request; its body is read once its sender is known.

        Raises:
            Refused: it is not taken.
        """
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        path = _PATH.fullmatch(request.target.decode("latin-1").partition("?")[0])
        if path is None:
            raise Refused(404, "there is POST /v1/devices/{device}/messages")
        if request.method != b"POST":
            raise Refused(405, "messages are sent with POST", ("Allow", "POST"))
        device = path[1]
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not await asyncio.to_thread(self._devices.check, device, secret.strip()):
            await asyncio.sleep(WRONG_SECRET_S)
            raise Refused(401, "the device's secret does not fit", ("WWW-Authenticate", 'Bearer realm="wardround"'))
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        known = self._devices.get(device)
        if content_type and known is not None and CONTENT_TYPES.get(content_type) != known.format:
            types = ", ".join(name for name, format_ in CONTENT_TYPES.items() if format_ == known.format)
            raise Refused(415, f"the device is registered to send {known.format}: {types}")
        boot, seq = _number(headers)
        payload = await body()
        if not payload:
            raise Refused(400, "the request has no body")
        try:
            await asyncio.wait_for(self._submit(device, boot, seq, payload), RECEIPT_S)
        except TimeoutError as exc:
            raise Refused(503, "it is not on the disk yet: send it again", ("Retry-After", str(RETRY_AFTER_S))) from exc
        return Answer(202, {"boot": boot, "seq": seq} if seq else {})


def _number(headers: dict[str, str]) -> tuple[str, int]:
    """The life of the device's memory, and the message's number in it; 0 where it numbers none."""
    boot, seq = headers.get("wardround-boot", ""), headers.get("wardround-seq", "")
    if not boot and not seq:
        return "", 0
    if not _BOOT.fullmatch(boot) or not re.fullmatch(r"[1-9]\d{0,14}", seq):
        raise Refused(400, "Wardround-Boot (1 to 40 of A-Z a-z 0-9 . _ -) and Wardround-Seq (from 1) go together")
    return boot, int(seq)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Work, *, body_bytes_max: int) -> None:
    """One connection's requests, one after the other; each wait has its deadline, each body its bound."""
    with contextlib.suppress(OSError, TimeoutError):  # who reads no answer gets none
        await _Connection(reader, writer, body_bytes_max).run(answer)


class _Connection:
    """HTTP/1.1 over a pair of streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body_bytes_max: int) -> None:
        self._reader, self._writer, self._body_bytes_max = reader, writer, body_bytes_max
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)

    async def run(self, answer: Work) -> None:
        wait_s = HEAD_S
        while True:
            try:
                request = await self._event(wait_s)
            except h11.RemoteProtocolError as exc:
                await self._respond(Answer(exc.error_status_hint, {"error": "not HTTP/1.1"}), close=True)
                return
            if not isinstance(request, h11.Request):
                return
            given = await _given(answer, request, self._body)
            whole = self._http.their_state is h11.DONE  # a body that was not read ends the connection
            await self._respond(given, close=not whole)
            if not whole or self._http.our_state is not h11.DONE:
                return
            self._http.start_next_cycle()
            wait_s = IDLE_S

    async def _event(self, within_s: float) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        async with asyncio.timeout(within_s):
            while (found := self._http.next_event()) is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    await self._send(h11.InformationalResponse(status_code=100, headers=[]))
                self._http.receive_data(await self._reader.read(READ_BYTES))
        return found

    async def _body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        async with asyncio.timeout(BODY_S):
            while isinstance(found := await self._event(BODY_S), h11.Data):
                size += len(found.data)
                if size > self._body_bytes_max:
                    raise Refused(413, f"a message has at most {self._body_bytes_max} bytes")
                parts.append(bytes(found.data))
        return b"".join(parts)

    async def _respond(self, answer: Answer, *, close: bool) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        data = json.dumps(answer.body).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(data))), *answer.headers]
        if close:
            headers.append(("Connection", "close"))
        await self._send(h11.Response(status_code=answer.status, headers=headers))
        await self._send(h11.Data(data=data))
        await self._send(h11.EndOfMessage())

    async def _send(self, event: h11.Event) -> None:
        self._writer.write(self._http.send(event) or b"")
        async with asyncio.timeout(HEAD_S):
            await self._writer.drain()


async def _given(answer: Work, request: h11.Request, body: Callable[[], Awaitable[bytes]]) -> Answer:
    try:
        return await answer(request, body)
    except Refused as refused:
        return refused.answer
    except TimeoutError:
        return Answer(408, {"error": f"the body did not come within {BODY_S:.0f} s"})
    except h11.RemoteProtocolError as exc:
        return Answer(exc.error_status_hint, {"error": "not HTTP/1.1, or not whole"})
