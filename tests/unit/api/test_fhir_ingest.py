"""Bundles into a real inbox and lake: an outcome for each entry, under consent, once however often they are sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import warnings

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.api.wards import ANNA, BERT, CARA, Ward, bundle, observation

from wardround.api import fhir_ingest
from wardround.collect.bundles import ENTRIES_MAX, SOURCE
from wardround.errors import DecodeError, StorageFull
from wardround.records import Consent
from wardround.trust.consent import ConsentRecord
from wardround.trust.erasures import digest_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fhir.resources.R4B.bundle import Bundle
    from fhir.resources.R4B.operationoutcome import OperationOutcome


@pytest.fixture
def ward(world, tmp_path):
    made = Ward(world, tmp_path)
    yield made
    made.close()


def statuses(outcomes):
    return [int(outcome["status"].split()[0]) for outcome in outcomes]


def issue(outcome):
    return outcome["outcome"]["issue"][0]


def refused(answer, status):
    assert answer.status_code == status, answer.text
    return OperationOutcome.model_validate(answer.json()).issue


def test_what_comes_in_is_found_read_and_exported_as_it_was_sent(ward):
    sent = [observation(60.0 + n, minute=n, device={"identifier": {"system": "urn:wardround:device", "value": "ehr-7"}})
            for n in range(5)]  # fmt: skip
    run = {"origin": {"value": 0, "system": "http://unitsofmeasure.org", "code": "mV"}, "period": 4, "factor": 0.005,
           "dimensions": 1, "data": "1 2 3 -4"}  # fmt: skip
    ecg = observation(code={"coding": [{"system": "urn:iso:std:iso:11073:10101", "code": "131330"}]}) | {"valueSampledData": run}
    del ecg["valueQuantity"]
    outcomes = ward.outcomes(bundle(*sent, ecg, kind="transaction"))
    assert statuses(outcomes) == [201] * 6
    assert [(who, subject, count) for who, subject, count in ward.records] == [("dora", ANNA, 6)]
    assert len(ward.committed) == 6
    assert all(o.imported and o.edge == SOURCE for o in ward.committed)
    assert ward.commit() == 6
    clara = ward.world.token("clara", ["patients"])
    found = ward.world.call(
        "GET", f"/fhir/Observation?patient={ANNA}&code=8867-4&date=2026-03-01&_count=3&secret=1", clara
    ).json()
    assert [entry["resource"]["valueQuantity"]["value"] for entry in found["entry"]] == [60.0, 61.0, 62.0]
    assert "secret" not in json.dumps(found["link"])
    for outcome, resource in zip(outcomes, [*sent, ecg], strict=True):
        read = ward.world.call("GET", f"/fhir/{outcome['location']}", clara).json()
        assert read["id"] == outcome["location"].removeprefix("Observation/")
        assert read["subject"]["reference"] == f"Patient/{ANNA}"
        for part in set(resource) & {"valueQuantity", "valueSampledData"}:
            assert read[part].items() >= {k: v for k, v in resource[part].items() if k not in ("origin", "period")}.items()
    assert f"http://hub/fhir/{outcomes[0]['location']}" in [entry["fullUrl"] for entry in found["entry"]]
    everything = ward.world.call("GET", f"/fhir/Patient/{ANNA}/$everything", ward.world.token("dora", ["export"])).json()
    kinds = [entry["resource"]["resourceType"] for entry in Bundle.model_validate(everything).model_dump()["entry"]]
    assert kinds == ["Patient", "Device", "Device", *["Observation"] * 6]
    ward.consents.apply([ConsentRecord(ANNA, "*", Consent.NONE, 2)], "icu-a")
    assert ward.world.call("GET", f"/fhir/{outcomes[0]['location']}", clara).status_code == 404


def test_a_bundle_that_is_sent_again_changes_nothing(ward):
    named = {"identifier": [{"system": "urn:lab", "value": "6323"}]}
    first = bundle(observation(60.0), observation(61.0, **named))
    before = ward.outcomes(first)
    for restarted in (False, True):
        if restarted:
            ward.commit()
            ward.reopen()
        again = ward.outcomes(first)
        assert statuses(again) == [200, 200]
        assert [o["location"] for o in again] == [o["location"] for o in before]
        assert issue(again[0])["diagnostics"] == "it was here before"
    assert ward.inbox.waiting() == 0
    assert len(ward.committed) == 2
    assert len(ward.records) == 1
    (changed,) = ward.outcomes(bundle(observation(99.0, **named)))
    assert (changed["status"][:3], issue(changed)["code"]) == ("409", "conflict")
    twice = ward.outcomes(bundle(observation(70.0, minute=9), observation(70.0, minute=9)))
    assert statuses(twice) == [201, 200]


def test_each_entry_of_a_batch_has_its_own_outcome(ward):
    odd = [
        ({"status": "entered-in-error"}, 422, "processing"),
        ({"code": {"coding": [{"system": "http://loinc.org", "code": "0-0"}]}}, 422, "code-invalid"),
        ({"valueQuantity": {"value": 61, "unit": "beats"}}, 422, "value"),
        ({"valueQuantity": {"value": 61, "comparator": ">", "system": "http://unitsofmeasure.org", "code": "/min"}}, 422,
         "processing"),
        ({"effectiveDateTime": "2126-03-01T08:00:00Z"}, 422, "processing"),
        ({"subject": {"reference": "Patient/Anna Müller"}}, 422, "processing"),
        ({"subject": {"display": "Anna"}}, 422, "processing"),
        ({"subject": {"reference": f"Patient/{BERT}"}}, 403, "forbidden"),
        ({"subject": {"reference": f"Patient/{CARA}"}}, 403, "forbidden"),
        ({"component": 5}, 400, "structure"),
        ({"resourceType": "Encounter"}, 404, "not-supported"),
    ]  # fmt: skip
    outcomes = ward.outcomes(
        bundle(observation(1.0 + 60), *(observation(minute=1) | more for more, _, _ in odd), observation(62.0))
    )
    assert statuses(outcomes) == [201, *(status for _, status, _ in odd), 201]
    assert [issue(o)["code"] for o in outcomes[1:-1]] == [code for _, _, code in odd]
    assert all(issue(o)["severity"] == "error" for o in outcomes[1:-1])
    assert ward.inbox.waiting() == 2


def test_of_a_transaction_nothing_is_kept_when_one_entry_is_refused(ward):
    sent = bundle(observation(60.0), observation(61.0, subject=BERT), observation(62.0, status="cancelled"), kind="transaction")
    issues = refused(ward.send(sent), 422)
    assert [i.expression for i in issues] == [["Bundle.entry[1]"], ["Bundle.entry[2]"]]
    refused(ward.send(bundle(observation(61.0, subject=BERT), kind="transaction")), 403)
    refused(ward.send(bundle({"resourceType": "Encounter"}, kind="transaction")), 422)  # there is such a route all the same
    assert (ward.inbox.waiting(), ward.committed, ward.records) == (0, [], [])
    assert statuses(ward.outcomes(bundle(observation(60.0), kind="transaction"))) == [201]  # it was not remembered either


def test_only_what_creates_is_done(ward):
    entry = {"resource": observation(), "request": {"method": "POST", "url": "Observation"}}
    for request, status in (
        ({"method": "PUT", "url": "Observation/1"}, 405),
        ({"method": "POST", "url": "Patient"}, 405),
        ({"method": "POST", "url": "Observation", "ifNoneExist": "code=1"}, 405),
        ({}, 405),
    ):
        sent = {"resourceType": "Bundle", "type": "batch", "entry": [entry | {"request": request}]}
        assert statuses(ward.outcomes(sent)) == [status], request
    sent = {"resourceType": "Bundle", "type": "batch", "entry": [{"request": {"method": "DELETE", "url": f"Patient/{ANNA}"}}]}
    assert statuses(ward.outcomes(sent)) == [405]
    once = {"resource": observation(identifier=[{"system": "s", "value": "1"}]),
            "request": {"method": "POST", "url": "Observation", "ifNoneExist": "identifier=s|1"}}  # fmt: skip
    assert statuses(ward.outcomes({"resourceType": "Bundle", "type": "batch", "entry": [once]})) == [201]


def test_a_bundle_may_name_patient_and_device_by_its_own_addresses(ward):
    patient = {"resourceType": "Patient", "identifier": [{"system": "urn:wardround:subject", "value": ANNA}]}
    device = {"resourceType": "Device", "identifier": [{"system": "urn:wardround:device", "value": "patch-1"}]}
    sent = bundle(
        patient, device, observation() | {"subject": {"reference": "urn:uuid:p"}, "device": {"reference": "urn:uuid:d"}}
    )
    for entry, address in zip(sent["entry"], ("urn:uuid:p", "urn:uuid:d", "urn:uuid:o"), strict=True):
        entry["fullUrl"] = address
    assert statuses(ward.outcomes(sent)) == [200, 200, 201]
    assert [(o.subject, o.device) for o in ward.committed] == [(ANNA, "patch-1")]
    (named,) = ward.outcomes(bundle(patient | {"name": [{"family": "Chalmers"}]}))
    assert (named["status"][:3], issue(named)["code"]) == ("422", "business-rule")
    assert "Chalmers" not in json.dumps(named)


def test_parts_of_an_observation_come_together_or_not_at_all(ward):
    def part(code, value):
        quantity = {"value": value, "system": "http://unitsofmeasure.org", "code": "mm[Hg]"}
        return {"code": {"coding": [{"system": "http://loinc.org", "code": code}]}, "valueQuantity": quantity}

    pressure = observation(code={"coding": [{"system": "http://loinc.org", "code": "85354-9"}]})
    del pressure["valueQuantity"]
    absent = {"code": part("8478-0", 0)["code"], "dataAbsentReason": {"coding": [{"code": "not-performed"}]}}
    whole = pressure | {"component": [part("8480-6", 120), part("8462-4", 80), absent]}
    (taken,) = ward.outcomes(bundle(whole))
    assert taken["status"] == "201 Created"
    assert issue(taken)["diagnostics"] == "without 1 parts that say why they have no value"
    assert [(o.code, o.value, o.device_index) for o in ward.committed] == [("loinc:8480-6", 120.0, 0), ("loinc:8462-4", 80.0, 1)]
    (half,) = ward.outcomes(bundle(pressure | {"component": [part("8480-6", 121), part("0-0", 80)]}))
    ward.consents.apply([ConsentRecord(ANNA, "loinc:8462-4", Consent.NONE, 2)], "icu-a")
    (forbidden,) = ward.outcomes(bundle(pressure | {"component": [part("8480-6", 122), part("8462-4", 81)]}))
    assert statuses([half, forbidden]) == [422, 403]
    assert len(ward.committed) == 2


def test_the_strictest_edge_decides_and_an_erased_patient_does_not_come_back(ward):
    ward.consents.apply([ConsentRecord(ANNA, "*", Consent.NONE, 1)], "home-1")
    assert statuses(ward.outcomes(bundle(observation()))) == [403]
    ward.consents.apply([ConsentRecord(ANNA, "*", Consent.RAW, 2)], "home-1")
    assert statuses(ward.outcomes(bundle(observation()))) == [201]
    ward.consents.erase(digest_of(ANNA))
    assert ward.inbox.forget(ANNA) == 1
    assert ward.inbox._db.execute("SELECT count(*) FROM named").fetchone() == (0,)
    assert statuses(ward.outcomes(bundle(observation()))) == [403]
    assert ward.inbox.waiting() == 0


def test_what_cannot_be_kept_or_recorded_is_not_said_to_be(ward, monkeypatch):
    def full(*_, **__):
        raise StorageFull("the disk is full", remedy="make room")

    for place, name in ((ward.inbox, "put"), (ward.intake, "_record")):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, full)
            assert refused(ward.send(bundle(observation())), 503)[0].code == "transient"
        assert (ward.inbox.waiting(), ward.committed) == (0, [])
        ward.records.clear()
    assert statuses(ward.outcomes(bundle(observation()))) == [201]


def test_two_who_send_the_same_at_once_bring_it_once(ward):
    sent = json.dumps(bundle(*(observation(60.0 + n, minute=n) for n in range(20)))).encode()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ward.intake.take(sent, "dora"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ward.commit() == 20
    assert sorted(sum(o.status == 201 for o in answer.outcomes) for answer in answers) == [0, 0, 0, 20]
    assert len({tuple(o.location for o in answer.outcomes) for answer in answers}) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 422),
        (b'{"resourceType": "Observation"}', 422),
        (b'{"resourceType": "Bundle", "type": "collection"}', 422),
        (b'{"resourceType": "Bundle", "type": "batch", "implicitRules": "x"}', 422),
        (b'{"resourceType": "Bundle", "type": "batch", "entry": 1}', 400),
        (json.dumps(bundle(*[observation()] * (ENTRIES_MAX + 1))).encode(), 413),
        (b"[" * 100_000, 400),
    ],
)
def test_a_body_that_is_no_bundle_is_an_operation_outcome(ward, body, status):
    refused(ward.send({}, content=body), status)
    assert ward.inbox.waiting() == 0


def test_another_content_type_is_refused(ward):
    refused(ward.send(bundle(observation()), headers={"Content-Type": "text/xml"}), 415)
    assert ward.send(bundle(observation()), headers={"Content-Type": "application/json; charset=utf-8"}).status_code == 200


def test_a_large_body_is_read_from_those_alone_who_may_bring_one(ward):
    read = []

    async def body():
        read.append(True)
        yield b" " * (fhir_ingest.BODY_MAX + 1)

    async def posted(token):
        transport = httpx.ASGITransport(app=ward.world.app)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(transport=transport, base_url="http://hub") as client:
            return await client.post("/fhir", content=body(), headers=headers)

    for token, status in (("", 401), (ward.world.token("clara", ["ingest", "patients"]), 403)):
        refused(asyncio.run(posted(token)), status)
    assert read == []
    refused(asyncio.run(posted(ward.world.token("dora", ["ingest"]))), 413)
    ward.world.app._large = fhir_ingest.AT_ONCE
    answer = asyncio.run(posted(ward.world.token("dora", ["ingest"])))
    assert refused(answer, 503)
    assert answer.headers["retry-after"] == "1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*observation(), "x"]), inner, max_size=4),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.dictionaries(st.sampled_from([*observation(), "device", "identifier", "component"]), JSON, max_size=3))
def test_no_entry_breaks_the_intake(ward, changed):
    entry = {"fullUrl": "urn:x", "resource": observation() | changed, "request": {"method": "POST", "url": "Observation"}}
    body = json.dumps({"resourceType": "Bundle", "type": "batch", "entry": [entry]}).encode()
    with contextlib.suppress(DecodeError):  # JSON that is none: NaN
        assert len(ward.intake.take(body, "dora").outcomes) == 1


def test_official_examples_have_the_outcome_that_an_edge_would_give_them(ward, shared_data):
    folder = shared_data / "formats" / "fhir_r4"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    for subject in ("example", "f"):
        ward.consents.apply([ConsentRecord(subject, "*", Consent.RAW, 1)], "icu-a")
    examples = {path.stem: json.loads(path.read_bytes()) for path in sorted(folder.glob("Observation-*.json"))}
    for example in examples.values():
        example["subject"] = {"reference": example["subject"]["reference"].replace("f001", "f")}  # no pseudonym has a 0
    outcomes = dict(zip(examples, statuses(ward.outcomes(bundle(*examples.values()))), strict=True))
    refused_ones = {name for name, status in outcomes.items() if status != 201}
    assert refused_ones == {"Observation-ekg", "Observation-vitals-panel"}, outcomes  # no UCUM unit; no value
    assert statuses(ward.outcomes(bundle(*examples.values()))).count(200) == len(examples) - 2
    transaction = json.loads((folder / "Bundle-bundle-transaction.json").read_bytes())
    before = ward.inbox.waiting()
    issues = refused(ward.send(transaction), 422)
    assert ward.inbox.waiting() == before
    assert {i.code for i in issues} >= {"business-rule", "not-supported"}
    assert "Chalmers" not in ward.send(transaction).text
