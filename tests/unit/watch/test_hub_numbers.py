"""The hub's own numbers: quiet through days as always, and heard when one is as it never was."""

from __future__ import annotations

import math

import numpy as np

from wardround.clock import ManualClock
from wardround.console.model import EdgeView, Overview
from wardround.minutes import MINUTE_S, Minutes
from wardround.store import open_store
from wardround.watch.alerts import State
from wardround.watch.hub_numbers import LEARNING, MINUTE_US, OVER_MINUTES, STREAMS_MAX, HubNumbers, finding
from wardround.watch.novel_stream import FLOOR
from wardround.watch.watcher import Watch


def day(rng, minute):
    """Samples a second of a ward by the minute: more by day, ragged."""
    return 3_000 * (1 + 0.3 * math.sin(2 * math.pi * minute / 1_440)) + 100 * rng.normal()


def play(numbers, rng, minutes, value=day):
    return [u for m in minutes for u in numbers.minute(m * MINUTE_US, {"samples": value(rng, m)})]


def test_days_as_always_are_quiet_and_a_flood_is_heard_once_and_is_over():
    numbers, rng = HubNumbers(), np.random.default_rng(0)
    assert play(numbers, rng, range(LEARNING.learnt)) == []
    end = 14 * 1_440
    assert len(play(numbers, rng, range(LEARNING.learnt, end))) <= 1  # in twelve days
    (found, *more) = play(numbers, rng, range(end, end + 30), lambda r, m: 2.5 * day(r, m))
    assert (found.name, found.t_us) == ("samples", end * MINUTE_US)
    assert found.score > found.threshold >= FLOOR
    assert len(more) <= 2
    assert numbers.standing((end + 30) * MINUTE_US) == {"samples"}
    assert numbers.standing((end + 31 + OVER_MINUTES) * MINUTE_US) == set()
    told = finding(found, 0)
    assert "Samples arriving a second" in told.title
    assert told.evidence[-1][1] == round(found.value, 3)


def test_nothing_is_said_before_it_has_learnt():
    numbers, rng = HubNumbers(), np.random.default_rng(0)
    play(numbers, rng, range(LEARNING.learnt - 60))
    assert play(numbers, rng, range(LEARNING.learnt - 60, LEARNING.learnt), lambda *_: 1e9) == []


def test_a_restart_changes_nothing_and_what_cannot_be_read_is_begun_anew():
    one, rng = HubNumbers(), np.random.default_rng(1)
    play(one, rng, range(LEARNING.learnt + 100))
    two = HubNumbers(one.state())
    after = range(LEARNING.learnt + 100, LEARNING.learnt + 130)
    both = [play(n, np.random.default_rng(2), after, lambda r, m: 3 * day(r, m)) for n in (one, two)]
    assert both[0] == both[1]
    assert both[0]
    assert one.state() == two.state()
    assert HubNumbers(b"nonsense").standing(0) == set()


def test_numbers_that_are_none_and_too_many_streams_are_left_out():
    numbers = HubNumbers()
    assert numbers.minute(0, {"samples": math.nan, "behind": math.inf}) == []
    numbers.minute(0, {f"n{i}": 1.0 for i in range(STREAMS_MAX + 50)})
    assert len(numbers._streams) == STREAMS_MAX


def test_from_the_read_model_to_a_notice_over_a_restart_and_its_end(tmp_path):
    clock, store, seen = ManualClock(), open_store(tmp_path / "hub.sqlite"), {"samples": 100.0}
    watch = Watch(clock=clock, heartbeat_s=1.0, signal_title=str, on_change=lambda _: None)

    def overview():
        edges = (EdgeView("a", "connected"), EdgeView("b", "silent"))
        return Overview(clock.now_us(), "hub", "1", "s", simulated=True, subjects=0, edges=edges, samples_per_s=seen["samples"])

    def play(minutes, count):
        rng = np.random.default_rng(count)
        for _ in range(count):
            clock.advance(MINUTE_S)
            seen["samples"] = 100.0 + rng.normal()
            minutes.look()

    minutes = Minutes(store, clock, watch, overview)
    minutes.look()
    assert store.load_state("hub-numbers") is None  # not before a minute is over
    play(minutes, 900)
    again = Minutes(store, clock, watch, overview)  # a restart
    for stream in again._numbers._streams.values():
        stream._kept.seen = LEARNING.learnt  # two days, without waiting for them
    play(again, 5)
    assert watch.open_alerts() == []
    clock.advance(MINUTE_S)
    seen["samples"] = 100_000.0
    again.look()
    (alert,) = watch.open_alerts()
    assert (alert.finding.signal, alert.finding.priority, alert.finding.edge) == ("samples", "low", "")
    play(again, OVER_MINUTES + 2)
    assert watch.alert(alert.alert_id).state is State.RESOLVED
    store.close()
