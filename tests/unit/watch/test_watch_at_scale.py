"""A hub with many edges that stands still for a while: nobody is called silent for it, and nobody waits for the disk."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wardround.clock import ManualClock
from wardround.hub.stood_still import LATE_S, LOOK_S, StoodStill
from wardround.watch.watcher import Watch

WAIT_S = 25.0
EDGES = [f"edge-{k:03d}" for k in range(200)]


@pytest.fixture
def clock():
    return ManualClock()


def make(clock, on_change):
    return Watch(clock=clock, heartbeat_s=2.0, signal_title=str, on_change=on_change)


def test_the_time_that_the_hub_stood_still_is_no_edges_silence(clock):
    watch = make(clock, lambda _alerts: None)
    for edge in EDGES:
        watch.edge_seen(edge)
    clock.advance(60.0)
    watch.tick(stood_s=59.0)
    assert watch.open_alerts() == []
    watch.edge_seen(EDGES[0])
    clock.advance(5.5)
    watch.tick()
    silent = {alert.finding.edge for alert in watch.open_alerts()}
    assert silent == set(EDGES[1:]), "1 s before, and 5.5 s after: three beats are missed"
    clock.advance(1.0)
    watch.tick()
    assert {alert.finding.edge for alert in watch.open_alerts()} == set(EDGES), "what was before the last beat counts no more"


def test_what_one_tick_changes_is_told_in_one_go(clock):
    told = []
    watch = make(clock, told.append)
    for edge in EDGES:
        watch.edge_seen(edge)
    clock.advance(7.0)
    watch.tick()
    assert [sorted(alert.finding.edge for alert in alerts) for alerts in told] == [EDGES]


def test_a_heartbeat_waits_for_nobody_who_writes(clock):
    writing, go_on, told = threading.Event(), threading.Event(), []

    def on_change(alerts):
        told.append([(alert.finding.edge, alert.open) for alert in alerts])
        writing.set()
        assert go_on.wait(WAIT_S)

    watch = make(clock, on_change)
    watch.edge_seen("a")
    clock.advance(7.0)
    ticking = threading.Thread(target=watch.tick)
    ticking.start()
    assert writing.wait(WAIT_S)
    beating = threading.Thread(target=watch.edge_seen, args=("a",))
    beating.start()
    beating.join(WAIT_S)
    assert not beating.is_alive()
    assert watch.open_alerts() == [], "it is known at once"
    go_on.set()
    ticking.join(WAIT_S)
    assert told == [[("a", True)]]
    watch.tick()
    assert told == [[("a", True)], [("a", False)]], "and told with the next tick"


def test_what_could_not_be_told_is_told_again_in_its_order(clock):
    full, told = [True], []

    def on_change(alerts):
        if full:
            raise OSError("no space left on device")
        told.append([alert.finding.edge for alert in alerts])

    watch = make(clock, on_change)
    watch.edge_seen("a")
    clock.advance(4.0)
    watch.edge_seen("b")
    clock.advance(3.0)
    with pytest.raises(OSError, match="no space"):
        watch.tick()
    clock.advance(4.0)
    full.clear()
    watch.tick()
    assert told == [["a", "b"]]


def test_a_loop_that_stands_still_knows_for_how_long(clock):
    stood = StoodStill(clock)
    clock.advance(LOOK_S + LATE_S)
    stood.look()
    assert stood.take() == 0.0
    clock.advance(30.0)
    assert stood.take() == pytest.approx(30.0 - LOOK_S - LATE_S)
    assert stood.take() == 0.0


def test_it_looks_by_itself():
    class Looked(StoodStill):
        def look(self):
            super().look()
            looked.set()

    async def play():
        task = asyncio.create_task(Looked(ManualClock()).run())
        await asyncio.wait_for(looked.wait(), WAIT_S)
        task.cancel()

    looked = asyncio.Event()
    asyncio.run(play())


ACTS = {
    "certificates": lambda watch: watch.certificates({"b": (0, 1)}),
    "update_refused": lambda watch: watch.update_refused("s", "b", 3, "norm", "too large"),
    "edge_quarantined": lambda watch: watch.edge_quarantined(
        "s", "b", 3, reason="own-history-direction", score=9.0, threshold=6.0, until_round=33
    ),
    "round_abandoned": lambda watch: watch.round_abandoned("s", 3, "too few"),
    "edge_seen": lambda watch: watch.edge_seen("a"),
    "acknowledge": lambda watch: watch.acknowledge(watch.open_alerts()[0].alert_id, "olga"),
}


@pytest.mark.parametrize("act", list(ACTS))
def test_who_acts_while_another_is_told_holds_nothing_that_the_other_needs(clock, act):
    begun, done = threading.Event(), threading.Event()

    def on_change(_alerts):
        if not begun.is_set():
            begun.set()
            before = watch.save()
            while watch.save() == before:  # it needs the watch's lock, and ends when the act is in the book
                done.wait(0.001)

    watch = make(clock, on_change)
    watch.edge_seen("a")
    clock.advance(7.0)
    threads = [threading.Thread(target=watch.tick, daemon=True), threading.Thread(target=lambda: ACTS[act](watch), daemon=True)]
    threads[0].start()
    assert begun.wait(WAIT_S)
    threads[1].start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not any(thread.is_alive() for thread in threads)
