"""The API as one ASGI application, which the console's server carries beside its pages."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wardround import __version__
from wardround.api import fhir, fhir_ingest, problems
from wardround.api.callers import Callers, Tokens
from wardround.api.draining import Drains, make_drain_router
from wardround.api.events import Streams, add_events, is_stream
from wardround.api.one_thread import OneThread, here
from wardround.api.repeats import Repeats
from wardround.api.routes import Desk, Records, make_router
from wardround.clock import Clock
from wardround.console.bodies import BodyTooLarge, BodyTooSlow, HungUp, whole_body
from wardround.errors import WardroundError
from wardround.trust.roles import Act

VERSION = "1"
ABOUT = """
What the console and the command line can do, for programs. Send `Authorization: Bearer wra...`; `wardround token new` makes one.
Lists come in pages (`limit`, `cursor`). An answer that says no is a problem (RFC 9457) with a `remedy`. Calls that change
something and would do it twice take an `Idempotency-Key`. Patients are pseudonyms.
"""
HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"))


def make_api(
    desk: Desk,
    records: Records,
    tokens: Tokens,
    clock: Clock,
    *,
    patients: fhir.Records | None = None,
    bundles: fhir_ingest.Takes | None = None,
    drains: Drains | None = None,
) -> ASGIApp:
    """The whole API; paths begin with /api, and with /fhir where there are records of patients."""
    app = FastAPI(
        title="Wardround",
        version=VERSION,
        description=ABOUT.strip(),
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(problems.Refused, here(problems.on_refused))
    app.add_exception_handler(WardroundError, here(problems.on_failed))
    app.add_exception_handler(RequestValidationError, here(problems.on_invalid))
    app.add_exception_handler(HTTPException, here(problems.on_http))
    callers = Callers(tokens, clock)
    app.include_router(make_router(desk, records, callers, Repeats(clock)))
    if drains is not None:
        app.include_router(make_drain_router(drains, callers))
    add_events(app.router, desk, callers, Streams())
    if patients is not None:
        router = fhir.make_fhir_router(patients, callers, __version__)
        if bundles is not None:
            fhir_ingest.add_ingest(router, bundles, callers)
        app.include_router(router)
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        described = plain()
        scheme = {"type": "http", "scheme": "bearer", "bearerFormat": "wra.ID.SECRET"}
        described["components"]["securitySchemes"] = {"token": scheme}
        described["security"] = [{"token": []}]
        return described

    app.openapi = openapi  # type: ignore[method-assign]  # how FastAPI wants it
    return _Guard(app, callers)


class _Guard:
    """Has the whole body, bounded and in time, before a route is asked; puts its headers on every answer."""

    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self._app, self._answers = app, OneThread(app, is_stream)
        self._callers, self._large = callers, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4404})
            return

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {key.lower() for key, _ in message["headers"]}
                message = {**message, "headers": [*message["headers"], *(h for h in HEADERS if h[0] not in present)]}
            await send(message)

        request = Request(scope)
        try:
            if fhir_ingest.is_large(scope):
                await self._large_one(request, receive, framed)
            else:
                await self._answers(scope, await whole_body(receive), framed)
        except HungUp:
            return
        except BodyTooSlow as slow:
            await problems.answer_to(request, 408, str(slow))(scope, receive, framed)
        except BodyTooLarge as large:
            await problems.answer_to(request, 413, str(large), remedy="send less")(scope, receive, framed)
        except problems.Refused as refused:
            await problems.on_refused(request, refused)(scope, receive, framed)

    async def _large_one(self, request: Request, receive: Receive, send: Send) -> None:
        """A large body is read from those alone who may bring one, few at once; its call waits, so it is answered on the loop."""
        await asyncio.to_thread(lambda: self._callers.check(self._callers.caller(request), Act.INGEST))
        if self._large >= fhir_ingest.AT_ONCE:
            raise problems.Refused(
                503, f"{fhir_ingest.AT_ONCE} Bundles are being taken", remedy="send it again", headers={"Retry-After": "1"}
            )
        self._large += 1
        try:
            await self._app(request.scope, await whole_body(receive, fhir_ingest.BODY_MAX), send)
        finally:
            self._large -= 1
