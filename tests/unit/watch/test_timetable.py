"""What the hub does by the clock: late only when it had its chance, known across restarts, one alert each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wardround.clock import ManualClock
from wardround.watch import lateness
from wardround.watch.alerts import COOL_DOWN_US, State
from wardround.watch.timetable import RUNS_KEPT, Routine, Row, Timetable
from wardround.watch.watcher import Watch

S = 1_000_000
START = 1_700_000_000 * S


def routine(next_us, name="job:trends", **changes):
    return Routine(**{"name": name, "title": "Trends", "schedule": "every 10 s", "next_us": next_us, "grace_s": 60.0, **changes})


def ran(table, at_us, *, ok=True, seconds=1.0, name="job:trends", detail=""):
    table.began(name, at_us)
    table.ended(name, at_us + round(seconds * S), ok=ok, detail=detail)


def row(table, now_us, every_s=10.0):
    return table.rows([routine(table.due_us("job:trends", every_s))], now_us)[0]


def test_a_routine_has_its_interval_and_its_grace_after_a_good_end():
    table = Timetable(START)
    assert (row(table, START).outcome, row(table, START).next_us) == ("never", START + 10 * S)
    assert not row(table, START + 70 * S).late_s
    assert row(table, START + 71 * S).late_s == 61.0
    ran(table, START + 71 * S, detail="3 parts")
    now = row(table, START + 80 * S)
    assert (now.outcome, now.late_s, now.last.detail, now.next_us) == ("ok", 0.0, "3 parts", START + 82 * S)


def test_one_that_fails_every_time_is_late_and_one_that_runs_is_not():
    table = Timetable(START)
    for i in range(20):
        ran(table, START + i * 10 * S, ok=False, detail="the disk is full")
    now = row(table, START + 200 * S)
    assert (now.outcome, now.late_s) == ("failed", 190.0)
    assert "It last failed: the disk is full" in lateness.finding(now, START).detail
    assert len(table.runs("job:trends")) == RUNS_KEPT
    table.began("job:trends", START + 201 * S)
    assert (row(table, START + 9_000 * S).outcome, row(table, START + 9_000 * S).late_s) == ("running", 0.0)


def test_runs_are_known_across_a_restart_which_gives_grace_anew():
    table = Timetable(START)
    ran(table, START)
    later = START + 86_400 * S
    again = Timetable(later, table.save())
    assert again.runs("job:trends") == table.runs("job:trends")
    assert not row(again, later + 60 * S).late_s
    assert row(again, later + 61 * S).late_s > 86_000


def test_what_is_done_when_asked_for_is_never_late():
    assert not Timetable(START).rows([routine(0)], START + 10**15)[0].late_s


def test_late_ones_stand_first():
    table = Timetable(START)
    rows = table.rows([routine(START + 100 * S, "a"), routine(START, "b")], START + 70 * S)
    assert [r.name for r in rows] == ["b", "a"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100), st.integers(0, 30)), max_size=40))
def test_lateness_is_the_age_of_the_last_good_end(steps):
    table, now, good = Timetable(START), START, START
    for ok, wait_s, took_s in steps:
        now += wait_s * S
        late = now > max(good + 10 * S, START) + 60 * S
        assert bool(row(table, now).late_s) == late
        ran(table, now, ok=ok, seconds=took_s)
        now += took_s * S
        good = now if ok else good
    assert Timetable(START, table.save()).save() == table.save()


def test_each_late_one_is_one_alert_that_ends_by_itself():
    clock, changed = ManualClock(), []
    watch = Watch(clock=clock, heartbeat_s=1.0, signal_title=str, on_change=changed.extend)
    late = [
        Row(name=n, title=n, schedule="every hour", last=None, running_since_us=0, next_us=1, late_s=7300.0) for n in ("a", "b")
    ]
    watch.late(late)
    watch.late(late)
    assert sorted((a.finding.kind, a.finding.job, a.times) for a in watch.open_alerts()) == [
        ("job-late", "a", 2),
        ("job-late", "b", 2),
    ]
    assert changed[0].finding.title == "a: late by 2 h"
    watch.late(late[1:])
    assert [a.finding.job for a in watch.open_alerts()] == ["b"]
    saved = Watch(clock=clock, heartbeat_s=1.0, signal_title=str, on_change=changed.extend, saved=watch.save())
    clock.advance(COOL_DOWN_US / 1e6 + 1)
    saved.late([])
    assert all(a.state is State.RESOLVED for a in saved.alerts())
    silenced = saved.silence({"job": "b*"}, until_us=clock.now_us() + S, who="anna", reason="")
    assert silenced.fits(lateness.finding(late[1], 0))
