"""Every job, from what a patient's devices sent to a row of its table; cut at midnight or not, the rows are the same."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wardround.clock import ManualClock
from wardround.process import tables
from wardround.process.catalogue import JOBS
from wardround.process.dask_runner import HereRunner
from wardround.process.jobs import Jobs
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.process.work import Known
from wardround.records import Observation

DAY_US, MINUTE_US = 86_400_000_000, 60_000_000
MIDNIGHT = 1_700_006_400_000_000 - 1_700_006_400_000_000 % DAY_US
START = MIDNIGHT - 10 * MINUTE_US  # ten minutes before, and ten after
MINUTES = 20
KNOWN = Known(ranges={"loinc:8867-4": (20.0, 300.0), "mdc:131330": (-10.0, 10.0)})


def wave(code, values, rate_hz, scale):
    """In messages of ten seconds."""
    counts, size = np.round(np.asarray(values) / scale).astype("<i2"), round(10 * rate_hz)
    common = {"subject": "p", "device": "d", "edge": "e", "unit": "1", "t0_device_us": 0, "code": code, "scale": scale}
    for first in range(0, len(counts), size):
        part = counts[first : first + size]
        t0_us = START + round(first * 1e6 / rate_hz)
        yield Observation(**common, t0_us=t0_us, n=len(part), period_us=1e6 / rate_hz, values=part.tobytes())


def patient():
    """75 beats and 15 breaths a minute; a pulse wave; vital signs every half minute."""
    rng = np.random.default_rng(0)
    t = np.arange(MINUTES * 60 * 250) / 250.0
    breath = 1.0 + 0.1 * np.sin(2 * np.pi * 0.25 * t)
    yield from wave(
        "mdc:131330", rng.normal(0, 0.01, len(t)) + breath * np.exp(-np.square((t % 0.8 - 0.4) / 0.012) / 2), 250.0, 0.005
    )
    t = np.arange(MINUTES * 60 * 100) / 100.0
    yield from wave("mdc:150452", 50.0 + np.exp(-np.square((t % 0.8 - 0.2) / 0.07)), 100.0, 0.01)
    common = {"subject": "p", "device": "d", "edge": "e", "unit": "x", "t0_device_us": 0}
    for k in range(2 * MINUTES):
        for code, value in (("loinc:8867-4", 112.0), ("loinc:9279-1", 22.0), ("loinc:59408-5", 95.0), ("loinc:8310-5", 38.5)):
            yield Observation(**common, code=code, t0_us=START + k * 30_000_000, value=value)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    made = Lake(folder / "lake")
    made.append(BRONZE, observation_rows([(o, "b", k, 0) for k, o in enumerate(patient())]), app="inbox", version=1)
    jobs = Jobs(made, HereRunner(), ManualClock(), folder / "staging", KNOWN)
    for job in JOBS.values():
        report = jobs.run(job)
        assert report.failed == (), job.name
        assert report.rows > 0 or job.name == "examples-activity", job.name
    return made


def rows(lake, table, **where):
    return sorted(lake.read(table, **where).to_pylist(), key=lambda r: (r["t_us"], r.get("code", "")))


def test_rhythm(lake):
    found = rows(lake, tables.HEART)
    assert [r["t_us"] for r in found] == [START + k * 5 * MINUTE_US for k in range(4)]  # two on each side of midnight
    assert all(r["heart_rate"] == pytest.approx(75.0, rel=0.01) and r["rmssd"] < 5.0 for r in found)
    assert all(r["covered"] > 0.95 for r in found)


def test_breathing(lake):
    found = rows(lake, tables.BREATH)
    assert len({r["t_us"] for r in found}) == len(found) == MINUTES
    good = [r["rate"] for r in found if r["good"]]
    assert len(good) >= MINUTES - 2
    assert np.median(good) == pytest.approx(15.0, abs=0.5)


def test_pulse(lake):
    found = rows(lake, tables.PULSE)
    assert len(found) == MINUTES
    assert all(r["rate"] == pytest.approx(75.0, rel=0.02) and r["doubt"] == 0 for r in found)


def test_early_warning_says_what_it_does_not_know(lake):
    before, after = rows(lake, tables.WARNING)
    assert (before["t_us"], after["t_us"]) == (MIDNIGHT - 1, MIDNIGHT + 60 * MINUTE_US - 1)
    for r in (before, after):
        assert json.loads(r["points"]) == {"pulse": 2, "respiratory-rate": 2, "spo2": 1, "temperature": 1}
        assert (r["total"], r["red"]) == (6, False)
        assert set(r["missing"].split(",")) == {"oxygen", "systolic", "consciousness"}


def test_vitals_trends_and_sketches(lake):
    minutes = rows(lake, tables.VITALS, codes=["loinc:8867-4"])
    assert len(minutes) == MINUTES
    assert {(r["mean"], r["n"]) for r in minutes} == {(112.0, 2)}
    days = [r for r in rows(lake, tables.TREND, codes=["loinc:8867-4"]) if r["width_us"] == DAY_US]
    assert [(r["n"], r["median"]) for r in days] == [(20, 112.0), (20, 112.0)]
    sketches = rows(lake, tables.SKETCH, codes=["loinc:8867-4"])
    assert [sum(r["counts"]) for r in sketches] == [20, 20]
    assert [r["total"] for r in sketches] == [20 * 112.0, 20 * 112.0]
