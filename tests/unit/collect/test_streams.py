"""Order, gaps and repeats of runs, and how complete an hour is."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.collect.streams import HOUR_US, Hour, Streams, covered, with_gaps
from wardround.records import Observation, Quality, Validity

START_US = 1_700_000_000_000_000 // HOUR_US * HOUR_US
NOW_US = START_US + HOUR_US
WAVE = {"n": 250, "period_us": 4_000.0, "values": np.zeros(250, "<i2").tobytes()}


def run(at_s, *, code="mdc:131330", device="d", **more):
    t_us = START_US + round(at_s * 1e6)
    facts = {"subject": "S", "device": device, "edge": "e", "code": code, "unit": "mV", "t0_us": t_us, "t0_device_us": t_us}
    return Observation(**(facts | WAVE | more))


def flags(streams, o, arrival_s=None):
    return streams.flags(o, START_US + round((o.t0_device_us - START_US) + 1e6 if arrival_s is None else arrival_s * 1e6))


def test_runs_that_touch_have_no_flag_and_a_gap_has_one():
    streams = Streams()
    assert [flags(streams, run(at_s)) for at_s in (0, 1, 2.003, 4.003, 5.003)] == [0, 0, 0, Quality.GAP_BEFORE, 0]


def test_a_lone_value_has_no_gap_before_it():
    streams = Streams()
    lone = {"n": 1, "period_us": None, "values": None, "value": 60.0}
    assert [flags(streams, run(at_s, **lone)) for at_s in (0, 100)] == [0, 0]


def test_an_older_run_is_out_of_order_and_the_next_new_one_is_not():
    streams = Streams()
    assert [flags(streams, run(at_s), 4) for at_s in (1, 0, 2)] == [0, Quality.OUT_OF_ORDER, 0]


def test_late_early_and_repeated():
    streams = Streams()
    assert flags(streams, run(0), 1_000) == Quality.LATE
    assert flags(streams, run(60, code="x"), 0) == Quality.EARLY
    streams.repeated("d")
    assert flags(streams, run(1), 2) == Quality.DUPLICATE_SUPPRESSED
    assert flags(streams, run(2), 3) == 0


def test_streams_are_bounded(monkeypatch):
    monkeypatch.setattr("wardround.collect.streams.STREAMS_MAX", 3)
    streams = Streams()
    for number in range(10):
        flags(streams, run(number, device=f"d{number}"))
    assert len(streams._streams) == 3


def test_a_run_over_the_hour_counts_to_both():
    found = list(covered(run(3_599.5), 0.0))
    assert found == [(START_US, 125, 0.5), (START_US + HOUR_US, 125, 0.5)]


@pytest.mark.parametrize("at_s", [3_599.0, 3_599.9985, 3_599.996, 0.0])
def test_no_sample_is_counted_twice_or_missed(at_s):
    assert sum(n for _, n, _ in covered(run(at_s), 0.0)) == 250


def test_a_lone_value_stands_for_its_interval_and_an_invalid_one_for_nothing():
    lone = {"n": 1, "period_us": None, "values": None, "value": 60.0}
    assert list(covered(run(10, **lone), 60.0)) == [(START_US, 1, 60.0)]
    assert list(covered(run(10, **lone, validity=int(Validity.INVALID)), 60.0)) == []


def test_hours_in_which_nothing_came_are_there_with_nothing():
    known = [Hour("S", "c", START_US, 900_000, 3_600.0), Hour("S", "c", START_US + 3 * HOUR_US, 225_000, 900.0, dropped=7)]
    found = with_gaps(known, START_US + 4 * HOUR_US + HOUR_US // 2)
    assert [h.complete for h in found] == [1.0, 0.0, 0.0, 0.25, 0.0]
    assert found[4].expected_s == 1_800.0
    assert [h.dropped for h in found] == [0, 0, 0, 7, 0]


def test_a_signal_that_comes_whenever_it_comes_is_never_incomplete():
    assert [h.complete for h in with_gaps([Hour("S", "weight", START_US, 1, 0.0)], NOW_US + HOUR_US)] == [None]
