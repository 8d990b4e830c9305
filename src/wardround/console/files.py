"""What may be taken away as a file: given to who is signed in and may have it; else why not, and what to do."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Request
from fastapi.responses import PlainTextResponse, Response

from wardround.console.door import Sessions, token_of
from wardround.errors import NotAllowed, WardroundError


def given(sessions: Sessions, request: Request, answer: Callable[[str], Response], *, failed: int = 503) -> Response:
    """What `answer(who)` gives, for no cache to keep.

    It may raise NotAllowed; any other WardroundError is answered with the status `failed`.
    """
    session = sessions.get(token_of(request.headers.get("cookie", "")))
    if session is None:
        return PlainTextResponse("Sign in first.", 401)
    try:
        found = answer(session.name)
    except NotAllowed as refused:
        return PlainTextResponse(f"{refused}.", 403)
    except WardroundError as error:
        remedy = f" {error.remedy[:1].upper()}{error.remedy[1:]}." if error.remedy else ""
        return PlainTextResponse(f"{error}.{remedy}", failed)
    found.headers["cache-control"] = "no-store"
    return found
