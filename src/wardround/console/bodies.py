"""The body of a request, bounded in size and in time before anybody parses it: a form would otherwise be read to its end,
however long, from whoever sends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive

BODY_MAX = 256 * 1024
BODY_S = 30.0


class BodyTooLarge(Exception):
    """It has more bytes than it may."""

    def __init__(self, most: int) -> None:
        super().__init__(f"a body may have {most} bytes")


class BodyTooSlow(Exception):
    """It did not come within `BODY_S`."""

    def __init__(self) -> None:
        super().__init__(f"the body did not come within {BODY_S:.0f} s")


class HungUp(Exception):
    """Whoever sent it went away in the middle of it: what came is no request, and nothing is done."""


async def whole_body(receive: Receive, most: int = BODY_MAX) -> Callable[[], Awaitable[Message]]:
    """Read the body, of `most` bytes at most; return what gives it again, and after it what `receive` gives.

    Raises:
        BodyTooLarge, BodyTooSlow, HungUp: and what is left of it is not read.
    """
    try:
        async with asyncio.timeout(BODY_S):
            body = await _read(receive, most)
    except TimeoutError as exc:
        raise BodyTooSlow from exc
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


async def _read(receive: Receive, most: int) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise HungUp
        parts.append(message.get("body", b""))
        size, more = size + len(parts[-1]), message.get("more_body", False)
        if size > most:
            raise BodyTooLarge(most)
    return b"".join(parts)
