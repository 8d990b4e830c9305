"""How the routes under /fhir stand in the API's description: resources by their type, refusals as OperationOutcomes."""

from __future__ import annotations

from typing import Any

MEDIA_TYPE = "application/fhir+json"
_REFUSALS = {
    400: "The search or the body cannot be read.",
    401: "No token that holds.",
    403: "Token or role do not cover this.",
    404: "There is no such thing that can be shown.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    415: "The body is not said to be FHIR JSON.",
    422: "A parameter or the body does not hold.",
    429: "Too many calls; `Retry-After` says when.",
    503: "The hub cannot answer now, and why.",
}


def _resource(kind: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["resourceType", *properties],
        "properties": {"resourceType": {"type": "string", "enum": [kind]}, **properties},
    }


_ISSUE = {
    "type": "object",
    "required": ["severity", "code", "diagnostics"],
    "properties": {name: {"type": "string"} for name in ("severity", "code", "diagnostics")},
}
_OUTCOME = _resource("OperationOutcome", issue={"type": "array", "minItems": 1, "items": _ISSUE})
OUTCOMES: dict[int | str, dict[str, Any]] = {
    code: {"description": words, "content": {MEDIA_TYPE: {"schema": _OUTCOME}}} for code, words in _REFUSALS.items()
}
BUNDLE_EXAMPLE = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [
        {
            "request": {"method": "POST", "url": "Observation"},
            "resource": {
                "resourceType": "Observation",
                "status": "final",
                "identifier": [{"system": "urn:example:observations", "value": "6323"}],
                "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
                "subject": {"reference": "Patient/aaaa-aaaa"},
                "effectiveDateTime": "2026-03-01T08:00:00Z",
                "valueQuantity": {"value": 61, "system": "http://unitsofmeasure.org", "code": "/min"},
            },
        }
    ],
}
BUNDLE_IN = {
    "requestBody": {
        "required": True,
        "content": {
            MEDIA_TYPE: {
                "schema": _resource(
                    "Bundle",
                    type={"type": "string", "enum": ["batch", "transaction"]},
                    entry={
                        "type": "array",
                        "maxItems": 1_000,
                        "items": {
                            "type": "object",
                            "required": ["resource", "request"],
                            "properties": {
                                "fullUrl": {"type": "string"},
                                "resource": {"type": "object", "required": ["resourceType"]},
                                "request": {
                                    "type": "object",
                                    "required": ["method", "url"],
                                    "properties": {"method": {"type": "string"}, "url": {"type": "string"}},
                                },
                            },
                        },
                    },
                ),
                "example": BUNDLE_EXAMPLE,
            }
        },
    }
}


CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"description": "An identifier is here with another content.", "content": {MEDIA_TYPE: {"schema": _OUTCOME}}}
}


def answers(kind: str, words: str) -> dict[int | str, dict[str, Any]]:
    """The answer of a route, a resource of this type."""
    return {200: {"description": words, "content": {MEDIA_TYPE: {"schema": _resource(kind)}}}}
