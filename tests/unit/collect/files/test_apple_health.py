"""Apple Health exports, as XML and packed; and what pretends to be one."""

from __future__ import annotations

import contextlib
import io
import zipfile
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.collect.files import apple_health, formats
from wardround.collect.files.opened import Known, in_memory
from wardround.collect.signals import load_signals
from wardround.errors import DecodeError

KNOWN = Known(int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1_000_000)
DOCTYPE = """<!DOCTYPE HealthData [
<!-- HealthKit Export Version: 12 -->
<!ELEMENT HealthData (ExportDate,Me,(Record|Correlation|Workout)*)>
<!ATTLIST HealthData locale CDATA #REQUIRED>
]>
"""


def record(type_="HKQuantityTypeIdentifierHeartRate", value="72", unit="count/min", start="2018-09-10 02:28:55 -0700", end=""):
    return f'<Record type="{type_}" unit="{unit}" value="{value}" startDate="{start}" endDate="{end or start}" sourceName="W"/>'


def export(*parts, doctype=DOCTYPE):
    body = "".join(parts)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{doctype}<HealthData locale="en_US">{body}</HealthData>\n'.encode()


def packed(data, name="apple_health_export/export.xml"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("apple_health_export/export_cda.xml", "<ClinicalDocument/>")
        archive.writestr(name, data)
    return out.getvalue()


def read(data):
    return list(formats.read(in_memory(data), KNOWN))


def canonical(data):
    return [load_signals().canonical(item) for item in read(data)]


def reason(data):
    try:
        items = read(data)
    except DecodeError as error:
        return error.reason
    return ",".join(i.reason for i in items if isinstance(i, DecodeError))


@pytest.mark.parametrize("pack", [lambda d: d, packed, lambda d: packed(d, "apple_health_export/exportación.xml")])
def test_a_record_becomes_an_observation(pack):
    [(signal, reading)] = canonical(pack(export(record())))
    assert (signal.key, reading.value, reading.unit) == ("heart-rate", 72.0, "/min")
    assert reading.t_us == int(datetime(2018, 9, 10, 9, 28, 55, tzinfo=UTC).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("type_", "value", "unit", "key", "expected"),
    [
        ("OxygenSaturation", "0.97", "%", "spo2", 97.0),
        ("BodyFatPercentage", "0.185", "%", "body-fat", 18.5),
        ("BodyMass", "150", "lb", "body-weight", 68.0388555),
        ("Height", "5.9", "ft", "body-height", 179.832),
        ("BodyTemperature", "98.6", "degF", "body-temperature", 37.0),
        ("BloodGlucose", "5.5", "mmol&lt;180.1558800000541&gt;/L", "glucose", 99.0858),
        ("BloodPressureSystolic", "120", "mmHg", "systolic", 120.0),
        ("HeartRateVariabilitySDNN", "45.2", "ms", "hrv-sdnn", 45.2),
        ("StepCount", "12", "count", "steps", 12.0),
        ("ActiveEnergyBurned", "4.184", "kJ", "active-energy", 1.0),
        ("BodyMassIndex", "22.5", "count", "body-mass-index", 22.5),
    ],
)
def test_units_of_an_export(type_, value, unit, key, expected):
    [(signal, reading)] = canonical(export(record("HKQuantityTypeIdentifier" + type_, value, unit)))
    assert signal.key == key
    assert reading.value == pytest.approx(expected, rel=1e-9)


def test_sleep_is_a_word():
    type_ = "HKCategoryTypeIdentifierSleepAnalysis"
    [(signal, reading)] = canonical(export(record(type_, "HKCategoryValueSleepAnalysisAsleepREM", "")))
    assert (signal.key, reading.text) == ("sleep-stage", "R")


def test_a_record_of_a_correlation_is_taken_once():
    inner = record("HKQuantityTypeIdentifierBloodPressureSystolic", "120", "mmHg")
    assert len(canonical(export(inner, f'<Correlation type="x">{inner}</Correlation>'))) == 1


def test_a_doctype_that_does_not_hold_is_no_hindrance():
    broken = "<!DOCTYPE HealthData [\n<!ATTLIST Record\n  startDate CDATA #REQUIRED\n>\n<!ATTLIST broken CDATA>\n]>\n"
    assert len(canonical(export(record(), doctype=broken))) == 1


LAUGHS = '<!DOCTYPE HealthData [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>\n'
OUTSIDE = '<!DOCTYPE HealthData [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n'


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (export(record(), doctype=LAUGHS), "entities"),
        (export(record(), doctype=OUTSIDE), "entities"),
        (export(record(), doctype=LAUGHS).decode().replace("UTF-8", "UTF-16").encode("utf-16"), "unknown-format"),
        (export(record())[:-20], "truncated"),
        (export(record()).replace(b"<Record", b"<Rec&ord"), "malformed-xml"),
        (export(record()).replace(b"UTF-8", b"UTF-4"), "malformed-xml"),
        (export(record()).replace(b"UTF-8", b"shift_jis"), "malformed-xml"),
        (export("<a>" * 50 + "</a>" * 50), "malformed-xml"),
        (export(record(value="9" * 2_000_000)), "too-large"),
        (export(record(value="72bpm")), "no-value"),
        (export(record(value="nan")), "no-value"),
        (export(record(start="2018-02-30 02:28:55 -0700")), "time"),
        (export(record(start="2018-09-10 02:28:55")), "time"),
        (export(record(end="2018-09-10 02:28:54 -0700")), "time"),
        (export(record("HKQuantityTypeIdentifierOxygenSaturation", "97", "%")), "percent"),
        (export(record("HKCategoryTypeIdentifierSleepAnalysis", "Snoring", "")), "no-value"),
        (export('<Workout duration="5"/>'), "summary-not-taken"),
        (export(), "no-measurements"),
        (packed(export(record()))[:-30], "malformed-zip"),
        (packed(b"<Other/>"), "format-not-read"),
        (packed(export("x" * 1_000_000)), "too-large"),
        (b'<?xml version="1.0"?><gpx/>', "format-not-read"),
        (b'<?xml version="1.0"?><svg/>', "format-not-read"),
    ],
)
def test_what_does_not_hold_is_refused_by_name(data, why):
    assert reason(data) == why


def test_a_record_that_does_not_hold_does_not_take_the_others_with_it():
    items = read(export(record(), record(value="?"), record(value="73")))
    assert [i.value for i in items if not isinstance(i, DecodeError)] == [72.0, 73.0]


GOOD = packed(export(record()))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=8), st.booleans())
def test_other_bytes_are_read_or_refused(at, other, in_xml):
    data = export(record()) if in_xml else GOOD
    at %= len(data)
    with contextlib.suppress(DecodeError):
        list(apple_health.read(in_memory(data[:at] + other + data[at + len(other) :]), KNOWN))
