"""The whole description of the API, played by schemathesis: every answer is as it says, and nothing fails.

WARDROUND_API_EXAMPLES is how many calls are made up for each route (`make test-api`: thousands).
"""

from __future__ import annotations

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

EXAMPLES = int(os.environ.get("WARDROUND_API_EXAMPLES", "8"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.fixture
def schema(world):
    for name in ("icu-a", "icu-b"):
        world.edge(name)
    world.study("beats", rounds=3)
    for number in range(1, 4):
        world.alert(number)
    return schemathesis.openapi.from_asgi("/api/v1/openapi.json", world.app)


@pytest.mark.timeout(3600)
def test_every_answer_is_as_described(schema, world):
    token = world.token("ada", ["read", "alerts", "studies", "edges"])
    played = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path == "/api/v1/events":  # it does not end: test_api.py reads it
            continue

        @settings(max_examples=EXAMPLES, deadline=None, derandomize=EXAMPLES < 100, suppress_health_check=list(HealthCheck))
        @given(
            case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
            | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        )
        def play(case):
            world.clock.advance(1.0)  # no brake: it has tests of its own
            case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, checks=CHECKS)

        play()
        played += 1
    assert played > 20
