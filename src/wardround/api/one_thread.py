"""A call answered in one thread, from its token to its bytes.

FastAPI gives each plain function of a call to a thread of its own choice: the token's check, the route, the check of what it
answers, what it refuses. Each time the call goes from the loop to a thread and back, it waits its turn at the interpreter's lock
behind whatever else the hub does. Here everything of a call is done where it is, and the call as a whole goes to a thread, once.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

P = ParamSpec("P")
T = TypeVar("T")


def here(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """The function as one that FastAPI calls where it stands. What waits for nothing but its own work may be called so in the
    thread of its call; on a loop it would hold everything up."""

    @functools.wraps(function)
    async def called(*args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    return called


class HereRoute(APIRoute):
    """A route whose plain function is called where it stands."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **how: Any) -> None:
        super().__init__(path, endpoint if inspect.iscoroutinefunction(endpoint) else here(endpoint), **how)


class OneThread:
    """An application each of whose calls is answered in a thread, but for those that wait for something on the loop."""

    def __init__(self, app: ASGIApp, waits: Callable[[Scope], bool]) -> None:
        """`waits(scope)`: the call is answered on the loop. Of every other one the body is there when it is called."""
        self._app, self._waits = app, waits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._waits(scope):
            await self._app(scope, receive, send)
            return
        sent, failed = await run_in_threadpool(_answer, self._app, scope, [await receive()])
        for message in sent:
            await send(message)
        if failed is not None:
            raise failed


def _answer(app: ASGIApp, scope: Scope, came: list[Message]) -> tuple[list[Message], Exception | None]:
    """What the application sends, and the error with which it ends."""
    sent: list[Message] = []

    async def receive() -> Message:
        return came.pop(0) if came else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        _to_its_end(app(scope, receive, send))
    except Exception as error:  # noqa: BLE001 - as the application raises it, once it has sent what it has to say
        return sent, error
    return sent, None


def _to_its_end(call: Awaitable[None]) -> None:
    """Run a coroutine that never waits: without a loop.

    Raises:
        RuntimeError: it waits.
    """
    assert isinstance(call, Coroutine)  # noqa: S101 - what an application returns
    try:
        call.send(None)
    except StopIteration:
        return
    call.close()
    raise RuntimeError("a call waits for something in its thread: declare its route as one that does")
