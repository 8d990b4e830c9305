"""SenML, against the examples of RFC 8428 and against rubbish."""

from __future__ import annotations

import contextlib
import json

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import LABELS, RECORDS_MAX, decode_pack, encode_pack
from wardround.errors import DecodeError, WardroundError

NOW = 1_700_000_000_000_000
NUMBERS = {name: number for number, name in LABELS.items()}


def decode(records, form="json"):
    if form == "json":
        return decode_pack(json.dumps(records).encode(), now_us=NOW)
    return decode_pack(cbor2.dumps([{NUMBERS.get(k, k): v for k, v in r.items()} for r in records]), now_us=NOW)


@pytest.mark.parametrize("form", ["json", "cbor"])
def test_rfc_8428_5_1_1_single_datapoint(form):
    [reading] = decode([{"n": "urn:dev:ow:10e2073a01080063", "u": "Cel", "v": 23.1}], form)
    assert (reading.name, reading.unit, reading.value, reading.t_us) == ("urn:dev:ow:10e2073a01080063", "Cel", 23.1, NOW)


@pytest.mark.parametrize("form", ["json", "cbor"])
def test_rfc_8428_5_1_2_base_fields_and_relative_times(form):
    pack = [
        {
            "bn": "urn:dev:ow:10e2073a0108006:",
            "bt": 1.276020076001e09,
            "bu": "A",
            "bver": 5,
            "n": "voltage",
            "u": "V",
            "v": 120.1,
        },
        {"n": "current", "t": -5, "v": 1.2},
        {"n": "current", "t": -4, "v": 1.3},
        {"n": "current", "t": -3, "v": 1.4},
        {"n": "current", "t": -2, "v": 1.5},
        {"n": "current", "t": -1, "v": 1.6},
        {"n": "current", "v": 1.7},
    ]
    voltage, current = decode(pack, form)
    assert (voltage.name, voltage.unit, voltage.value, voltage.t_us) == ("voltage", "V", 120.1, 1276020076001000)
    assert (current.unit, current.n, current.period_us) == ("A", 6, 1e6)
    assert current.t_us == 1276020071001000
    counts = np.frombuffer(current.values, "<i4")
    np.testing.assert_allclose(current.origin + counts * current.scale, [1.2, 1.3, 1.4, 1.5, 1.6, 1.7], atol=1e-12)


def test_rfc_8428_4_5_3_times_below_2_to_28_are_relative_to_now():
    [reading] = decode([{"n": "heart-rate", "u": "/min", "t": -2.5, "v": 60}])
    assert reading.t_us == NOW - 2_500_000


def test_a_run_travels_as_one_record():
    values = np.arange(-50, 50, dtype="<i2")
    sent = Reading(name="ecg-ii", unit="mV", t_us=NOW, n=100, period_us=4000.0, values=values.tobytes(), scale=0.005, origin=0.1)
    for form in ("json", "cbor"):
        [got] = decode_pack(encode_pack([sent], base_name="urn:dev:wr:x:", form=form), now_us=0)
        assert got == sent


def test_readings_far_apart_in_time_are_runs_of_their_own_so_that_one_wrong_clock_spoils_no_other():
    at = NOW / 1e6
    pack = [{"n": "spo2", "u": "%", "v": 97, "t": at + t} for t in (0, 1, 2, 365 * 86_400)]
    assert [(r.n, r.value) for r in decode(pack)] == [(3, None), (1, 97.0)]


BAD = {
    "nothing": b"",
    "not json": b"[{",
    "not an array": b'{"n":"a","v":1}',
    "no records": b"[]",
    "a record that is no map": b"[1]",
    "no name": b'[{"v":1}]',
    "no value": b'[{"n":"a"}]',
    "a sum alone": b'[{"n":"a","s":1}]',
    "two values": b'[{"n":"a","v":1,"vs":"x"}]',
    "a value that is no number": b'[{"n":"a","v":"1"}]',
    "a truth as number": b'[{"n":"a","v":true}]',
    "a version that is not known": b'[{"bver":11,"n":"a","v":1}]',
    "a label that must be understood": b'[{"n":"a","v":1,"secret_":1}]',
    "bytes after the pack": cbor2.dumps([{0: "a", 2: 1.0}]) + b"\x00",
    "infinity": cbor2.dumps([{0: "a", 2: float("inf")}]),
    "NaN": cbor2.dumps([{0: "a", 2: float("nan")}]),
    "half a run": b'[{"n":"a","vd":"AA","type_":"i2","period_":0.1}]',
    "a run without its type": b'[{"n":"a","vd":"AAAA","period_":0.1}]',
    "a run without times": b'[{"n":"a","vd":"AAAAAAAA","type_":"i2"}]',
    "a run that is no base64": b'[{"n":"a","vd":"%%%%","type_":"i2","period_":0.1}]',
    "a scale of zero": b'[{"n":"a","vd":"AAAAAAAA","type_":"i2","period_":0.1,"scale_":0}]',
    "a time beyond any range": b'[{"n":"a","v":1,"t":1e15}]',
    "too many records": json.dumps([{"n": "a", "v": 1}] * (RECORDS_MAX + 1)).encode(),
    "deep nesting": b"[" * 10_000 + b"]" * 10_000,
    "random": bytes(range(256)),
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD)
def test_what_is_malformed_gets_a_reason(payload):
    with pytest.raises(DecodeError) as refused:
        decode_pack(payload, now_us=NOW)
    assert refused.value.reason
    assert str(refused.value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail_in_another_way(payload):
    with contextlib.suppress(WardroundError):
        decode_pack(payload, now_us=NOW)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["heart-rate", "spo2"]), st.integers(0, 10**6), st.integers(-(10**6), 10**6)),
        min_size=1,
        max_size=30,
        unique_by=lambda r: r[:2],
    )
)
def test_decimals_come_back_exactly(points):
    readings = [Reading(name=n, unit="1", t_us=NOW + t * 1000, value=v / 1000) for n, t, v in points]
    got = decode_pack(encode_pack(readings, base_name="urn:", form="json"), now_us=0)
    back = set()
    for run in got:
        if run.values is None:
            back.add((run.name, run.t_us, run.value))
            continue
        counts = np.frombuffer(run.values, "<" + run.values_type)
        times = np.frombuffer(run.offsets_us, "<i4") if run.offsets_us is not None else np.round(np.arange(run.n) * run.period_us)
        back |= {(run.name, run.t_us + int(t), run.origin + c * run.scale) for t, c in zip(times, counts, strict=True)}
    wanted = {(r.name, r.t_us, r.value) for r in readings}
    assert {(n, round(t, -1), round(v, 6)) for n, t, v in back} == {(n, round(t, -1), round(v, 6)) for n, t, v in wanted}
