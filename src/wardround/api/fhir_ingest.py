"""`POST /fhir`: a Bundle of observations, with an outcome for each entry."""

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from starlette.types import Scope

from wardround.api.callers import Caller, Callers
from wardround.api.fhir_described import BUNDLE_IN, CONFLICT, MEDIA_TYPE, answers
from wardround.api.problems import TITLES, Refused
from wardround.collect.bundles import Answer, Outcome
from wardround.errors import DecodeError
from wardround.threads import to_its_end
from wardround.trust.roles import Act

READ = (MEDIA_TYPE, "application/json")
BODY_MAX = 4 * 1024 * 1024  # an hour of one lead of ECG in SampledData is 2 to 4 MB
AT_ONCE = 4  # bodies of this size in memory
_WORDS = {200: "200 OK", 201: "201 Created"}


class Takes(Protocol):
    """Where a Bundle goes."""

    def take(self, body: bytes, who: str) -> Answer:
        """Raises DecodeError: it is no Bundle that could be taken; WardroundError: the hub cannot take it now."""


def is_large(scope: Scope) -> bool:
    """Whether this request may bring a large body."""
    return scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in ("/fhir", "/fhir/")


def add_ingest(router: APIRouter, takes: Takes, callers: Callers) -> None:
    """The route."""
    May = Annotated[Caller, Depends(callers.may_on_loop(Act.INGEST))]  # noqa: N806 - a type, for FastAPI

    said = answers("Bundle", "An outcome for each entry, in their order.") | CONFLICT

    @router.post("", responses=said, openapi_extra=BUNDLE_IN)
    @router.post("/", include_in_schema=False)
    async def bundle(request: Request, who: May) -> Response:
        """Take a Bundle of type batch or transaction."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() not in READ:
            raise Refused(415, "the body is not said to be FHIR JSON", remedy=f"send Content-Type: {MEDIA_TYPE}")
        try:
            answer = await to_its_end(takes.take, await request.body(), who.person)
        except DecodeError as error:
            status = {"too-large": 413, "malformed-fhir": 400}.get(error.reason, 422)
            raise Refused(status, str(error), remedy="docs/api.md says what is taken") from error
        if not answer.kept:
            why = {outcome.status for outcome in answer.outcomes if not outcome.taken}
            return _fhir(refusal(answer), why.pop() if len(why) == 1 and why <= {403, 409} else 422)
        return _fhir(response(answer))


def response(answer: Answer) -> dict[str, Any]:
    """The Bundle that answers: an entry for each that came, in their order."""
    return {
        "resourceType": "Bundle",
        "type": f"{answer.kind}-response",
        **({"entry": [{"response": _entry(outcome)} for outcome in answer.outcomes]} if answer.outcomes else {}),
    }


def refusal(answer: Answer) -> dict[str, Any]:
    """Why nothing of a transaction was kept: an issue for each entry that is refused."""
    issues = [
        _issue("error", outcome.code, outcome.words) | {"expression": [f"Bundle.entry[{place}]"]}
        for place, outcome in enumerate(answer.outcomes)
        if not outcome.taken
    ]
    return {"resourceType": "OperationOutcome", "issue": issues}


def _entry(outcome: Outcome) -> dict[str, Any]:
    made: dict[str, Any] = {"status": _WORDS.get(outcome.status, f"{outcome.status} {TITLES.get(outcome.status, '')}".strip())}
    if outcome.location:
        made["location"] = outcome.location
    if outcome.words:
        issue = _issue("information" if outcome.taken else "error", outcome.code, outcome.words)
        made["outcome"] = {"resourceType": "OperationOutcome", "issue": [issue]}
    return made


def _issue(severity: str, code: str, words: str) -> dict[str, Any]:
    return {"severity": severity, "code": code, "diagnostics": words}


def _fhir(resource: Mapping[str, Any], status: int = 200) -> Response:
    return Response(msgspec.json.encode(resource), status, media_type=MEDIA_TYPE)
