"""Byte relays between a TCP port and a Unix socket: how a container without a network reaches the hub, and nothing else.

A worker's container has no network but its own loopback. One folder of the node is mounted into it, with two sockets:
`scheduler.sock`, behind which is the hub's scheduler, and `worker.sock`, behind which is the worker. Each end turns the
socket into a port of its own loopback, so no port of the hub or of a node is open to anybody. What passes is TLS 1.3.
When the lake is in an object store, `store.sock` leads to its endpoint (see nodes/store_way.py), and to nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from wardround.ports import LOOPBACK

CHUNK = 256 * 1024
LAST_WORDS_S = 5.0  # one direction has ended: how long the other may still speak
CALL_S = 10.0
STORE, STORE_AUTHORITIES = "store.json", "store.pem"  # of /certs: the way to an object store, and who vouches for it
T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Streams]]
Place = tuple[str, int]  # host and port


def to_unix(path: Path) -> Connect:
    """Connects to a Unix socket."""
    return lambda: asyncio.open_unix_connection(str(path), limit=CHUNK)


def to_tcp(port: int, host: str = LOOPBACK) -> Connect:
    """Connects to a port, of the loopback when no host is named."""
    return lambda: asyncio.open_connection(host, port, limit=CHUNK)


async def serve_unix(path: Path, connect: Connect) -> asyncio.Server:
    """Listen on a Unix socket that anybody who sees its folder may use; the folder is what is guarded."""
    path.unlink(missing_ok=True)  # noqa: ASYNC240 - a moment, before anything is served
    server = await asyncio.start_unix_server(_handler(connect), str(path), limit=CHUNK)
    os.chmod(path, 0o666)  # noqa: PTH101, S103 - the container's user is another one than ours
    return server


async def serve_tcp(port: int, connect: Connect) -> asyncio.Server:
    """Listen on a port of the loopback; 0 chooses a free one."""
    return await asyncio.start_server(_handler(connect), LOOPBACK, port, limit=CHUNK)


def _handler(connect: Connect) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            other_reader, other_writer = await asyncio.wait_for(connect(), CALL_S)
        except (OSError, TimeoutError):
            writer.close()
            return
        ways = [asyncio.create_task(_copy(reader, other_writer)), asyncio.create_task(_copy(other_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(ways, timeout=LAST_WORDS_S)
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, other_writer):
                end.close()

    return handle


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


class Relays:
    """The hub's relays, in a thread of their own. Safe to use from several threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relays", daemon=True)
        self._servers: dict[str, list[asyncio.Server]] = {}
        self._thread.start()

    def open(self, name: str, folder: Path, scheduler_port: int, store: Place | None = None) -> int:
        """The relays of one worker: its ways to the scheduler and to the store, and ours to it. Returns our port for it."""
        return self._call(self._open(name, folder, scheduler_port, store))

    def close(self, name: str) -> None:
        """End a worker's relays; its open connections end as well."""
        self._call(self._close(name))

    def close_all(self) -> None:
        """End every relay and the thread."""
        if self._loop.is_closed():
            return
        for name in list(self._servers):
            self.close(name)
        self._call(self._end_connections())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _open(self, name: str, folder: Path, scheduler_port: int, store: Place | None) -> int:
        inward = await serve_unix(folder / "scheduler.sock", to_tcp(scheduler_port))
        outward = await serve_tcp(0, to_unix(folder / "worker.sock"))
        self._servers[name] = [inward, outward]
        if store is not None:
            host, port = store
            self._servers[name].append(await serve_unix(folder / "store.sock", to_tcp(port, host)))
        return int(outward.sockets[0].getsockname()[1])

    async def _end_connections(self) -> None:
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _close(self, name: str) -> None:
        for server in self._servers.pop(name, []):
            server.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_S)
