"""FHIR, against HL7's own examples, the specifications' rules and rubbish; and back out without loss."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.collect.devices import fhir
from wardround.collect.devices.fhir_export import resources
from wardround.errors import DecodeError
from wardround.records import Observation, Quality, Validity

UCUM = "http://unitsofmeasure.org"


def observation(**fields):
    found = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "effectiveDateTime": "2026-03-01T08:30:00.25+01:00",
        "valueQuantity": {"value": 72, "system": UCUM, "code": "/min"},
    }
    return {k: v for k, v in (found | fields).items() if v is not None}


def read(resource):
    return fhir.decode(json.dumps(resource).encode())


def reason(resource):
    try:
        found = read(resource)
    except DecodeError as error:
        return error.reason
    assert not found.readings
    return ",".join(e.reason for e in found.refused)


def run(**fields):
    sampled = {"origin": {"value": 2048, "system": UCUM, "code": "uV"}, "period": 4, "factor": 1.612, "dimensions": 1}
    return observation(valueQuantity=None, valueSampledData=sampled | {"data": "1 2 3"} | fields)


def test_a_number_its_unit_and_its_time():
    [reading] = read(observation()).readings
    assert (reading.name, reading.value, reading.unit) == ("loinc:8867-4", 72.0, "/min")
    assert reading.t_us == int(datetime(2026, 3, 1, 7, 30, tzinfo=UTC).timestamp()) * 1_000_000 + 250_000


@pytest.mark.parametrize(
    ("text", "t_us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.5Z", -500_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
        ("2026-01-01T00:00:00.1234567-05:00", 1_767_243_600_123_456),
    ],
)
def test_instants(text, t_us):
    assert fhir.instant(text) == (t_us, 0)


def test_a_date_alone_leaves_more_than_a_day_open():
    [reading] = read(observation(effectiveDateTime="1999-07-02")).readings
    assert reading.t_error_us == 26 * 3_600_000_000
    assert Quality.CLOCK_UNSYNCED in Quality(reading.flags)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"status": "entered-in-error"}, "status"),
        ({"status": "cancelled"}, "status"),
        ({"status": "registered"}, "status"),
        ({"status": "bogus"}, "status"),
        ({"status": None}, "status"),
        ({"effectiveDateTime": "2026-03-01T08:30:00"}, "no-time-zone"),
        ({"effectiveDateTime": "2026-03"}, "time"),
        ({"effectiveDateTime": "2026-02-30T00:00:00Z"}, "time"),
        ({"effectiveDateTime": None}, "no-time"),
        ({"effectiveDateTime": None, "effectiveTiming": {"event": ["2026"]}}, "time"),
        ({"valueQuantity": {"value": 100, "comparator": ">", "system": UCUM, "code": "/min"}}, "comparator"),
        ({"valueQuantity": {"value": 72, "unit": "beats"}}, "unit-not-ucum"),
        ({"valueQuantity": {"system": UCUM, "code": "/min"}}, "no-value"),
        ({"valueQuantity": {"value": 1e400, "system": UCUM, "code": "/min"}}, "malformed-fhir"),
        ({"valueQuantity": None}, "no-value"),
        ({"valueQuantity": None, "valueRange": {}}, "value-type"),
        ({"valueQuantity": None, "dataAbsentReason": {"coding": [{"code": "error"}]}}, "data-absent"),
        ({"modifierExtension": [{"url": "x"}]}, "must-understand"),
        ({"implicitRules": "http://x"}, "must-understand"),
        ({"code": {"coding": [{"system": "http://snomed.info/sct", "code": "1"}]}}, "unknown-code"),
        ({"resourceType": "Patient"}, "resource-type"),
        ({"valueQuantity": "72"}, "malformed-fhir"),
    ],
)
def test_what_is_no_number_is_refused_by_name(fields, why):
    assert reason(observation(**fields)) == why


@pytest.mark.parametrize(("status", "validity"), [("preliminary", Validity.ONGOING), ("unknown", Validity.QUESTIONABLE)])
def test_a_status_is_a_validity(status, validity):
    assert read(observation(status=status)).readings[0].validity == validity


def test_the_device_nomenclature_goes_before_a_coarser_code():
    codes = [
        {"system": "http://loinc.org", "code": "8867-4"},
        {"system": "urn:iso:std:iso:11073:10101", "code": "149530"},
    ]
    [reading] = read(observation(code={"coding": codes})).readings
    assert (reading.name, reading.also) == ("mdc:149530", ("loinc:8867-4",))


def test_components_are_readings_and_one_that_is_absent_spoils_no_other():
    def part(code, **value):
        return {"code": {"coding": [{"system": "http://loinc.org", "code": code}]}} | value

    systolic = part("8480-6", valueQuantity={"value": 107, "system": UCUM, "code": "mm[Hg]"})
    diastolic = part("8462-4", dataAbsentReason={"coding": [{"code": "not-performed"}]})
    found = read(observation(valueQuantity=None, component=[systolic, diastolic]))
    assert [(r.name, r.value) for r in found.readings] == [("loinc:8480-6", 107.0)]
    assert [(e.reason, str(e)) for e in found.refused] == [("data-absent", "Observation.component[1]: not-performed")]


def test_samples_stay_on_the_devices_grid():
    [reading] = read(run()).readings
    assert (reading.n, reading.period_us, reading.scale, reading.origin, reading.unit) == (3, 4000.0, 1.612, 2048.0, "uV")
    assert np.frombuffer(reading.values, "<" + reading.values_type).tolist() == [1, 2, 3]


def test_decimal_samples_and_the_interval_of_r5():
    [reading] = read(run(period=None, interval=0.5, intervalUnit="s", factor=None, data="1.25 -2.5")).readings
    assert reading.period_us == 500_000.0
    np.testing.assert_allclose(
        reading.origin + reading.scale * np.frombuffer(reading.values, "<" + reading.values_type), [2049.25, 2045.5]
    )


def test_samples_that_are_no_numbers_cut_the_run():
    first, second = read(run(data="E 1 2 U U 3")).readings
    start = read(observation()).readings[0].t_us
    assert (first.t_us, first.n, second.t_us, second.n) == (start + 4_000, 2, start + 20_000, 1)
    assert Quality(first.flags) == Quality.GAP_BEFORE | Quality.SATURATED
    assert Quality(second.flags) == Quality.GAP_BEFORE | Quality.SATURATED


def test_irregular_samples_of_r5():
    [reading] = read(run(period=None, intervalUnit="ms", offsets="0 10 25.5")).readings
    assert np.frombuffer(reading.offsets_us, "<i4").tolist() == [0, 10_000, 25_500]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"dimensions": 2}, "dimensions"),
        ({"codeMap": "http://map"}, "code-map"),
        ({"data": "1 x 3"}, "malformed-run"),
        ({"data": ""}, "malformed-run"),
        ({"data": "E E L"}, "data-absent"),
        ({"factor": 0}, "malformed-run"),
        ({"period": None}, "malformed-run"),
        ({"period": 0}, "malformed-run"),
        ({"period": None, "intervalUnit": "ms", "offsets": "0 1"}, "malformed-run"),
        ({"data": "1e400 1"}, "not-finite"),
        ({"data": "9999999999 1"}, "out-of-range"),
        ({"origin": {"value": 2048}}, "unit-not-ucum"),
    ],
)
def test_runs_that_are_refused(fields, why):
    assert reason(run(**fields)) == why


def bundle(*resources_, type_="transaction"):
    return {"resourceType": "Bundle", "type": type_, "entry": [{"resource": r} for r in resources_]}


def test_a_bundle_is_judged_entry_by_entry():
    patient, cancelled = {"resourceType": "Patient"}, observation(status="cancelled")
    found = read(bundle(observation(), patient, cancelled, observation(valueQuantity=7)))
    assert [r.value for r in found.readings] == [72.0]
    assert [e.reason for e in found.refused] == ["status", "malformed-fhir"]
    assert str(found.refused[0]).startswith("entry[2]")


def test_a_bundle_of_two_patients_is_refused_whole():
    two = [observation(subject={"reference": f"Patient/{n}"}) for n in (1, 2)]
    assert reason(bundle(*two)) == "several-subjects"
    assert reason(bundle(observation(), type_="transaction-response")) == "bundle-type"


@pytest.mark.parametrize("payload", [b"", b"[", b"{}", b"[]", b"[" * 100_000, b'{"resourceType": 3}', b"\xff\xfe", b"null"])
def test_rubbish(payload):
    with pytest.raises(DecodeError):
        fhir.decode(payload)


def test_hl7s_examples(shared_data):
    folder = shared_data / "formats" / "fhir_r4"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    found = {p.stem: _outcome(p.read_bytes()) for p in sorted(folder.glob("*.json"))}
    assert found["Observation-heart-rate"] == [("loinc:8867-4", 44.0, "/min")]
    assert found["Observation-body-temperature"] == [("loinc:8310-5", 36.5, "Cel")]
    assert found["Observation-respiratory-rate"] == [("loinc:9279-1", 26.0, "/min")]
    assert found["Observation-f001"] == [("loinc:15074-8", 6.3, "mmol/L")]
    assert found["Observation-example"][0] == ("loinc:29463-7", 185.0, "[lb_av]")
    assert found["Observation-blood-pressure"] == [("loinc:8480-6", 107.0, "mm[Hg]"), ("loinc:8462-4", 60.0, "mm[Hg]")]
    assert found["Observation-mbp"] == [("loinc:8478-0", 80.0, "mm[Hg]")]
    assert found["Observation-vitals-panel"] == ["no-value"]
    assert found["Observation-ekg"] == ["unit-not-ucum"] * 3  # its SampledData does not say in what unit
    assert found["Patient-example"] == ["resource-type"]
    assert found["Bundle-bundle-response"] == ["bundle-type"]
    assert found["Bundle-bundle-transaction"] == []


def _outcome(payload):
    try:
        decoded = fhir.decode(payload)
    except DecodeError as error:
        return [error.reason]
    return [(r.name, r.value, r.unit) for r in decoded.readings] + [e.reason for e in decoded.refused]


numbers = st.floats(-1e12, 1e12, allow_subnormal=False)
COMMON = {"subject": "s", "device": "d", "edge": "e", "code": "loinc:8867-4", "unit": "/min", "t0_device_us": 0}


@st.composite
def observations(draw):
    t0 = draw(st.integers(0, 4_000_000_000_000_000))
    kind = draw(st.sampled_from(["scalar", "regular", "irregular"]))
    if kind == "scalar":
        return Observation(**COMMON, t0_us=t0, value=draw(numbers))
    counts = np.array(draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=8)), "<i4")
    run_ = {"n": len(counts), "values": counts.tobytes(), "values_type": "i4"}
    run_ |= {"scale": draw(st.floats(1e-6, 1e3)), "origin": draw(numbers)}
    if kind == "regular":
        return Observation(**COMMON, t0_us=t0, period_us=draw(st.floats(1.0, 86_400e6)), **run_)
    steps = draw(st.lists(st.integers(0, 10**8), min_size=len(counts), max_size=len(counts)))
    offsets = np.cumsum([0, *steps[1:]]).astype("<i4")
    return Observation(**COMMON, t0_us=t0, offsets_us=offsets.tobytes(), **run_)


@given(observations(), st.sampled_from(["R4", "R5"]))
@settings(deadline=None)
def test_what_goes_out_comes_back_to_the_last_bit(original, release):
    times, samples = [], []
    for resource in resources(original, release):
        [reading] = fhir.decode(msgspec.json.encode(resource)).readings
        back = Observation(
            **COMMON,
            t0_us=reading.t_us,
            **{
                f: getattr(reading, f)
                for f in ("n", "period_us", "offsets_us", "value", "values", "values_type", "scale", "origin")
            },
        )
        times += back.times_us().tolist()
        samples += back.samples().tolist()
    assert samples == original.samples().tolist()
    assert times == original.times_us().tolist()


def test_an_invalid_number_does_not_travel_as_one():
    [resource] = resources(Observation(**COMMON, t0_us=0, value=3.0, validity=int(Validity.INVALID)))
    assert "valueQuantity" not in resource
    assert reason(resource) == "data-absent"
