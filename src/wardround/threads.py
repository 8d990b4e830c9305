"""Work in a thread, for asyncio, that is never left behind; and what one thread may read while another writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, ItemsView, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


def pairs(of: Mapping[K, V]) -> ItemsView[K, V]:
    """Keys and values of a dict as it stands, while other threads put into it.

    `list(of.items())` is no such look: it makes an object for each pair, at which the collector of garbage may run, and at its
    end another thread. Of some thousands that happens within minutes. A copy is made in one go.
    """
    return dict(of).items()


async def to_its_end(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """`call` in a thread, as asyncio.to_thread; a caller that is cancelled leaves when the thread has ended.

    A thread cannot be cancelled: left to itself it goes on beside whatever comes next, and writes over it.
    """
    running = asyncio.ensure_future(asyncio.to_thread(call, *arguments, **named))
    await ended(running)
    return running.result()


async def ended(work: asyncio.Future[Any]) -> None:
    """Wait until work has ended, whatever came of it; a caller that is cancelled meanwhile leaves then, as cancelled."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:  # perhaps not the first
            cancelled = error
    if cancelled is not None:
        if not work.cancelled():
            work.exception()  # nobody is left who would hear of it
        raise cancelled
