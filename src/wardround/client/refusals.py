"""What a hub's API says no with, as errors: each has the hub's own remedy.

WardroundError
  HubUnreachable    no answer came, or one that is none
  ApiRefused        NotSignedIn 401, NotCovered 403, Absent 404, Conflict 409, Invalid 413 and 422, Throttled 429, HubBusy 503
"""

from __future__ import annotations

import json

from wardround.errors import WardroundError


class HubUnreachable(WardroundError):
    """The hub did not answer, or what answered is no hub."""


class ApiRefused(WardroundError):
    """The hub answered, and said no. `retry_after_s` is when it may be asked again, 0 where it did not say."""

    def __init__(self, status: int, detail: str, *, remedy: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(detail, remedy=remedy)
        self.status, self.retry_after_s = status, retry_after_s


class NotSignedIn(ApiRefused):
    """There is no token, or none that holds."""


class NotCovered(ApiRefused):
    """The token's scopes, or its person's role, do not cover this."""


class Absent(ApiRefused):
    """There is no such thing."""


class Conflict(ApiRefused):
    """It cannot be done as things stand."""


class Invalid(ApiRefused):
    """The call does not hold."""


class Throttled(ApiRefused):
    """Too many calls."""


class HubBusy(ApiRefused):
    """The hub cannot answer now."""


KINDS: dict[int, type[ApiRefused]] = {
    401: NotSignedIn,
    403: NotCovered,
    404: Absent,
    409: Conflict,
    413: Invalid,
    422: Invalid,
    429: Throttled,
    503: HubBusy,
}


def refusal(status: int, body: bytes, retry_after: str) -> ApiRefused:
    """The error of an answer with this status: a problem of RFC 9457 where its body is one."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    facts = problem if isinstance(problem, dict) else {}
    detail, remedy = str(facts.get("detail") or f"the hub answered with status {status}"), str(facts.get("remedy") or "")
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    return KINDS.get(status, ApiRefused)(status, detail, remedy=remedy, retry_after_s=seconds)
