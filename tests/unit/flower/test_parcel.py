"""Flower messages as bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import UpdateRefused
from wardround.flower.parcel import ARRAYS, CONFIG, METRICS, ArrayPart, Record, decode, encode

SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(), st.binary(max_size=20)
)
VALUES = st.one_of(
    SCALARS, st.lists(st.text(), max_size=3), st.lists(st.binary(max_size=5), max_size=3), st.lists(st.floats(allow_nan=False))
)
PARTS = st.builds(
    ArrayPart, st.text(), st.text(), st.lists(st.integers(0, 9), max_size=3).map(tuple), st.text(), st.binary(max_size=30)
)
RECORDS = st.one_of(
    st.builds(lambda n, a: Record(n, ARRAYS, tuple(a)), st.text(), st.lists(PARTS, max_size=3)),
    st.builds(
        lambda n, k, v: Record(n, k, values=v), st.text(), st.sampled_from([METRICS, CONFIG]), st.dictionaries(st.text(), VALUES)
    ),
)


@settings(deadline=None)
@given(st.lists(RECORDS, max_size=4))
def test_what_goes_in_comes_out_in_its_order_and_type(records):
    found = decode(encode(records))
    assert found == records
    for own, there in zip(records, found, strict=True):
        assert list(own.values) == list(there.values)
        assert [type(v) for v in own.values.values()] == [type(v) for v in there.values.values()]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_a_reason(data):
    with pytest.raises(UpdateRefused) as caught:
        decode(data)
    assert caught.value.reason == "malformed"


GOOD = encode([Record("arrays", ARRAYS, (ArrayPart("0", "float32", (2,), "numpy.ndarray", b"12345678"),))])


@pytest.mark.parametrize("cut", range(0, len(GOOD), 7))
def test_a_cut_message_is_refused(cut):
    with pytest.raises(UpdateRefused, match="not a Flower message"):
        decode(GOOD[:cut])


@pytest.mark.parametrize(
    "table",
    [
        {"name": "x"},
        [{"name": "x", "kind": "arrays", "arrays": [["a", "f", [-1], "s", 0]], "values": []}],
        [{"name": "x", "kind": "arrays", "arrays": [["a", "f", [], "s", 10**15]], "values": []}],
        [{"name": "x", "kind": "other", "arrays": [], "values": []}],
        [{"name": 3, "kind": "config", "arrays": [], "values": []}],
        [{"name": "x", "kind": "config", "arrays": [], "values": [["k", {"b": "%%%"}]]}],
        [{"name": "x", "kind": "config", "arrays": [], "values": [["k", [[1]]]]}],
        [{"name": "x", "kind": "config", "arrays": [], "values": [["k", None]]}],
    ],
)
def test_a_header_that_cannot_be_is_refused(table):
    header = json.dumps(table).encode()
    with pytest.raises(UpdateRefused, match="not a Flower message"):
        decode(len(header).to_bytes(8, "little") + header)


def test_arrays_are_not_copied():
    data = encode([Record("a", ARRAYS, (ArrayPart("0", "", (), "numpy.ndarray", bytes(1_000)),))])
    part = decode(data)[0].arrays[0].data
    assert np.shares_memory(np.frombuffer(part, np.uint8), np.frombuffer(data, np.uint8))
