"""Answers that say no, as RFC 9457 problem details: what went wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from wardround.errors import WardroundError

MEDIA_TYPE = "application/problem+json"
TITLES = {
    400: "This search cannot be made",
    401: "A token is needed",
    403: "This token may not do that",
    404: "There is no such thing",
    405: "This cannot be done to it",
    408: "This took too long",
    409: "It does not stand so that this can be done",
    413: "This request is too large",
    415: "This content is not read here",
    422: "This request does not hold",
    429: "Too many requests",
    503: "The hub cannot answer now",
}


FHIR_ISSUES = {
    400: "invalid",
    401: "login",
    403: "forbidden",
    404: "not-found",
    405: "not-supported",
    408: "timeout",
    409: "conflict",
    413: "too-long",
    415: "not-supported",
    422: "invalid",
    429: "throttled",
    503: "transient",
}


class Problem(BaseModel):
    """Why a request was not carried out."""

    type: str = Field("about:blank", description="What kind of problem: the status says it.")
    title: str = Field(description="The kind in words.", examples=["There is no such thing"])
    status: int = Field(description="The HTTP status.", examples=[404])
    detail: str = Field(description="What went wrong this time.", examples=["no alert has the id A-0042"])
    remedy: str = Field("", description="What to do next.", examples=["list them at /api/v1/alerts"])


class Refused(Exception):
    """A request that is not carried out; becomes a `Problem`."""

    def __init__(self, status: int, detail: str, *, remedy: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.remedy, self.headers = status, detail, remedy, dict(headers or {})


def answer(status: int, detail: str, *, remedy: str = "", headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A problem as a response."""
    problem = Problem(type="about:blank", title=TITLES.get(status, "The hub failed"), status=status, detail=detail, remedy=remedy)
    return JSONResponse(problem.model_dump(), status, dict(headers or {}), media_type=MEDIA_TYPE)


def answer_to(
    request: Request, status: int, detail: str, *, remedy: str = "", headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """As the caller's protocol says no: under /fhir as an OperationOutcome."""
    if not (request.url.path + "/").startswith("/fhir/"):
        return answer(status, detail, remedy=remedy, headers=headers)
    words = f"{detail}: {remedy}" if remedy else detail
    issue = {"severity": "error", "code": FHIR_ISSUES.get(status, "exception"), "diagnostics": words}
    outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
    return JSONResponse(outcome, status, dict(headers or {}), media_type="application/fhir+json")


def on_refused(request: Request, error: Exception) -> JSONResponse:
    """A `Refused` as a response."""
    assert isinstance(error, Refused)  # noqa: S101 - registered for it alone
    return answer_to(request, error.status, error.detail, remedy=error.remedy, headers=error.headers)


def on_failed(request: Request, error: Exception) -> JSONResponse:
    """What the hub could not do: a full disk, a file of the lake that cannot be read."""
    assert isinstance(error, WardroundError)  # noqa: S101 - registered for it alone
    return answer_to(request, 503, str(error), remedy=error.remedy)


def on_http(request: Request, error: Exception) -> JSONResponse:
    """What the router itself refuses: no such path, no such method, a body that is no JSON."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
    if error.status_code == 400:  # as every other body that does not hold
        return answer_to(request, 422, "body: this is no JSON", remedy="see /api/v1/openapi.json")
    return answer_to(request, error.status_code, str(error.detail), remedy="see /api/v1/openapi.json", headers=error.headers)


def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """A body or a parameter that does not hold; says where, and never repeats what was sent."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return answer_to(request, 422, f"{where}: {first['msg']}", remedy="see /api/v1/openapi.json")
