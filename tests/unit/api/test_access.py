"""Broken access control: every route that there is, by every role and every scope. A new route without an entry fails."""

from __future__ import annotations

import asyncio
import itertools

import httpx
import pytest

from wardround.api.app import make_api
from wardround.collect.bundles import Answer
from wardround.store import Person
from wardround.trust.api_tokens import Scope
from wardround.trust.roles import Role

OPEN = ("", frozenset())  # needs no token, as it says nothing of anybody
EVERYBODY = ("read", frozenset({"viewer", "clinician", "operator", "data-officer", "admin"}))
ON_CALL = ("alerts", frozenset({"clinician", "operator", "admin"}))
UNDOING = ("alerts", frozenset({"operator", "admin"}))
STUDIES = ("studies", frozenset({"operator", "admin"}))
EDGES = ("edges", frozenset({"operator", "admin"}))
BEDSIDE = ("patients", frozenset({"clinician", "admin"}))
EXPORTS = ("export", frozenset({"data-officer", "admin"}))
INGESTS = ("ingest", frozenset({"data-officer", "admin"}))
# Written out beside the product's own tables, so that a slip in those shows here.
ROUTES = {
    "GET /api/v1/openapi.json": OPEN,
    "GET /api/v1/hub": EVERYBODY,
    "GET /api/v1/happenings": EVERYBODY,
    "GET /api/v1/automation": EVERYBODY,
    "GET /api/v1/jobs": EVERYBODY,
    "GET /api/v1/completeness": EVERYBODY,
    "GET /api/v1/events": EVERYBODY,
    "GET /api/v1/edges": EVERYBODY,
    "GET /api/v1/edges/{edge}": EVERYBODY,
    "POST /api/v1/edges/{edge}/invitation": EDGES,
    "POST /api/v1/edges/{edge}/revocation": EDGES,
    "GET /api/v1/edges/{edge}/drain": EVERYBODY,
    "POST /api/v1/edges/{edge}/drain": EDGES,
    "DELETE /api/v1/edges/{edge}/drain": EDGES,
    "GET /api/v1/studies": EVERYBODY,
    "GET /api/v1/studies/{study}": EVERYBODY,
    "GET /api/v1/studies/{study}/rounds": EVERYBODY,
    "GET /api/v1/studies/{study}/models": EVERYBODY,
    "POST /api/v1/studies/{study}/requests": STUDIES,
    "GET /api/v1/studies/{study}/requests/{request}": EVERYBODY,
    "GET /api/v1/alerts": EVERYBODY,
    "GET /api/v1/alerts/{alert}": EVERYBODY,
    "POST /api/v1/alerts/{alert}/acknowledgement": ON_CALL,
    "POST /api/v1/alerts/{alert}/undo": UNDOING,
    "GET /api/v1/silences": EVERYBODY,
    "POST /api/v1/silences": ON_CALL,
    "DELETE /api/v1/silences/{silence}": ON_CALL,
    "GET /fhir/metadata": OPEN,
    "GET /fhir/Patient": BEDSIDE,
    "GET /fhir/Patient/{subject}": BEDSIDE,
    "GET /fhir/Patient/{subject}/$everything": EXPORTS,
    "GET /fhir/Device": BEDSIDE,
    "GET /fhir/Observation": BEDSIDE,
    "GET /fhir/Observation/{resource}": BEDSIDE,
    "POST /fhir": INGESTS,
    "POST /fhir/": INGESTS,
}
NAMES = {
    "edge": "icu-a",
    "study": "beats",
    "alert": "A-0001",
    "silence": "S-0001",
    "request": "r-1",
    "subject": "aaaa",
    "resource": "0-0",
}
BODIES = {
    "POST /api/v1/alerts/{alert}/acknowledgement": {},
    "POST /api/v1/alerts/{alert}/undo": {"reason": "it was calibrated"},
    "POST /api/v1/silences": {"matchers": {"edge": "icu-a"}, "minutes": 5, "reason": "works"},
    "POST /api/v1/studies/{study}/requests": {"kind": "pause", "reason": "works"},
    "POST /fhir": {"resourceType": "Bundle", "type": "batch"},
    "POST /fhir/": {"resourceType": "Bundle", "type": "batch"},
}
QUERIES = {"GET /fhir/Device": {"patient": "aaaa"}, "GET /fhir/Observation": {"patient": "aaaa"}}


class NoPatients:
    """A lake of which nothing may be shown; who asks is noted."""

    def __init__(self):
        self.asked = []

    def patients(self):
        self.asked.append("patients")
        return []

    def shows(self, subject):
        self.asked.append(subject)
        return False

    def find(self, resource):
        self.asked.append(resource)
        return "", ()

    def take(self, body, who):
        self.asked.append("bundle")
        return Answer("batch", (), kept=True)

    def devices(self, subject):
        raise AssertionError("nobody who may not see a patient comes so far")


def found(routes):
    """Every route under an application, with its methods."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from found(inner.routes)
        else:
            for method in route.methods - {"HEAD", "OPTIONS"}:  # anything that is no plain route fails here, to be looked at
                yield f"{method} {route.path}"


@pytest.fixture
def guarded(world):
    """The whole API over a hub with something to take, and a way to call it that costs little."""
    world.patients = NoPatients()
    world.app = make_api(
        world.desk, world.store, world.desk, world.clock, patients=world.patients, bundles=world.patients, drains=world.drains
    )
    world.edge("icu-a")
    world.study("beats", rounds=2)
    world.alert(1)
    return world


async def status(client, route, token, **more):
    method, path = route.split(" ")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    more = {"json": BODIES.get(route), "params": QUERIES.get(route)} | more
    return (await client.request(method, path.format(**NAMES), headers=headers, **more)).status_code


def client_of(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://hub")


def test_every_route_is_in_the_table(guarded):
    assert sorted(found(guarded.app._app.routes)) == sorted(ROUTES)


def test_nobody_gets_anything_but_the_description(guarded):
    async def played():
        async with client_of(guarded.app) as client:
            for route, needed in ROUTES.items():
                assert await status(client, route, None) == (200 if needed is OPEN else 401), route

    asyncio.run(played())
    assert guarded.patients.asked == []


@pytest.mark.parametrize("role", [*Role, "gone", ""])
def test_a_route_opens_for_its_role_and_scope_alone(guarded, role):
    guarded.store.put_person(Person("pat", str(role), "", None))
    every = [scope.value for scope in Scope]
    tokens = {scope: guarded.token("pat", [scope]) for scope in every}
    tokens["all"] = guarded.token("pat", every)
    before = [edge.revoked_us for edge in guarded.store.edges()]

    async def played():
        async with client_of(guarded.app) as client:
            for (route, (scope, roles)), (held, token) in itertools.product(ROUTES.items(), tokens.items()):
                may = not scope or (str(role) in roles and held in (scope, "all"))
                if may and route == "GET /api/v1/events":
                    continue  # it does not end: test_api.py reads it
                guarded.clock.advance(1.0)  # no brake: it has a test of its own
                got = await status(client, route, token)
                # 404, 409: it was let in, and there is no such patient, or nothing to undo
                assert got in ((200, 201, 202, 404, 409) if may else (403,)), (route, held, got)

    asyncio.run(played())
    if role in ("gone", "", Role.VIEWER):
        changed = [line for line in guarded.recorded if line[0] != "denied"]
        assert (changed, guarded.store.study_requests(), guarded.patients.asked) == ([], [], [])
        assert [edge.revoked_us for edge in guarded.store.edges()] == before


def test_what_a_token_opens_is_looked_up_at_each_call(guarded):
    """A change of the role holds from the next call on, for a token that was made before."""
    token = guarded.token("oskar", ["edges"])
    assert guarded.call("POST", "/api/v1/edges/icu-b/invitation", token).status_code == 201
    guarded.store.put_person(Person("oskar", "viewer", "", None))
    assert guarded.call("POST", "/api/v1/edges/icu-b/invitation", token).status_code == 403
    guarded.store.put_person(Person("oskar", "operator", "", None))
    assert guarded.call("POST", "/api/v1/edges/icu-b/invitation", token).status_code == 201


def test_an_answer_kept_for_a_key_is_for_the_token_that_asked(guarded):
    """Somebody who learns another's idempotency key gets nothing of the first answer by it."""
    key, body = {"Idempotency-Key": "k-1"}, {"kind": "pause", "reason": "works"}
    asked = "/api/v1/studies/beats/requests"
    mine = guarded.call("POST", asked, guarded.token("oskar"), json=body, headers=key).json()
    others = guarded.call("POST", asked, guarded.token("ada"), json=body, headers=key).json()
    assert mine["id"] != others["id"]
    assert guarded.call("POST", asked, guarded.token("viola"), json=body, headers=key).status_code == 403


@pytest.mark.parametrize(
    "place",
    ["edges/..%2f..%2fhub.toml", "edges/%2e%2e", "edges/....", "studies/..%5c..", "studies/%00", "alerts/..%2fA-0001",
     "studies/beats/requests/..%2f..%2f", "studies/beats%2frounds/rounds"],
)  # fmt: skip
def test_a_path_leads_out_of_nothing(guarded, place):
    answer = guarded.call("GET", f"/api/v1/{place}", guarded.token("ada", ["read"]))
    assert answer.status_code in (404, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("subject", ["..", "%2e%2e%2f", "Patient%2f..%2f..", "a'%20or%20'1'='1", "%00", "x" * 3000])
def test_a_patient_is_asked_for_by_pseudonym_alone(guarded, subject):
    for path in (f"/fhir/Patient/{subject}", f"/fhir/Patient/{subject}/$everything", f"/fhir/Observation?patient={subject}"):
        answer = guarded.call("GET", path, guarded.token("ada", ["patients", "export"]))
        assert answer.status_code in (401, 404, 405, 422), answer.text  # 405: "/fhir/" is for a POST alone
        assert "aaaa" not in answer.text
