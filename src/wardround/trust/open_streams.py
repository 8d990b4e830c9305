"""The streams that are open at a listener, checked while they are quiet: of a revoked edge they end.

One task goes over all of them. A task for each woke the loop four times a second for every edge: of some thousand edges that was
most of what a hub did.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

log = structlog.get_logger(__name__)
REFUSE_S = 2.0  # for the words to get out: they wait behind what the other side does not read
Ends = Callable[[], str]  # why the other side gets no answer now; empty: it does. Asked for all in one go: it waits for nothing
Refuse = Callable[[str], Awaitable[Any]]  # end the call with these words; may raise when it has


class OpenStreams:
    """Those of one listener, in one event loop."""

    def __init__(self, every_s: float) -> None:
        """Between two looks at all of them."""
        self._every_s = every_s
        self._open: dict[Watched, None] = {}  # in the order they opened
        self._ending: dict[Watched, asyncio.Task[None]] = {}
        self._looking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def watched(self, ends: Ends, refuse: Refuse) -> Watched:
        """While the block lasts, in the call's own task: once `ends` says why, the call is refused and its task cancelled."""
        return Watched(self, ends, refuse)

    def add(self, stream: Watched) -> None:
        """It has opened, in this task."""
        self._open[stream] = None
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())

    def remove(self, stream: Watched) -> None:
        """It is over: nothing is asked of its call any more, not even to end it."""
        self._open.pop(stream, None)
        if (ending := self._ending.pop(stream, None)) is not None:
            ending.cancel()
        if not self._open and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            for stream in list(self._open):  # without an object for each, which the collector of garbage would walk over
                if stream not in self._ending and (reason := _why(stream)):
                    self._ending[stream] = asyncio.create_task(_end(stream, reason))


class Watched:
    """One stream of them: a context manager."""

    def __init__(self, streams: OpenStreams, ends: Ends, refuse: Refuse) -> None:
        self._streams, self.ends, self.refuse = streams, ends, refuse
        self.task: asyncio.Task[Any] | None = None  # the call's own

    def __enter__(self) -> None:
        self.task = asyncio.current_task()
        self._streams.add(self)

    def __exit__(self, *_: object) -> None:
        self._streams.remove(self)


def _why(stream: Watched) -> str:
    """Why it ends. Where nobody can say it ends, too, and its own error does not end the watch over the others."""
    try:
        return stream.ends()
    except Exception:
        log.exception("a stream could not be checked")
        return "it could not be checked"


async def _end(stream: Watched, reason: str) -> None:
    with contextlib.suppress(Exception):  # it raises where it has ended the call; the call's own task must end too
        async with asyncio.timeout(REFUSE_S):
            await stream.refuse(reason)
    if stream.task is not None:
        stream.task.cancel()
