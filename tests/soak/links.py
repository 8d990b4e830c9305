"""A door before the hub for each process of edges, which can be shut: what is open is cut, and nothing comes through."""

from __future__ import annotations

import asyncio
import contextlib
import threading

from wardround.ports import LOOPBACK


class Doors:
    """Any number of doors, passed by a thread of their own."""

    def __init__(self, n: int, hub_port: int) -> None:
        self.ports: list[int] = []
        self._hub_port, self._n = hub_port, n
        self._shut: set[int] = set()
        self._open: list[set[asyncio.StreamWriter]] = [set() for _ in range(n)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)

    def shut(self, door: int) -> None:
        """Cut what goes through it, and let nothing through."""

        def cut() -> None:
            self._shut.add(door)
            for writer in list(self._open[door]):
                writer.transport.abort()

        self._loop.call_soon_threadsafe(cut)

    def open(self, door: int) -> None:
        """Let through again."""
        self._loop.call_soon_threadsafe(self._shut.discard, door)

    def close(self) -> None:
        """Cut everything."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _listen(self) -> None:
        self._servers = []
        for door in range(self._n):
            server = await asyncio.start_server(lambda near, back, door=door: self._serve(door, near, back), LOOPBACK, 0)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for writers in self._open:
            for writer in writers:
                writer.transport.abort()
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    async def _serve(self, door: int, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        out: asyncio.StreamWriter | None = None
        try:
            if door in self._shut:
                return
            far, out = await asyncio.open_connection(LOOPBACK, self._hub_port)
            self._open[door] |= {back, out}
            await asyncio.gather(_pass(near, out), _pass(far, back))
        except (OSError, asyncio.CancelledError):  # the hub is away, or it is all over
            pass
        finally:
            for writer in (back, out):
                if writer is not None:
                    self._open[door].discard(writer)
                    writer.transport.abort()


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    sink.close()
