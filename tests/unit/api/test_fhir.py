"""FHIR over a real lake: valid R4, found by date and code, page by page without loss, and only what consent for care shows."""

from __future__ import annotations

import contextlib
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.api.app import make_api
from wardround.api.fhir_search import parse_codes, parse_dates, parse_place, write_place
from wardround.api.problems import Refused
from wardround.desks.patients import PatientRecords
from wardround.errors import StorageFull
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.records import Consent, Observation, Purpose
from wardround.trust.consent import ConsentRegister

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fhir.resources.R4B.bundle import Bundle
    from fhir.resources.R4B.capabilitystatement import CapabilityStatement
    from fhir.resources.R4B.operationoutcome import OperationOutcome
    from fhir.resources.R4B.patient import Patient

HEART, ECG, TEMPERATURE = "loinc:8867-4", "mdc:131330", "loinc:8310-5"
T_US = 1_772_352_000_000_000  # 2026-03-01 08:00 UTC
MINUTE_US = 60_000_000
ANNA, BERT, CARA = "aaaa-aaaa", "bbbb-bbbb", "cccc-cccc"


def observation(subject, code, t_us, **more):
    facts = {"device": "patch-1", "edge": "icu-a", "unit": "/min", "device_boot": "b", "t0_device_us": 0, "consent_version": 1}
    return Observation(subject=subject, code=code, t0_us=t_us, **(facts | more))


@pytest.fixture
def ward(world, tmp_path):
    """Anna with 40 heart rates, an ECG and a temperature nobody may see; Bert, who said no to care; Cara with one."""
    rows = [observation(ANNA, HEART, T_US + n // 2 * MINUTE_US, value=60.0 + n) for n in range(40)]  # two at a time
    wave = np.arange(100, dtype="<i2").tobytes()
    rows.append(
        observation(ANNA, ECG, T_US + MINUTE_US, unit="mV", n=100, period_us=4000.0, values=wave, values_type="i2", scale=0.005)
    )
    rows.append(observation(ANNA, TEMPERATURE, T_US, unit="Cel", value=37.0))
    rows.append(observation(BERT, HEART, T_US, value=99.0))
    rows.append(observation(CARA, HEART, T_US, value=70.0, edge="home-1", device="watch"))
    lake = Lake(tmp_path / "lake")
    lake.append(BRONZE, observation_rows([(o, "b", i, T_US) for i, o in enumerate(rows)]), app="test", version=1)
    consents = ConsentRegister(tmp_path / "consent.sqlite")
    for subject in (ANNA, CARA):
        consents.set(subject, "*", Consent.RAW)
    consents.set(ANNA, TEMPERATURE, Consent.NONE)
    consents.set(BERT, "*", Consent.RAW, Purpose.TRAINING)
    records = PatientRecords(
        lake, consents, world.clock, subjects=lambda: [CARA, BERT, ANNA], record=world.desk._record
    )  # fmt: skip
    world.app = make_api(world.desk, world.store, world.desk, world.clock, patients=records)
    world.consents, world.records = consents, records
    yield world
    consents.close()


def get(world, path, token, **params):
    answer = world.call("GET", path, token, params=params or None)
    assert answer.headers["content-type"] == "application/fhir+json"
    return answer


def entries(answer):
    assert answer.status_code == 200, answer.text
    return [entry["resource"] for entry in Bundle.model_validate(answer.json()).model_dump(mode="json").get("entry") or []]


def all_pages(world, path, token, **params):
    found, url = [], path
    for _ in range(100):
        answer = get(world, url, token, **params)
        found += entries(answer)
        links = {link["relation"]: link["url"] for link in answer.json()["link"]}
        if "next" not in links:
            return found
        url, params = links["next"], {}
    raise AssertionError("it does not end")


def test_observations_come_page_by_page_each_once_and_as_valid_r4(ward):
    token = ward.token("clara", ["patients"])
    found = all_pages(ward, "/fhir/Observation", token, patient=ANNA, _count=7)
    assert len(found) == 41
    assert len({o["id"] for o in found}) == 41
    times = [o["effectiveDateTime"] for o in found]
    assert times == sorted(times)
    values = sorted(o["valueQuantity"]["value"] for o in found if o.get("valueQuantity"))
    assert [float(v) for v in values] == [60.0 + n for n in range(40)]
    (wave,) = [o["valueSampledData"] for o in found if o.get("valueSampledData")]
    assert wave["data"].split() == [str(n) for n in range(100)]
    assert all(o["subject"]["identifier"]["value"] == ANNA for o in found)


def test_a_search_narrows_by_code_and_date(ward):
    token = ward.token("clara", ["patients"])
    for asked, count in (
        ({"code": "http://loinc.org|8867-4"}, 40),
        ({"code": "131330"}, 1),
        ({"code": "urn:iso:std:iso:11073:10101|131330,8867-4"}, 41),
        ({"code": "http://loinc.org|0000-0"}, 0),
        ({"date": "2026-03-01"}, 41),
        ({"date": "2026-02"}, 0),
        ({"date": ["ge2026-03-01T08:05:00Z", "lt2026-03-01T08:07:00Z"]}, 4),
        ({"date": ["gt2026-03-01T08:18:00Z"]}, 2),
        ({"date": ["le2026-03-01T08:00:00Z"], "code": "8867-4"}, 2),
        ({"date": "ge2026-03-01T10:05:00+02:00", "code": "8867-4"}, 30),
    ):
        assert len(all_pages(ward, "/fhir/Observation", token, patient=f"Patient/{ANNA}", _count=9, **asked)) == count, asked


def test_consent_decides_who_and_what_is_shown(ward):
    token = ward.token("clara", ["patients"])
    shown = entries(get(ward, "/fhir/Patient", token))
    assert [p["id"] for p in shown] == [ANNA, CARA]
    codes = {o["code"]["coding"][0]["code"] for o in all_pages(ward, "/fhir/Observation", token, patient=ANNA)}
    assert codes == {"8867-4", "131330"}
    for path in (f"/fhir/Patient/{BERT}", f"/fhir/Observation?patient={BERT}", f"/fhir/Device?patient={BERT}"):
        answer = ward.call("GET", path, token)
        assert answer.status_code == 404
        assert OperationOutcome.model_validate(answer.json()).issue[0].code == "not-found"
    ward.consents.set(CARA, "*", Consent.NONE)
    assert [p["id"] for p in entries(get(ward, "/fhir/Patient", token))] == [ANNA]


def test_who_sees_a_patient_is_recorded_and_roles_hold(ward):
    clara, oskar, dora = ward.token("clara", ["patients"]), ward.token("oskar", ["patients"]), ward.token("dora", ["export"])
    for _ in range(3):
        get(ward, "/fhir/Observation", clara, patient=ANNA)
    assert [(kind, who) for kind, _, who, _ in ward.recorded] == [("view", "clara")]
    assert ANNA not in str(ward.recorded)
    ward.clock.advance(601)
    get(ward, "/fhir/Observation", clara, patient=ANNA)
    assert len(ward.recorded) == 2
    assert ward.call("GET", "/fhir/Patient", oskar).status_code == 403  # an operator sees no vitals
    assert ward.call("GET", f"/fhir/Patient/{ANNA}/$everything", clara).status_code == 403
    found = all_pages(ward, f"/fhir/Patient/{ANNA}/$everything", dora, _count=20)
    kinds = [r["resourceType"] for r in found]
    assert kinds[:2] == ["Patient", "Device"]
    assert kinds.count("Observation") == 41
    assert ward.recorded[-1][:3] == ("export", "observations read over FHIR", "dora")


def test_what_this_server_can_do_is_said_without_a_token_and_is_true(ward):
    answer = ward.call("GET", "/fhir/metadata")
    said = CapabilityStatement.model_validate(answer.json())
    assert said.fhirVersion == "4.0.1"
    token = ward.token("clara", ["patients"])
    for resource in said.rest[0].resource:
        params = {"_id": ANNA, "identifier": ANNA, "patient": ANNA, "subject": ANNA, "code": "8867-4", "date": "2026"}
        asked = {p.name: params[p.name] for p in resource.searchParam}
        assert get(ward, f"/fhir/{resource.type}", token, **asked).status_code == 200
    Patient.model_validate(get(ward, f"/fhir/Patient/{ANNA}", token).json())


@pytest.mark.parametrize(
    "query",
    ["", "patient=aaaa-aaaa&date=yesterday", "patient=aaaa-aaaa&date=xx2026", "patient=aaaa-aaaa&date=2026-02-30", "patient=../x",
     "patient=aaaa-aaaa&code=http://snomed.info/sct|1", "patient=aaaa-aaaa&_count=0", "patient=aaaa-aaaa&_page=AAAA",
     "patient=aaaa-aaaa&_page=WzEsMiwzLDRd", "patient=aaaa-aaaa&code=" + ",".join(["1"] * 51)],
)  # fmt: skip
def test_a_search_that_makes_no_sense_is_an_operation_outcome(ward, query):
    answer = ward.call("GET", f"/fhir/Observation?{query}", ward.token("clara", ["patients"]))
    assert answer.status_code in (400, 422), answer.text
    assert OperationOutcome.model_validate(answer.json()).issue[0].diagnostics


def test_what_cannot_be_recorded_is_not_shown(ward):
    def full(*_, **__):
        raise StorageFull("the disk is full", remedy="make room")

    ward.records._record = full
    answer = ward.call("GET", f"/fhir/Observation?patient={ANNA}", ward.token("clara", ["patients"]))
    assert answer.status_code == 503
    assert OperationOutcome.model_validate(answer.json()).issue[0].diagnostics == "the disk is full: make room"


@given(st.text(max_size=40))
def test_no_text_breaks_a_search(text):
    for parse in (lambda t: parse_dates([t]), parse_codes, lambda t: parse_place(t, (int, str))):
        with contextlib.suppress(Refused):  # and nothing else
            parse(text)


@given(st.integers(-(2**62), 2**62), st.text(max_size=100))
def test_a_place_comes_back(t_us, name):
    assert parse_place(write_place([t_us, name]), (int, str)) == [t_us, name]
