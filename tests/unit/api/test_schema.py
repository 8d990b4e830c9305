"""The whole description of the API, FHIR included, played by schemathesis: every answer is as it says, and nothing fails.

A few calls of each route, the same each time. With WARDROUND_API_S (`make test-api`) other ones each time, for so many seconds.
"""

from __future__ import annotations

import os
import random
import time

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from tests.unit.api.wards import Ward, bundle, observation

SECONDS = float(os.environ.get("WARDROUND_API_S", "0"))
SEED = int(os.environ.get("WARDROUND_API_SEED", "0"))
EXAMPLES = 60 if SECONDS else 5  # of each route in a turn
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]


@pytest.fixture
def ward(world, tmp_path):
    """A hub with something of everything."""
    made = Ward(world, tmp_path)
    for name in ("icu-a", "icu-b"):
        world.edge(name)
    world.study("beats", rounds=3)
    for number in range(1, 4):
        world.alert(number)
    made.outcomes(bundle(observation(), observation(62.0)))
    made.commit()
    yield made
    made.close()


def operations(schema):
    """Every route but the one that does not end: test_api.py reads it."""
    found = [one.ok() for one in schema.get_all_operations()]
    return [operation for operation in found if operation.path != "/api/v1/events"]


@pytest.mark.timeout(3600)
def test_every_answer_is_as_described(ward, capsys):
    world = ward.world
    played = operations(schemathesis.openapi.from_asgi("/api/v1/openapi.json", world.app))
    assert len(played) > 28
    token = world.token(
        "ada", ["read", "alerts", "studies", "edges", "patients", "export", "ingest"], days=365
    )  # of a second a call
    calls, turns, until_s = 0, 0, time.monotonic() + SECONDS

    def play(operation, number):
        nonlocal calls

        @seed(number)
        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(
            case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
            | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        )
        def called(case):
            nonlocal calls
            calls += 1
            world.clock.advance(1.0)  # no brake: it has tests of its own
            case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, checks=CHECKS)

        called()

    while turns == 0 or time.monotonic() < until_s:
        turns += 1
        for operation in random.Random(SEED + turns).sample(played, len(played)):
            play(operation, SEED + turns)
    with capsys.disabled():
        if SECONDS:
            print(f"{calls:,} calls of {len(played)} routes in {SECONDS:.0f} s, seeds {SEED + 1} to {SEED + turns}")
