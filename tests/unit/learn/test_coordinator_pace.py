"""Whom the hub asks, and when: schedules, refusals by edges, edges that never deliver, over-selection, quorum and deadline."""

from __future__ import annotations

import datetime as dt

import pytest

from wardround.clock import ManualClock
from wardround.collect.storage import MemoryStorage
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.condition import Condition
from wardround.learn.coordinator import SETTLE_S, Coordinator
from wardround.learn.journal import Journal
from wardround.learn.messages import Order
from wardround.learn.participant import Participant
from wardround.learn.strategies import make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, parse_study
from wardround.records import EdgeId
from wardround.simulation.toy import CLASSES, FEATURES, signed, toy_model, toy_training
from wardround.watch.detectors.own_history import OwnHistory

MAINS = Condition(charging=True, battery=None, network="wired", signal_dbm=None, metered=False, load=0.0)
BATTERY = Condition(charging=False, battery=50.0, network="wired", signal_dbm=None, metered=False, load=0.0)


class Hub:
    """A coordinator, and what it has sent."""

    def __init__(self, rounds: str, schedule: str = "", abilities=None) -> None:
        self.clock = ManualClock()
        self.orders: dict[str, Order] = {}
        self.sent: list[tuple[str, int]] = []
        self.cancelled: list[str] = []
        self.events = []
        self.coordinator = Coordinator(
            parse_study(f'name = "s"\ntask = "activity"\n[rounds]\nexamples_min = 1\n{rounds}\n{schedule}', where="test"),
            settings=b"",
            initial=lambda: toy_model(0),
            shape=(FEATURES, CLASSES),
            strategy=make_strategy(StrategySettings(), LearnerSettings()),
            screen=OwnHistory("test"),
            journal=Journal(MemoryStorage().connect),
            blobs=MemoryBlobs(),
            clock=self.clock,
            send=self._send,
            on_event=self.events.append,
            abilities=abilities,
        )

    def _send(self, edge, message):
        if isinstance(message, Order):
            self.orders[edge] = message
            self.sent.append((edge, message.round_number))
        else:
            self.orders.pop(edge, None)
            self.cancelled.append(edge)

    def attach(self, *edges, condition=MAINS):
        for edge in edges:
            self.coordinator.note(EdgeId(edge), condition)
            self.coordinator.attach(EdgeId(edge))
        self.wait(SETTLE_S + 0.2)

    def wait(self, seconds):
        for _ in range(round(seconds / 0.1)):
            self.clock.advance(0.1)
            self.coordinator.tick()

    def deliver(self, edge):
        order = self.orders.pop(edge)
        model = self.coordinator.model(order.base) if order.base else b""
        ready = Participant(MemoryBlobs()).keep(order, toy_training(edge, order, model, b""))
        upload = signed(edge, ready.upload)
        self.coordinator.append(EdgeId(edge), upload, 0, ready.data)
        assert self.coordinator.finish(EdgeId(edge), upload).accepted

    def fail(self, edge, *, declined=False, reason="no"):
        order = self.orders.pop(edge)
        self.coordinator.fail(EdgeId(edge), order.round_number, reason, declined=declined)

    @property
    def committed(self):
        return self.coordinator.committed()

    def kinds(self):
        return [e.kind for e in self.events]


def test_only_edges_that_the_schedule_allows_are_asked():
    hub = Hub("edges_min = 2", "[schedule]\ncharging = true")
    hub.attach("a", "b", "d")
    hub.attach("c", condition=BATTERY)
    assert sorted(hub.orders) == ["a", "b", "d"]
    for edge in "abd":
        hub.deliver(edge)
    hub.coordinator.note(EdgeId("d"), BATTERY)
    hub.deliver("a")
    hub.deliver("b")
    hub.deliver("d")  # asked before it was unplugged: what it sends counts
    assert [set(c.folded) for c in hub.committed] == [{"a", "b", "d"}, {"a", "b", "d"}]
    assert sorted(hub.orders) == ["a", "b"]
    assert hub.coordinator.why_not(EdgeId("c")) == "not-charging"


def test_a_window_opens_and_closes_over_a_day():
    hub = Hub(
        "edges_min = 2\ncount = 50\ninterval_s = 1800.0", '[schedule]\nwindows = ["22:00-06:00"]\ntimezone = "Europe/Berlin"'
    )
    hub.attach("a", "b")
    hours = set()
    for _ in range(24 * 6):
        for edge in sorted(hub.orders):
            hub.deliver(edge)
            hours.add(dt.datetime.fromtimestamp(hub.clock.now_us() / 1e6, dt.UTC).hour)
        hub.clock.advance(600 - SETTLE_S)
        hub.coordinator.tick()
        hub.clock.advance(SETTLE_S)
        hub.coordinator.tick()
    assert hours
    started = dt.datetime.fromtimestamp(ManualClock().now_us() / 1e6, dt.UTC)
    berlin = {(h + (2 if 3 < started.month < 11 else 1)) % 24 for h in hours}
    assert berlin <= {22, 23, 0, 1, 2, 3, 4, 5}
    assert len(hub.committed) >= 8
    assert "abandoned" not in hub.kinds()


def test_an_edge_that_says_no_costs_nothing_and_is_not_asked_again_before_it_can():
    hub = Hub("edges_min = 2\ndeadline_s = 60.0")
    hub.attach("a", "b", "c")
    hub.fail("c", declined=True, reason="network-metered")
    hub.deliver("a")
    hub.deliver("b")  # nobody waits for c
    assert set(hub.committed[0].folded) == {"a", "b"}
    hub.wait(10)
    assert [edge for edge, _ in hub.sent].count("c") == 1
    hub.coordinator.note(EdgeId("c"), MAINS)
    hub.deliver("a")
    hub.deliver("b")
    assert "c" in hub.orders
    assert "declined" in hub.kinds()
    assert "failed" not in hub.kinds()


def test_an_abandoned_round_costs_nobody_what_is_done():
    hub = Hub("edges_min = 3\ndeadline_s = 5.0")
    hub.attach("a", "b", "c")
    hub.deliver("a")
    hub.wait(5.2)
    assert hub.kinds().count("abandoned") == 1
    assert sorted(hub.cancelled) == ["b", "c"]
    hub.wait(2)
    assert hub.sent.count(("a", 0)) == 1  # its update of the first attempt counts in the second
    assert hub.sent.count(("b", 0)) == 2
    hub.deliver("b")
    hub.deliver("c")
    assert set(hub.committed[0].folded) == {"a", "b", "c"}


@pytest.mark.parametrize("failing", [("a", "b"), ("c", "d"), ("a", "d")])
def test_edges_that_never_deliver_do_not_keep_the_others_out(failing):
    """They had been the least often counted, so they were asked first, for ever."""
    hub = Hub("edges_min = 2\nedges_max = 2\ncount = 6")
    hub.attach("a", "b", "c", "d")
    for _ in range(200):
        for edge in sorted(hub.orders):
            if edge not in hub.orders:
                continue
            if edge in failing and hub.orders[edge].round_number:
                hub.fail(edge)
            else:
                hub.deliver(edge)
        hub.wait(1)
        if hub.coordinator.finished:
            break
    assert hub.coordinator.finished
    assert all(set(c.folded) == {"a", "b", "c", "d"} - set(failing) for c in hub.committed[1:])


def test_over_selection_takes_the_first_and_lets_the_others_go_at_no_cost():
    hub = Hub("edges_min = 2\nedges_max = 2\nover_selection = 1.5\ncount = 3")
    hub.attach("a", "b", "c")
    for edge in "abc":
        hub.deliver(edge)
    asked = sorted(hub.orders)
    assert asked == ["a", "b", "c"]
    hub.deliver("b")
    hub.deliver("c")
    assert set(hub.committed[1].folded) == {"b", "c"}
    assert hub.cancelled == ["a"]
    assert sorted(hub.orders) == ["a", "b", "c"]  # the next round has begun, and asks it again


@pytest.mark.parametrize(("delivered", "end"), [(1, "abandoned"), (2, "committed"), (3, "committed")])
def test_the_deadline_commits_a_quorum_and_abandons_less(delivered, end):
    hub = Hub("edges_min = 2\ndeadline_s = 5.0")
    hub.attach("a", "b", "c", "d")
    for edge in "abcd"[:delivered]:
        hub.deliver(edge)
    assert "committed" not in hub.kinds()
    hub.wait(5.2)
    assert end in hub.kinds()
    assert {"committed", "abandoned"} & set(hub.kinds()) == {end}


def test_a_buffer_ends_with_enough_and_stale_updates_weigh_less():
    hub = Hub('edges_min = 2\nmode = "buffered"\nbuffer = 2\nstaleness_max = 3\ncount = 3')
    hub.attach("a", "b", "c")
    for edge in "abc":
        hub.deliver(edge)
    hub.deliver("a")
    hub.deliver("b")
    hub.deliver("c")  # based on the model before
    assert [e.kind for e in hub.events][-1] == "accepted"
    hub.deliver("a")
    assert [set(c.folded) for c in hub.committed[1:]] == [{"a", "b"}, {"a", "c"}]
    assert hub.committed[2].staleness == {"c": 1}
