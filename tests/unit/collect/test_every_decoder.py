"""A short sample of what `make test-fuzz` does for long: every decoder refuses by name, whatever comes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS, one
from fuzz_seeds import built
from wardround.collect.devices.reading import Reading, decode_readings, encode_readings
from wardround.errors import DecodeError

BEGINNINGS = st.sampled_from(
    [b"", b"[{", b'{"resourceType":', b"\x0e\x20\x54\x08\x10\0\0\0.FIT", b"0       ", b"PK\x03\x04", b"\x81\xa1", b"wr1."]
)


@pytest.mark.parametrize("name", sorted(TARGETS))
@settings(max_examples=60, deadline=None)
@given(beginning=BEGINNINGS, data=st.binary(max_size=300))
def test_whatever_comes_is_read_or_refused(name, beginning, data):
    one(TARGETS[name], beginning + data)


SEEDS = [(name, data) for name in sorted(TARGETS) for data in built(name)]


@pytest.mark.parametrize(("name", "data"), SEEDS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(SEEDS)])
def test_the_fuzzer_begins_with_what_is_read(name, data):
    """Without it, a fuzzer that cannot see into a parser written in C would find nothing but refusals."""
    assert TARGETS[name](data)


@pytest.mark.parametrize(
    "change",
    [
        {"n": 3},
        {"n": 1, "offsets_us": b"123"},
        {"n": 0},
        {"n": 2, "values": b"123"},
        {"n": 10**9},
        {"n": 61, "values": None, "value": 72.0},  # one number for a minute of them
        {"n": 2, "values": None, "text": "N"},
        {"value": 72.0},  # a number, and samples
        {"period_us": math.inf},
        {"period_us": -1.0},
    ],
)
def test_readings_that_do_not_have_what_they_claim_are_refused(change):
    fields = {"name": "ecg-ii", "unit": "mV", "t_us": 1, "n": 2, "values": bytes(4)} | change
    with pytest.raises(DecodeError, match="samples it claims"):
        decode_readings(encode_readings([Reading(**fields)]))
