"""Live data as server-sent events: what has changed since the last second, from the read model that every page shares.

`alert` when one is raised or changes, `happening` for a new line of what happened, `hub` for the numbers. An event's id is the
time of the newest line it knows of: who comes back with `Last-Event-ID` gets the lines in between.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Scope

from wardround.api.callers import Caller, Callers
from wardround.api.problems import Refused
from wardround.api.routes import REFUSALS, Desk
from wardround.api.shown import alert_resource, happening_resource, hub_resource
from wardround.trust.roles import Act

PATH = "/api/v1/events"
TICK_S = 1.0
LOOK_EVERY = 5  # ticks between two looks at whether the token still holds
STREAMS_MAX = 100
HOURS_MAX = 12.0  # a client connects again after that


class Streams:
    """How many are open."""

    def __init__(self) -> None:
        self.open = 0


def is_stream(scope: Scope) -> bool:
    """Whether this call asks for one."""
    return bool(scope["type"] == "http" and scope["path"] == PATH)


def add_events(router: APIRouter, desk: Desk, callers: Callers, streams: Streams) -> None:
    """The route. Its first event says everything that is open."""
    May = Annotated[Caller, Depends(callers.may_on_loop(Act.LOOK))]  # noqa: N806 - a type, for FastAPI

    @router.get(
        PATH,
        tags=["live"],
        response_class=StreamingResponse,
        responses=REFUSALS
        | {200: {"description": "A stream of `hub`, `alert` and `happening` events.", "content": {"text/event-stream": {}}}},
    )
    async def events(
        who: May, last: Annotated[str, Header(alias="Last-Event-ID", max_length=20, pattern=r"^[0-9]*$")] = ""
    ) -> StreamingResponse:
        """What changes, as it changes."""
        if streams.open >= STREAMS_MAX:
            raise Refused(503, f"{STREAMS_MAX} streams are open", remedy="close one", headers={"Retry-After": "30"})
        lives = lambda: callers.lives(who, Act.LOOK)  # noqa: E731
        return StreamingResponse(
            _events(desk, lives, streams, int(last or 0)), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )


async def _events(desk: Desk, lives: Callable[[], bool], streams: Streams, after_us: int) -> AsyncIterator[str]:
    streams.open += 1
    try:
        known: dict[str, str] = {}
        seen_us = after_us or desk.now_us()
        for tick in range(round(HOURS_MAX * 3600 / TICK_S)):
            if tick % LOOK_EVERY == 0 and not await asyncio.to_thread(lives):
                return
            view = desk.overview()
            lines = [line for line in reversed(view.happened) if line.t_us > seen_us]
            seen_us = max([seen_us, *(line.t_us for line in lines)])
            for line in lines:
                yield _event("happening", happening_resource(line), line.t_us)
            alerts = {a.alert_id: alert_resource(a) for a in view.alerts if a.open or a.alert_id in known}
            for alert_id, alert in alerts.items():
                text = alert.model_dump_json()
                if known.get(alert_id) != text:
                    known[alert_id] = text
                    yield _event("alert", alert, seen_us)
            yield _event("hub", hub_resource(view), seen_us)
            await asyncio.sleep(TICK_S)
    finally:
        streams.open -= 1


def _event(kind: str, resource: BaseModel, number: int) -> str:
    data = json.dumps(resource.model_dump(mode="json"), separators=(",", ":"))
    return f"id: {number}\nevent: {kind}\ndata: {data}\n\n"
