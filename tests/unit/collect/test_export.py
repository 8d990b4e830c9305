"""Out and in again: the numbers and times of observations survive FHIR, SenML, WFDB and Parquet."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.collect.export import to_fhir, to_senml, to_wfdb
from wardround.collect.files import formats
from wardround.collect.files.opened import Known, in_memory
from wardround.process.tables import OBSERVATIONS, parquet_of, rows_to_observations
from wardround.records import Observation, Validity

T_US = 1_772_000_000_123_456
KNOWN = Known(T_US + 10**15)


def observation(**fields):
    common = {"subject": "s", "device": "d", "edge": "e", "code": "mdc:131330", "unit": "mV", "t0_us": T_US, "t0_device_us": T_US}
    return Observation(**(common | fields))


ANY_GRID = st.tuples(st.floats(1e-9, 1e6), st.floats(-1e6, 1e6))  # scale and origin


@st.composite
def waveforms(draw, *, pairs=ANY_GRID):
    kind = draw(st.sampled_from(["i2", "i4"]))
    bits = 15 if kind == "i2" else 30
    counts = draw(st.lists(st.integers(-(2**bits) + 1, 2**bits - 1), min_size=2, max_size=40))
    scale, origin = draw(pairs)
    return observation(
        t0_us=T_US + draw(st.integers(0, 10**12)),
        n=len(counts),
        period_us=draw(st.floats(100.0, 1e7)),
        values=np.array(counts, "<" + kind).tobytes(),
        values_type=kind,
        scale=scale,
        origin=origin,
    )


@st.composite
def others(draw):
    t0_us = T_US + draw(st.integers(0, 10**12))
    if draw(st.booleans()):
        return observation(t0_us=t0_us, value=draw(st.floats(-1e12, 1e12)))
    counts = draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=20))
    offsets = np.sort(draw(st.lists(st.integers(1, 2**31 - 1), min_size=len(counts) - 1, max_size=len(counts) - 1)))
    return observation(
        t0_us=t0_us,
        n=len(counts),
        values=np.array(counts, "<i4").tobytes(),
        values_type="i4",
        offsets_us=np.concatenate([[0], offsets]).astype("<i4").tobytes(),
        scale=draw(st.floats(1e-9, 1e6)),
    )


def points(found):
    """Time and value of every sample, in order."""
    pairs = [(int(t), float(v)) for o in found for t, v in zip(o.times_us(), o.samples(), strict=True)]
    return sorted(pairs)


def read_back(files, names=None):
    """Points of written files, as `edge import` reads them."""
    found = []
    parts = dict(files)
    for name, data in parts.items():
        if name.endswith(".dat"):
            continue
        for reading in formats.read(in_memory(data, name, parts), KNOWN):
            times, values = reading.t_us + reading.offsets(), reading.samples()
            found += [(int(t), float(v)) for t, v in zip(times, values, strict=True)]
    return sorted(found)


def assert_same(found, expected, *, rel=0.0, apart_us=0):
    assert len(found) == len(expected)
    times = np.array([t for t, _ in found]) - np.array([t for t, _ in expected])
    assert np.abs(times).max(initial=0) <= apart_us
    np.testing.assert_allclose([v for _, v in found], [v for _, v in expected], rtol=rel, atol=1e-300)


@settings(max_examples=60, deadline=None)
@given(waveforms() | others())
def test_fhir_keeps_every_bit(o):
    assert_same(read_back(to_fhir([o])), points([o]))


@settings(max_examples=60, deadline=None)
@given(waveforms() | others())
def test_senml_keeps_every_bit(o):
    assert_same(read_back(to_senml([o], Counter())), points([o]))


def test_scalars_of_one_pack_keep_every_bit():
    values = [0.1 + 0.2, 1 / 3, 2.0**-40, 72.0]
    found = [observation(t0_us=T_US + i * 10**6, value=v) for i, v in enumerate(values)]
    assert_same(read_back(to_senml(found, Counter())), points(found))


GRIDS = st.sampled_from([(1 / 200, 0.0), (0.005, -5.12), (10 / 4095, -5 + 2048 * 10 / 4095), (1.612, 2048.0), (2.5e-3, 1e3)])


@settings(max_examples=60, deadline=None)
@given(waveforms(pairs=GRIDS))
def test_wfdb_keeps_values_to_the_last_digits(o):
    left = Counter()
    files = list(to_wfdb([o], left))
    if left["wfdb-grid"]:  # a finer grid would need more than 32 bits
        assert o.values_type == "i4"
        return
    found, expected = read_back(files), points([o])
    scale = max(abs(v) for _, v in expected) + abs(o.origin)
    assert len(found) == len(expected)
    np.testing.assert_allclose([v for _, v in found], [v for _, v in expected], rtol=1e-12, atol=1e-12 * scale)
    assert max(abs(a - b) for (a, _), (b, _) in zip(found, expected, strict=True)) <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(waveforms() | others(), min_size=1, max_size=5))
def test_parquet_keeps_everything(found):
    table = pq.read_table(io.BytesIO(parquet_of(found)))
    assert rows_to_observations(table) == found
    assert table.column("samples").to_pylist() == [o.samples().tolist() for o in found]
    assert set(table.schema.names) <= {*OBSERVATIONS.names, "samples"}


def wave(i, n=100, **fields):
    counts = np.arange(n, dtype="<i2")
    more = {"t0_us": T_US + i * n * 4_000, "n": n, "period_us": 4_000.0, "values": counts.tobytes(), "scale": 0.005}
    return observation(**(more | fields))


def test_runs_that_follow_each_other_become_one_record():
    files = dict(to_wfdb([wave(0), wave(1), wave(5), wave(6)], Counter()))
    headers = [data.decode() for name, data in files.items() if name.endswith(".hea")]
    assert [h.split()[3] for h in headers] == ["200", "200"]


def test_what_is_no_number_does_not_travel_and_is_counted():
    left = Counter()
    bad = observation(value=36.0, validity=int(Validity.INVALID))
    assert list(to_senml([bad], left)) == []
    assert list(to_wfdb([bad, observation(value=1.0)], left)) == []
    assert (left["no-number"], left["no-waveform"]) == (2, 1)


def test_what_senml_would_read_as_relative_is_left_out():
    left = Counter()
    assert list(to_senml([observation(t0_us=10**6, value=1.0)], left)) == []
    assert left["before-1978"] == 1


def test_many_observations_become_several_files_that_are_read():
    found = [wave(i) for i in range(700)]
    for files in (list(to_fhir(found)), list(to_senml(found, Counter()))):
        assert len(files) > 1
        assert len(read_back(files)) == 70_000


@pytest.mark.parametrize("word", ["AFIB", "asleep"])
def test_words_travel(word):
    o = observation(code="wr:rhythm", unit="1", value_text=word)
    for name, data in [*to_fhir([o]), *to_senml([o], Counter())]:
        [reading] = formats.read(in_memory(data, name), KNOWN)
        assert (reading.text, reading.t_us) == (word, T_US)
