"""Work in a thread, for asyncio, that is never left behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def to_its_end(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """`call` in a thread, as asyncio.to_thread; a caller that is cancelled leaves when the thread has ended.

    A thread cannot be cancelled: left to itself it goes on beside whatever comes next, and writes over it.
    """
    running = asyncio.ensure_future(asyncio.to_thread(call, *arguments, **named))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():  # cancelled again while it waits
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        raise
