"""Where ServerApps meet the hub: a Unix socket in the hub's home, which whoever may read that home may use, and nobody else.

One connection is one run, and ends with it: a ServerApp that is gone cannot come back, and its edges are told at once. A hub that
is gone can: what its runs have on disk waits a while for their ServerApps to connect again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import shutil
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import msgspec
import structlog

from wardround.clock import Clock
from wardround.errors import WardroundError
from wardround.flower.frames import PREFIX, Header, pack, reachable, sizes
from wardround.flower.run import Batch, Decided, FlowerRun, Hello
from wardround.learn import rounds
from wardround.learn.blobs import FolderBlobs
from wardround.learn.messages import Order, RoundEvent
from wardround.records import EdgeId
from wardround.settings import NAME_PATTERN

log = structlog.get_logger(__name__)
AWAY_S = 60.0  # how long what a run has on disk waits for its ServerApp, after the hub was gone
RUNS_MAX = 8
QUEUE_MAX = 1_000
SOCKET = "door.sock"


def node_id(edge: str) -> int:
    """An edge as Flower's node id: the same for every run."""
    return int.from_bytes(hashlib.sha256(b"flower node\0" + edge.encode()).digest()[:8], "big") >> 1 | 1 << 62


class FlowerDoor:
    """The runs of this hub. `runs` goes to the link beside the studies."""

    def __init__(
        self,
        home: Path,
        *,
        clock: Clock,
        attached: Callable[[], set[EdgeId]],
        known: Callable[[], Collection[EdgeId]],
        send: Callable[[EdgeId, Order | rounds.Cancel, str], None],
        on_event: Callable[[RoundEvent], None],
    ) -> None:
        """`home` is the hub's; `attached()` is who is there when a run begins, `known()` who has joined."""
        self._folder = home / "flower"
        self._clock, self._attached, self._known, self._send, self._on_event = clock, attached, known, send, on_event
        self.runs: dict[str, FlowerRun] = {}
        self._queues: dict[str, asyncio.Queue[Decided]] = {}
        self._ending: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False

    async def open(self) -> asyncio.Server:
        """Listen; what runs of an earlier time have left is removed once nobody can come back for it."""
        self._loop = asyncio.get_running_loop()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / SOCKET
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(reachable(path))
        path.chmod(0o600)
        for old in self._folder.iterdir():
            if old.is_dir():
                self._end_later(old.name)
        return await asyncio.start_unix_server(self._serve, sock=listener)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a connection is served by a task
        self._tasks.add(task)
        run: FlowerRun | None = None
        sender: asyncio.Task[None] | None = None
        try:
            header, _ = await _receive(reader)
            hello = msgspec.convert(header, Hello)
            run = await asyncio.to_thread(self._admit, hello)
            writer.write(pack({"op": "welcome"}))
            sender = asyncio.create_task(self._tell(run.name, writer))
            await self._hear(run, reader, writer)
        except (EOFError, ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:  # by `close`; Python 3.11 would log one that is passed on as an error
            if not self._closing:
                raise
        except (WardroundError, msgspec.ValidationError, ValueError) as error:
            words = f"{error}{f'; {error.remedy}' if isinstance(error, WardroundError) and error.remedy else ''}"
            log.warning("flower run refused", reason=words)
            with contextlib.suppress(ConnectionError):
                writer.write(pack({"op": "refused", "reason": words}))
                await writer.drain()
        finally:
            self._tasks.discard(task)
            if sender is not None:
                sender.cancel()
            if run is not None and self.runs.get(run.name) is run and not self._closing:
                self._end(run.name)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _hear(self, run: FlowerRun, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What a ServerApp asks, until it ends its run.

        Raises:
            WardroundError, ValueError: it asks what cannot be.
        """
        while True:
            header, payload = await _receive(reader)
            kind = header.get("op")
            if kind == "nodes":
                writer.write(pack({"op": "nodes", "nodes": await asyncio.to_thread(run.nodes)}))
            elif kind == "content":
                digest = hashlib.sha256(payload).hexdigest()
                if digest != header.get("digest"):
                    raise ValueError("a content does not have the digest that it is said to have")
                await asyncio.to_thread(run.content, digest, payload)
            elif kind == "batch":
                await asyncio.to_thread(run.push, msgspec.convert(header, Batch))
            elif kind == "end":
                return
            else:
                raise ValueError(f"there is no {str(kind)[:40]!r} here")

    async def _tell(self, name: str, writer: asyncio.StreamWriter) -> None:
        """Rounds that are decided, one after the other, each with its replies."""
        queue = self._queues[name]
        blobs = FolderBlobs(self._folder / name)
        while True:
            decided = await queue.get()
            for number, blob in decided.replies:
                data = await asyncio.to_thread(blobs.read, blob)
                writer.write(pack({"op": "reply", "number": number}, len(data)))
                writer.write(data)
                await writer.drain()
            writer.write(pack({"op": "decided", "batch": decided.batch, "failed": decided.failed, "words": decided.words}))
            await writer.drain()

    def _admit(self, hello: Hello) -> FlowerRun:
        """The run of a connection: a new one, or the one whose ServerApp or hub was gone for a moment.

        Raises:
            ValueError: it cannot be.
        """
        if hello.op != "hello" or not re.fullmatch(NAME_PATTERN, hello.run):
            raise ValueError("a connection begins with hello and a run's name")
        if hello.limits.quorum < 1 or not 0 < hello.limits.deadline_s < float("inf"):
            raise ValueError("the quorum is at least 1, and the deadline more than 0 seconds")
        if hello.run not in self.runs and len(self.runs) >= RUNS_MAX:
            raise ValueError(f"{RUNS_MAX} Flower runs are in progress here: wait for one to end")
        assert self._loop is not None  # noqa: S101 - there is no connection before `open`
        loop = self._loop
        loop.call_soon_threadsafe(self._come_back, hello.run)
        queue: asyncio.Queue[Decided] = asyncio.Queue(QUEUE_MAX)
        self._queues[hello.run] = queue  # a new one: what is open is told again, and decided again from what is on disk
        if (old := self.runs.pop(hello.run, None)) is not None:
            old.end()
        run = FlowerRun(
            hello,
            blobs=FolderBlobs(self._folder / hello.run),
            clock=self._clock,
            node_of=node_id,
            known=self._known,
            send=lambda edge, message: self._send(edge, message, hello.run),
            on_event=self._on_event,
            decided=lambda decided: _put(loop, queue, decided),
        )
        self.runs[hello.run] = run
        for edge in sorted(self._attached()):
            run.attach(edge)
        log.info("flower run begins", run=hello.run, app=hello.app)
        return run

    def _come_back(self, name: str) -> None:
        if (timer := self._ending.pop(name, None)) is not None:
            timer.cancel()

    def _end_later(self, name: str) -> None:
        assert self._loop is not None  # noqa: S101 - as above
        self._come_back(name)
        self._ending[name] = self._loop.call_later(AWAY_S, self._end, name)

    def _end(self, name: str) -> None:
        """Nobody works for a run any more, and its files go."""
        self._ending.pop(name, None)
        self._queues.pop(name, None)
        if (run := self.runs.pop(name, None)) is not None:
            run.end()
            log.info("flower run ended", run=name)
        shutil.rmtree(self._folder / name, ignore_errors=True)

    async def close(self) -> None:
        """Let go of every connection; runs go on when the hub is back."""
        self._closing = True
        for timer in self._ending.values():
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _put(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Decided], decided: Decided) -> None:
    with contextlib.suppress(RuntimeError):  # the hub is closing
        loop.call_soon_threadsafe(queue.put_nowait, decided)


async def _receive(reader: asyncio.StreamReader) -> tuple[Header, bytes]:
    header_size, payload_size = sizes(await reader.readexactly(PREFIX))
    header = json.loads(await reader.readexactly(header_size))
    if not isinstance(header, dict):
        raise ValueError("a frame's header is not an object")  # noqa: TRY004 - what came is wrong, not our code
    return header, await reader.readexactly(payload_size)
