"""A patient's trends at the bedside: a notice, once, through a crash; off unless asked for; gone with the patient."""

from __future__ import annotations

import math

import pytest

from bedside_under_test import World
from wardround.settings import BedsideSettings
from wardround.watch.alerts import State
from wardround.watch.delivery.messages import message


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path, trends=True)
    yield made
    made.close()


def hours(world, number, pulse, subject="p1"):
    """Three readings an hour."""
    for _ in range(3 * number):
        world.clock.advance(1_200)
        world.keep("pulse", pulse(world.clock.now_us()), subject=subject)
        world.watch.turn()


def usual(t_us):
    return 75.0 + math.sin(t_us / 3.6e9)


def raised(_t_us):
    return 105.0  # one point of NEWS2, and no alert


def of_trends(world):
    return [a for a in world.physiological() if a.finding.kind == "trend-unusual"]


def test_it_is_off_unless_the_edges_settings_ask_for_it(tmp_path):
    assert not BedsideSettings().trends
    world = World(tmp_path)
    hours(world, 30, usual)
    hours(world, 2, raised)
    assert world.physiological() == []
    assert world.watch._ledger.states("trend/") == []
    world.close()


def test_an_hour_that_was_never_so_is_a_notice_of_low_priority_once_through_a_crash(world):
    hours(world, 30, usual)
    assert of_trends(world) == []
    world.crash()
    world.restart()
    hours(world, 2, raised)
    (alert,) = of_trends(world)
    assert (alert.finding.priority, alert.finding.category, alert.finding.signal) == ("low", "physiological", "pulse")
    assert "105 /min was never seen" in alert.finding.title
    assert "Decision support" in alert.finding.impact
    out = message(alert)
    assert "105" not in f"{out.title} {out.action}"
    assert "pulse" not in out.title
    world.crash()
    world.restart()
    hours(world, 2, raised)
    assert [a.alert_id for a in of_trends(world)] == [alert.alert_id]
    hours(world, 8, raised)
    (alert,) = of_trends(world)
    assert alert.state is State.RESOLVED


def test_where_it_is_turned_off_again_nothing_that_was_learnt_stays(world):
    hours(world, 3, usual, subject="abcd-efgh")
    world.crash()
    world.trends = False
    world.restart()
    world.clock.advance(61)
    world.watch.turn()
    assert world.watch._ledger.states("trend/") == []


def test_of_a_patient_whom_the_watch_does_not_remember_nothing_stays_once_they_may_not_be_watched(world):
    hours(world, 3, usual, subject="abcd-efgh")
    with world.watch._ledger._lock:  # as of an older version
        world.watch._ledger._db.execute("UPDATE states SET value = x'c1' WHERE name = 'memory'")
    world.crash()
    world.refused.add("abcd-efgh")
    world.restart()
    for _ in range(2):
        world.clock.advance(61)
        world.watch.turn()
    assert world.watch._ledger.states("trend/") == []


def test_of_a_patient_who_is_erased_or_may_not_be_watched_nothing_stays(world):
    hours(world, 30, usual, subject="abcd-efgh")
    hours(world, 2, raised, subject="abcd-efgh")
    assert len(of_trends(world)) == 1
    assert [name for name, _ in world.watch._ledger.states("trend/")] == ["trend/abcd-efgh"]
    world.refused.add("abcd-efgh")
    world.clock.advance(61)
    world.watch.turn()
    world.clock.advance(61)
    world.watch.turn()
    assert {a.state for a in of_trends(world)} == {State.RESOLVED}
    assert world.watch._ledger.states("trend/") == []
    world.watch.forget("abcd-efgh")
    world.watch._ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for file in (world.folder / "bedside").iterdir():
        assert b"abcd-efgh" not in file.read_bytes(), file.name
