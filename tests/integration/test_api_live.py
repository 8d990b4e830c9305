"""The API of a running hub: a token from the command line, the console's port, and an edge that joins with an invitation."""

from __future__ import annotations

import contextlib
import json
import time

import httpx
import pytest

from wardround.records import Consent
from wardround.trust.consent import ConsentRecord, ConsentRegister

ANNA = "aaaa-aaaa"
ENTRY = {
    "resource": {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": f"Patient/{ANNA}"},
        "effectiveDateTime": "2026-03-01T08:00:00Z",
        "valueQuantity": {"value": 61, "system": "http://unitsofmeasure.org", "code": "/min"},
    },
    "request": {"method": "POST", "url": "Observation"},
}


@pytest.mark.timeout(300)
def test_a_program_invites_an_edge_and_sees_it_join(site, command):
    site.sign_in()
    home = ("--home", str(site.home))
    assert command("user", "add", "ada", "--role", "admin", *home).returncode == 0
    made = command("token", "new", "fleet", "--person", "ada", *_scopes("read", "edges", "patients", "ingest"), "--json", *home)
    assert made.returncode == 0, made.stderr
    token = json.loads(made.stdout)
    with contextlib.closing(ConsentRegister(site.home / "consent.sqlite")) as consents:  # as an edge has told it
        consents.apply([ConsentRecord(ANNA, "*", Consent.RAW, 1)], "icu-z")
    root = f"http://127.0.0.1:{site.start_hub()['console_port']}"
    url = f"{root}/api/v1"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token['token']}"}, timeout=60) as client:
        assert client.get("/edges").json()["items"] == []
        invitation = client.post("/edges/icu-z/invitation").json()
        joined = command("edge", "join", "-", "--home", str(site.folder / "icu-z"), stdin=invitation["token"])
        assert joined.returncode == 0, joined.stderr
        (edge,) = client.get("/edges").json()["items"]
        assert edge["name"] == "icu-z"
        with client.stream("GET", "/events") as stream:
            kinds = [line for line in _first(stream.iter_lines(), 3) if line.startswith("event: ")]
        assert kinds
        bundle = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": [ENTRY]})
        for status in ("201 Created", "200 OK"):
            answer = client.post(f"{root}/fhir", content=bundle, headers={"Content-Type": "application/fhir+json"})
            assert answer.status_code == 200, answer.text
            assert [entry["response"]["status"] for entry in answer.json()["entry"]] == [status]
        until = time.monotonic() + 120
        while not (found := client.get(f"{root}/fhir/Observation", params={"patient": ANNA})).json().get("entry"):
            assert time.monotonic() < until, found.text  # it is in the inbox first, and then in the lake
            time.sleep(0.2)
        (shown,) = found.json()["entry"]
        assert answer.json()["entry"][0]["response"]["location"] == f"Observation/{shown['resource']['id']}"
        listed = command("token", "list", *home)
        assert "never" not in listed.stdout
        assert token["token"] not in listed.stdout
        assert command("token", "revoke", token["id"], *home).returncode == 0
        assert client.get("/edges").status_code == 401
    shown = command("audit", "show", "--home", str(site.home), "--json").stdout
    whats = [entry["what"] for entry in json.loads(shown)]
    assert ANNA not in shown
    assert {
        "wardround token new",
        "edge invited",
        "wardround token revoke",
        "token refused",
        "observations brought in over FHIR",
    } <= set(whats)


def _scopes(*names):
    return [word for name in names for word in ("--scope", name)]


def _first(lines, count):
    for line in lines:
        yield line
        count -= 1
        if not count:
            return
