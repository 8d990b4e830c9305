"""How often edges report: of few every two seconds, of many what the hub can read, and at once what somebody waits for."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.learn.heartbeats import HEARTBEATS_A_SECOND, INTERVAL_S_MAX, SETTLED, STEP, HeartbeatInterval, Reports


def test_few_edges_report_as_often_as_the_setting_says_and_nobody_is_told_anything():
    interval = HeartbeatInterval(2.0)
    assert not any(interval.settle(edges) for edges in range(1_000))
    assert interval.seconds == 2.0


@given(st.lists(st.integers(0, 20_000), min_size=1, max_size=50))
def test_however_many_there_are_no_more_come_in_a_second_than_are_wanted_and_no_edge_reports_needlessly_seldom(counts):
    interval = HeartbeatInterval(2.0)
    for edges in counts:
        before = interval.seconds
        assert interval.settle(edges) == (interval.seconds != before)
        assert edges / interval.seconds <= HEARTBEATS_A_SECOND * (1 + 1e-9)
        assert 2.0 <= interval.seconds <= max(2.0, edges / HEARTBEATS_A_SECOND) * STEP**SETTLED


def test_edges_that_come_and_go_do_not_change_what_all_are_told():
    interval = HeartbeatInterval(2.0)
    for edges in range(5_001):
        interval.settle(edges)
    told = [interval.settle(edges) for _ in range(20) for edges in (4_500, 5_000)]
    assert not any(told)


def test_five_thousand_edges_that_attach_are_told_a_handful_of_times():
    interval = HeartbeatInterval(2.0)
    assert sum(interval.settle(edges) for edges in range(5_001)) <= 9


def test_an_edge_is_never_told_to_be_silent_for_longer_than_a_minute():
    interval = HeartbeatInterval(2.0)
    interval.settle(10**6)
    assert interval.seconds == INTERVAL_S_MAX


def looked_at(reports, seconds, *, urgent=lambda _now_s: None):
    """When an edge reports in so many seconds."""
    now_s, said = 0.0, []
    while now_s < seconds:
        if reports.due(now_s, urgent(now_s)):
            said.append(now_s)
        now_s += reports.look_s
    return said


def test_an_edge_reports_at_once_and_then_in_the_interval_that_the_hub_wants():
    reports = Reports(2.0)
    assert looked_at(reports, 9.0) == [0.0, 2.0, 4.0, 6.0, 8.0]
    reports = Reports(2.0)
    reports.told(10.0)
    assert looked_at(reports, 31.0) == [0.0, 10.0, 20.0, 30.0]
    reports = Reports(2.0)
    reports.told(0.5)
    assert looked_at(reports, 2.0) == [0.0, 0.5, 1.0, 1.5]


@given(st.floats(2.0, INTERVAL_S_MAX))
def test_no_interval_is_longer_than_was_said_by_more_than_a_look(interval_s):
    reports = Reports(2.0)
    reports.told(interval_s)
    said = looked_at(reports, 300.0)
    longest = max(b - a for a, b in itertools.pairwise(said))
    assert longest <= interval_s + reports.look_s / 2 + 1e-6


def test_what_somebody_waits_for_is_said_at_the_next_look():
    reports = Reports(2.0)
    reports.told(60.0)
    said = looked_at(reports, 120.0, urgent=lambda now_s: "an alert" if 13.0 < now_s < 40.0 else "")
    assert said == [0.0, 14.0, 40.0, 100.0]


@pytest.mark.parametrize("nonsense", [0.0, -1.0, math.nan, math.inf, 1e9])
def test_an_interval_that_makes_no_sense_changes_nothing(nonsense):
    reports = Reports(2.0)
    reports.told(nonsense)
    assert (reports.interval_s, reports.look_s) == (2.0, 2.0)


@given(st.lists(st.sampled_from([0.5, 2.0, 5.0, 12.0, 60.0]), min_size=1, max_size=60))
def test_the_next_heartbeat_comes_within_what_the_last_one_said_whatever_the_hub_says_between(told):
    """Else an edge that attaches, says two seconds and is then told twelve would be called silent after six."""
    reports, now_s, within_s = Reports(2.0), 0.0, math.inf
    for interval_s in told:
        if reports.due(now_s, None):
            within_s = now_s + reports.interval_s
        assert now_s <= within_s + 2.0
        reports.told(interval_s)
        now_s += reports.look_s
