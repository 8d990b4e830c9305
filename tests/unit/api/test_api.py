"""The API: who gets in, who may what, pages that lose nothing, acts that are done once, refusals that say what to do."""

from __future__ import annotations

import asyncio
import json

import pytest

from wardround.api.callers import BURST, WRONG_BURST
from wardround.console.bodies import BODY_MAX
from wardround.console.model import HoursView, Line, SignalHours
from wardround.store import Person
from wardround.trust.roles import MAY, Act, Role

READS = ["/hub", "/happenings", "/automation", "/jobs", "/completeness", "/edges", "/studies", "/alerts", "/silences"]


def api(path):
    return f"/api/v1{path}"


def refused(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    return problem


@pytest.mark.parametrize("path", READS)
def test_everything_can_be_read_with_a_token_and_nothing_without(world, path):
    assert world.call("GET", api(path), world.token("viola", ["read"])).status_code == 200
    problem = refused(world.call("GET", api(path)), 401)
    assert "wardround token new" in problem["remedy"]
    refused(world.call("GET", api(path), world.token("dora", ["export"])), 403)


def routes(world):
    described = world.call("GET", api("/openapi.json")).json()
    for path, acts in described["paths"].items():
        for method in acts:
            filled = path.format(edge="icu-a", study="beats", alert="A-0001", silence="S-1", request="r-1")
            yield method.upper(), filled


def test_no_route_is_open_to_nobody_or_to_a_wrong_token(world):
    found = list(routes(world))
    assert len(found) > 20
    for method, path in found:
        refused(world.call(method, path), 401)
    wrong = world.token()[:-1] + "~"
    for bad in (wrong, "wra.x.y", "x", "wra." + "a" * 200, "wra.000000000000.AAAA"):
        refused(world.call("GET", api("/hub"), bad), 401)


BODIES = {
    "/alerts/A-0001/acknowledgement": (Act.ACKNOWLEDGE, {}),
    "/alerts/A-0001/undo": (Act.UNDO, {"reason": "it was calibrated"}),
    "/silences": (Act.ACKNOWLEDGE, {"matchers": {"edge": "icu-a"}, "minutes": 5, "reason": "works"}),
    "/studies/beats/requests": (Act.STUDIES, {"kind": "pause", "reason": "works"}),
    "/edges/icu-a/invitation": (Act.EDGES, {}),
    "/edges/icu-a/revocation": (Act.EDGES, {}),
}


@pytest.mark.parametrize("role", list(Role))
def test_a_role_bounds_every_act_whatever_the_token_says(world, role):
    world.store.put_person(Person("pat", role.value, "", None))
    token = world.token("pat", ["read", "alerts", "studies", "edges", "export", "audit"])
    world.study()
    for path, (act, body) in BODIES.items():
        answer = world.call("POST", api(path), token, json=body)
        if act in MAY[role]:
            assert answer.status_code in (200, 201, 202, 404, 409), (path, answer.text)
        else:
            assert act in refused(answer, 403)["detail"]
            assert world.recorded[-1][:3] == ("denied", "act not allowed", "pat")


@pytest.mark.parametrize(("path", "act", "body"), [(p, a, b) for p, (a, b) in BODIES.items()])
def test_a_scope_bounds_an_admin(world, path, act, body):
    world.store.put_person(Person("ada", "admin", "", None))
    problem = refused(world.call("POST", api(path), world.token("ada", ["read", "export"]), json=body), 403)
    assert "scope" in problem["remedy"]


def test_a_token_ends_by_time_by_revocation_and_with_its_person(world):
    token = world.token(days=2)
    assert world.call("GET", api("/hub"), token).status_code == 200
    assert world.store.api_tokens()[0].used_us == world.clock.now_us()
    world.store.put_person(Person("oskar", "gone", "", None))
    refused(world.call("GET", api("/hub"), token), 403)
    world.store.put_person(Person("oskar", "operator", "", None))
    assert world.store.revoke_api_token(token.split(".")[1], world.clock.now_us())
    refused(world.call("GET", api("/hub"), token), 401)
    other = world.token(days=1)
    world.clock.advance(86_400)
    refused(world.call("GET", api("/hub"), other), 401)
    assert [r[1] for r in world.recorded] == ["act not allowed", "token refused", "token refused"]
    secret = token.split(".")[2]
    assert secret not in str(world.recorded)
    assert all(secret.encode() not in t.secret_sha256 for t in world.store.api_tokens())


def test_guessing_is_braked_and_so_is_a_token_that_asks_too_much(world):
    for _ in range(int(WRONG_BURST)):
        refused(world.call("GET", api("/hub"), "wra.000000000000.no"), 401)
    answer = world.call("GET", api("/hub"), world.token())
    refused(answer, 429)
    assert int(answer.headers["retry-after"]) >= 1
    world.clock.advance(60)
    token = world.token()
    codes = [world.call("GET", api("/automation"), token).status_code for _ in range(int(BURST) + 1)]
    assert set(codes[:-1]) == {200}
    assert codes[-1] == 429


def test_pages_hold_everything_once_though_something_is_added(world):
    for number in range(1, 8):
        world.alert(number)
    token, seen, cursor = world.token(), [], ""
    while True:
        got = world.call("GET", api("/alerts"), token, params={"limit": 3, "cursor": cursor}).json()
        seen += [alert["id"] for alert in got["items"]]
        cursor = got["next"]
        if not cursor:
            break
        world.alert(100 + len(seen))  # newer ones belong before the first page
    assert seen == [f"A-{n:04d}" for n in range(7, 0, -1)]
    problem = refused(world.call("GET", api("/alerts"), token, params={"cursor": "é"}), 422)
    assert "cursor" in problem["detail"]


def test_edges_and_studies_are_as_in_the_store(world):
    world.edge("icu-a")
    world.edge("icu-b", revoked_us=world.clock.now_us())
    world.study(rounds=5)
    token = world.token()
    edges = world.call("GET", api("/edges"), token).json()["items"]
    assert [(e["name"], e["state"], e["spooled"]) for e in edges] == [("icu-a", "connected", 3), ("icu-b", "revoked", 0)]
    assert [e["name"] for e in world.call("GET", api("/edges?state=revoked"), token).json()["items"]] == ["icu-b"]
    assert world.call("GET", api("/edges/icu-a"), token).json()["certificate_ends"].endswith("Z")
    refused(world.call("GET", api("/edges/icu-z"), token), 404)
    assert world.call("GET", api("/studies/beats"), token).json()["rounds"] == 5
    rounds = world.call("GET", api("/studies/beats/rounds"), token, params={"limit": 2}).json()
    assert [(r["number"], r["folded"], r["set_aside"]) for r in rounds["items"]] == [(n, ["icu-a"], ["icu-b"]) for n in (5, 4)]
    rest = world.call("GET", api("/studies/beats/rounds"), token, params={"limit": 9, "cursor": rounds["next"]}).json()
    assert ([r["number"] for r in rest["items"]], rest["next"]) == ([3, 2, 1], "")
    for strange in ("aWN1LWE", "LTE", "MTAw"):  # of another list; -1; 100
        refused(world.call("GET", api("/studies/beats/rounds"), token, params={"cursor": strange}), 422)
    refused(world.call("GET", api("/studies/none/rounds"), token), 404)


def test_an_alert_is_acknowledged_undone_and_silenced_as_from_the_console(world):
    world.watch.edge_quarantined("beats", "icu-a", 3, reason="course", score=9.4, threshold=6.0, until_round=13)
    (raised,) = world.watch.alerts()
    number = int(raised.alert_id.split("-")[1])
    world.alert(number, undo_words="Let it count")
    token, path = world.token(), api(f"/alerts/{raised.alert_id}")
    assert world.call("GET", path, token).json()["undo"] == "Let it count"
    assert "oskar" in world.call("POST", f"{path}/acknowledgement", token, json={"actionable": True}).json()["words"]
    assert world.watch.alert(raised.alert_id).acknowledged_by == "oskar"
    refused(world.call("POST", f"{path}/undo", token, json={"reason": ""}), 422)
    assert world.call("POST", f"{path}/undo", token, json={"reason": "it was calibrated"}).status_code == 200
    assert "nothing to undo" in refused(world.call("POST", f"{path}/undo", token, json={"reason": "again"}), 409)["detail"]
    made = world.call("POST", api("/silences"), token, json={"matchers": {"edge": "icu-*"}, "minutes": 5, "reason": "works"})
    assert made.status_code == 201
    (silence,) = world.call("GET", api("/silences"), token).json()
    assert silence["who"] == "oskar"
    bad = {"matchers": {"ward": "x"}, "minutes": 5, "reason": "works"}
    assert "label" in refused(world.call("POST", api("/silences"), token, json=bad), 409)["detail"]
    assert world.call("DELETE", api(f"/silences/{silence['id']}"), token).status_code == 200
    refused(world.call("DELETE", api(f"/silences/{silence['id']}"), token), 409)
    assert [what for kind, what, *_ in world.recorded if kind == "change"] == [
        "alerts: silence", "alerts: silence", "alerts: unsilence", "alerts: unsilence"
    ]  # fmt: skip


def test_what_is_asked_of_a_study_is_asked_once_for_a_key(world):
    world.study()
    token, key = world.token(), {"Idempotency-Key": "k-1"}
    body = {"kind": "rollback", "to_round": 3, "reason": "scores fell"}
    first = world.call("POST", api("/studies/beats/requests"), token, json=body, headers=key)
    assert first.status_code == 202
    again = world.call("POST", api("/studies/beats/requests"), token, json=body, headers=key)
    assert again.json() == first.json()
    (asked,) = world.store.study_requests()
    assert (asked.kind, asked.to_round, asked.who, asked.reason) == ("rollback", 3, "oskar", "scores fell")
    other = {"kind": "pause", "reason": "scores fell"}
    refused(world.call("POST", api("/studies/beats/requests"), token, json=other, headers=key), 422)
    assert world.call("GET", api(f"/studies/beats/requests/{asked.request_id}"), token).json()["state"] == "asked"
    refused(world.call("GET", api("/studies/beats/requests/r-99"), token), 404)
    promoted = world.call("POST", api("/studies/beats/requests"), token, json=body | {"kind": "promote"})
    assert promoted.status_code == 202
    assert [r.kind for r in world.store.study_requests()] == ["rollback", "promote-current"]  # as the hub knows it
    for wrong in ({"kind": "rollback", "reason": "no round"}, {"kind": "pause", "to_round": 1, "reason": "a round"}):
        assert "to_round" in refused(world.call("POST", api("/studies/beats/requests"), token, json=wrong), 422)["detail"]
    refused(world.call("POST", api("/studies/none/requests"), token, json=other), 404)


def test_an_invitation_is_a_join_token_and_is_told_once(world):
    token, key = world.token(), {"Idempotency-Key": "k-1"}
    made = world.call("POST", api("/edges/icu-c/invitation"), token, headers=key)
    assert made.status_code == 201
    assert made.json()["token"].startswith("wr1.")
    assert made.headers["cache-control"] == "no-store"
    refused(world.call("POST", api("/edges/icu-c/invitation"), token, headers=key), 409)
    refused(world.call("POST", api("/edges/ICU_C/invitation"), token), 422)
    world.edge("icu-c")
    assert world.call("POST", api("/edges/icu-c/revocation"), token).status_code == 200
    refused(world.call("POST", api("/edges/icu-c/revocation"), token), 404)
    assert [what for _, what, *_ in world.recorded] == ["edge invited", "edge revoked"]
    assert made.json()["token"] not in str(world.recorded)


def test_completeness_says_when_it_is_not_known_yet(world):
    token = world.token()
    world.pages.signals = None
    assert world.call("GET", api("/completeness"), token).headers["retry-after"] == "5"
    rows = (SignalHours("abcd", "loinc:8867-4", "Heart rate", 0, (None, 0.5), 0.5),)
    world.pages.signals = HoursView(rows, rows)
    (row,) = world.call("GET", api("/completeness"), token).json()["items"]
    assert row["shares"] == [None, 0.5]


@pytest.mark.parametrize(
    ("method", "path", "more", "status"),
    [
        ("GET", "/nothing", {}, 404),
        ("PUT", "/hub", {}, 405),
        ("GET", "/edges?limit=0", {}, 422),
        ("GET", "/edges/..%2f..%2fetc", {}, 404),
        ("POST", "/silences", {"content": b"{"}, 422),
        ("POST", "/silences", {"content": b"\xff\xfe"}, 422),
        ("POST", "/silences", {"json": {"matchers": {"edge": "a"}, "minutes": 5, "reason": "works", "more": 1}}, 422),
        ("POST", "/silences", {"content": b"x" * (BODY_MAX + 1)}, 413),
        ("POST", "/silences", {"content": (b"x" * 1000 for _ in range(BODY_MAX // 1000 + 2))}, 413),
    ],
)
def test_what_cannot_be_read_is_refused_and_not_repeated(world, method, path, more, status):
    if "content" in more and not isinstance(more["content"], bytes):
        chunks = list(more["content"])

        async def stream():
            for chunk in chunks:
                yield chunk

        more = {"content": stream()}
    refused(world.call(method, api(path), world.token(), **more), status)


async def heard(world, token, count, *, during=None, headers=None):
    """The first events of the stream, read as ASGI: a client that hangs up when it has enough."""
    events, gone, buffer, asked = [], asyncio.Event(), "", [{"type": "http.request", "body": b"", "more_body": False}]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "path": api("/events"), "scheme": "http", "raw_path": b"", "query_string": b"",
        "root_path": "", "client": ("127.0.0.1", 1),
        "server": ("hub", 80),
        "headers": [(b"authorization", f"Bearer {token}".encode()), *(headers or [])],
    }  # fmt: skip

    async def receive():
        if asked:
            return asked.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        nonlocal buffer
        buffer += message.get("body", b"").decode()
        while "\n\n" in buffer:
            text, _, buffer = buffer.partition("\n\n")
            fields = dict(line.split(": ", 1) for line in text.splitlines())
            events.append((fields["event"], json.loads(fields["data"])))
            if during is not None:
                during(len(events))
        if len(events) >= count:
            gone.set()

    await asyncio.wait_for(world.app(scope, receive, send), 30)
    return events


def test_live_events_begin_with_what_is_open_and_go_on_with_what_changes(world, monkeypatch):
    monkeypatch.setattr("wardround.api.events.TICK_S", 0.01)
    world.alert(1)
    now_us = world.clock.now_us()
    world.pages.happened = [Line(now_us - 5, "before", "")]

    def during(count):
        if count == 2:
            world.pages.happened.insert(0, Line(now_us + 5, "after", ""))
            world.alert(2)

    events = asyncio.run(heard(world, world.token(), 6, during=during))
    assert [kind for kind, _ in events[:2]] == ["alert", "hub"]
    changed = [(kind, data.get("id") or data["title"]) for kind, data in events[2:] if kind != "hub"]
    assert changed == [("happening", "after"), ("alert", "A-0002")]
    again = asyncio.run(heard(world, world.token(), 3, headers=[(b"last-event-id", str(now_us - 10).encode())]))
    assert [d["title"] for k, d in again if k == "happening"] == ["before", "after"]


def test_live_events_end_with_the_token(world, monkeypatch):
    monkeypatch.setattr("wardround.api.events.TICK_S", 0.01)
    token = world.token()

    def during(_count):
        world.store.revoke_api_token(token.split(".")[1], world.clock.now_us())

    asyncio.run(heard(world, token, 10**6, during=during))  # it ends by itself


def test_the_description_is_whole(world):
    described = world.call("GET", api("/openapi.json")).json()
    for path, acts in described["paths"].items():
        for method, act in acts.items():
            assert act["description"], (path, method)
            assert act["tags"], (path, method)
            assert {"401", "403", "429"} <= set(act["responses"]), (path, method)
    assert described["security"] == [{"token": []}]
