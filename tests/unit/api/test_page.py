"""docs/api.md names every call that there is, and none besides."""

from __future__ import annotations

import re
from pathlib import Path

from wardround.trust.api_tokens import Scope

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
CALL = re.compile(r"`(GET|POST|DELETE|PUT|PATCH) (/[^ `?]*)`")


def as_told(path: str) -> str:
    """A path of the description as the page writes it: `/edges/{edge}` is /edges/NAME."""
    named = re.sub(r"\{(?:edge|study)\}", "NAME", path.removeprefix("/api/v1"))
    return re.sub(r"\{[a-z_]+\}", "ID", named)


def test_the_page_names_every_call(world):
    described = world.call("GET", "/api/v1/openapi.json").json()["paths"]
    there = {(method.upper(), as_told(path)) for path, methods in described.items() for method in methods}
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    told = {call for row in rows for call in CALL.findall(row)}
    assert len(told) > 20
    assert told == {call for call in there if not call[1].startswith("/fhir")}


def test_the_page_names_every_scope():
    assert [scope for scope in Scope if f"`{scope}`" not in PAGE] == []
