"""What of a study may be taken away as a file: a model, by whoever may export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from wardround.console.door import Sessions
from wardround.console.files import given


class Exports(Protocol):
    """What is asked of the hub."""

    def archive(self, who: str, name: str, number: int) -> bytes | None:
        """The model of a round as a ZIP archive; None: there is none. Raises NotAllowed, WardroundError."""


def study_files(exports: Exports) -> Callable[[FastAPI, Sessions], None]:
    """Adds the routes to a console."""

    def add(app: FastAPI, sessions: Sessions) -> None:
        @app.get("/studies/{study}/models/{number}.zip")
        def model(request: Request, study: str, number: int) -> Response:
            def answer(who: str) -> Response:
                packed = exports.archive(who, study, number)
                if packed is None:
                    return PlainTextResponse("There is no such model.", 404)
                return Response(packed, media_type="application/zip")

            return given(sessions, request, answer, failed=409)

    return add
