"""The screens behind a real coordinator: who copies does not count, what they know survives a kill, refusals name a reason."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from wardround.clock import ManualClock
from wardround.collect.storage import MemoryStorage
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.coordinator import SETTLE_S, Coordinator
from wardround.learn.journal import Journal
from wardround.learn.messages import Order, Upload
from wardround.learn.models import decode_model, encode_model
from wardround.learn.strategies import make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, parse_study
from wardround.records import EdgeId
from wardround.simulation.toy import CLASSES, FEATURES, signed, toy_training
from wardround.watch.detectors.screens import Screens

EDGES = ["a", "b", "c", "d", "e", "f"]
STUDY = 'name = "s"\ntask = "activity"\n[rounds]\ncount = 9\nedges_min = 2\ndeadline_s = 10.0\nexamples_min = 1\n'


class Hub:
    """A coordinator over storage that outlives it; its model is large enough for directions to mean something."""

    def __init__(self):
        self.storage, self.blobs, self.clock = MemoryStorage(), MemoryBlobs(), ManualClock()
        self.rng, self.orders, self.events = np.random.default_rng(0), {}, []
        self.start()

    def start(self):
        self.orders.clear()
        self.coordinator = Coordinator(
            parse_study(STUDY, where="test"),
            settings=b"",
            initial=lambda: {"w": np.zeros((40, 30), np.float32)},
            shape=(FEATURES, CLASSES),
            strategy=make_strategy(StrategySettings(), LearnerSettings()),
            screen=Screens("test"),
            journal=Journal(self.storage.connect),
            blobs=self.blobs,
            clock=self.clock,
            send=lambda edge, message: self.orders.update({edge: message}) if isinstance(message, Order) else None,
            on_event=self.events.append,
        )
        for edge in EDGES:
            self.coordinator.attach(EdgeId(edge))
        self.coordinator.tick()
        self.clock.advance(SETTLE_S + 0.1)
        self.coordinator.tick()

    def send(self, edge, data, examples=60):
        order = self.orders[edge]
        sha256 = hashlib.sha256(data).hexdigest()
        upload = Upload(order.study, order.round_number, order.task, order.base, len(data), sha256, examples)
        upload = signed(edge, upload)
        self.coordinator.append(EdgeId(edge), upload, 0, data)
        assert self.coordinator.finish(EdgeId(edge), upload).accepted

    def round(self, change=lambda updates: updates):
        """What was folded, and what was set aside."""
        updates = {e: (0.1 * self.rng.normal(size=(40, 30))).astype(np.float32) for e in EDGES}
        for edge, update in change(updates).items():
            self.send(edge, encode_model({"w": update}))
        done = self.coordinator.committed()[-1]
        return set(done.folded), set(done.aside)

    def last_step(self):
        *_, before, after = (decode_model(self.coordinator.model(c.model))["w"] for c in self.coordinator.committed())
        return after - before


@pytest.fixture
def hub():
    hub = Hub()
    for edge in EDGES:
        hub.send(edge, toy_training(edge, hub.orders[edge], b"", b"").data)
    return hub


@pytest.mark.parametrize("killed", [False, True])
def test_copies_do_not_count_from_their_second_round_on(hub, killed):
    def twice(updates):
        return updates | {"b": 1.5 * updates["a"]}

    assert hub.round(twice) == (set(EDGES), set())
    if killed:
        hub.blobs.crash()
        hub.start()
    assert hub.round(twice) == (set(EDGES) - {"a", "b"}, {"a", "b"})
    assert {(e.edge, e.reason) for e in hub.events if e.kind == "quarantined"} == {("a", "twins-peer"), ("b", "twins-peer")}


@pytest.mark.parametrize("killed", [False, True])
def test_who_sends_the_hubs_last_step_back_does_not_count(hub, killed):
    hub.round()
    assert hub.round(lambda updates: updates | {"c": hub.last_step()}) == (set(EDGES), set())
    if killed:
        hub.blobs.crash()
        hub.start()
    assert hub.round(lambda updates: updates | {"c": 0.7 * hub.last_step()}) == (set(EDGES) - {"c"}, {"c"})
    assert [(e.edge, e.reason) for e in hub.events if e.kind == "quarantined"] == [("c", "twins-stale")]
