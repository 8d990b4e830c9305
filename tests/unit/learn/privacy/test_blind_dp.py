"""Noise under masks, through coordinator and agents: what is opened is noisy, and paid for, whoever is killed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.unit.learn.privacy.test_blind import FIVE, Ward, step_of

from wardround.learn.messages import Order
from wardround.learn.models import decode_model, encode_model
from wardround.learn.privacy import distributed
from wardround.learn.privacy.ledger import MemoryLedger
from wardround.records import EdgeId
from wardround.simulation.toy import toy_model, toy_training

STUDY = """
name = "s"
task = "activity"
[rounds]
count = 3
edges_min = 3
deadline_s = 30.0
examples_min = 1
[watch]
row_counts = false
[privacy]
mode = "blind-dp"
population = 5
noise = 4.0
clip_norm = 0.2
delta = 0.001
target_epsilon = 50.0
"""


class NoisyWard(Ward):
    def __init__(self):
        self.ledger = MemoryLedger()
        super().__init__(FIVE, STUDY)

    def begin(self):
        super().begin()  # round 0, which asks nobody
        self.clock.advance(1.0)
        self.coordinator.tick()

    def models(self):
        return [decode_model(self.coordinator.model(c.model)) for c in self.coordinator.committed()]

    def rounds(self):
        return [e.round for e in self.ledger.entries]


def test_every_round_is_noisy_and_paid_for_and_no_sums_are_asked():
    ward = NoisyWard()
    ward.begin()
    ward.run()
    assert ward.coordinator.finished
    assert not ward.failed
    assert ward.rounds() == [1, 2, 3]
    models = ward.models()
    assert all(np.array_equal(models[0][n], t) for n, t in toy_model(0).items())
    moved = np.concatenate([(models[1][n] - models[0][n]).ravel() for n in ("b", "w")])
    most = 4.0 * math.sqrt(5 / 4) * 0.2 / 5  # noise of all five, where four must carry it
    assert 0 < np.abs(moved).max() < 8 * most + 0.2


def test_without_noise_it_is_the_clipped_mean(monkeypatch):
    monkeypatch.setattr(distributed, "discrete_gaussian", lambda _sigma, size: np.zeros(size, np.int64))
    ward = NoisyWard()
    ward.begin()
    ward.run(lambda _edge, message: step_of(message) == "Circle" and message.round_number == 2)
    waits = next(m for _, m in ward.post if step_of(m) == "Circle")
    assert waits.round_number == 2
    base, moved = ward.models()
    name = ward.coordinator.committed()[0].model
    total = dict.fromkeys(("b", "w"), 0.0)
    for edge in FIVE:
        order = Order("s", 1, 1, "train", name, b"", 0.0)
        made = decode_model(toy_training(edge, order, encode_model(base), b"").data)
        norm = math.sqrt(sum(float((t**2).sum()) for t in made.values()))
        total = {n: total[n] + made[n] * min(1.0, 0.2 / norm) / 5 for n in total}
    for n in total:
        assert moved[n] - base[n] == pytest.approx(total[n], abs=1e-6)


@pytest.mark.parametrize("step", ["Inbox", "Survivors", "Votes"])
def test_a_hub_that_is_killed_pays_for_all_that_it_releases(step):
    ward = NoisyWard()
    ward.begin()
    assert ward.run(lambda _edge, message: step_of(message) == step and message.round_number == 2) is not None
    ward.kill_hub()
    for edge in FIVE:
        if edge in ward.orders:
            ward.deliver(edge, ward.orders[edge])
    ward.run()
    for _ in range(5):
        ward.clock.advance(20.0)
        ward.coordinator.tick()
        ward.run()
    assert ward.coordinator.finished
    assert {c.number for c in ward.committed()} <= set(ward.rounds())


def test_a_sum_that_edges_may_have_opened_is_paid_for_though_it_came_to_nothing():
    ward = NoisyWard()
    ward.begin()
    ward.run(lambda _edge, message: step_of(message) == "Circle" and message.round_number == 1)
    seen = 0

    def third_vote(_edge, message):
        nonlocal seen
        seen += step_of(message) == "Votes"
        return seen == 3

    ward.run(third_vote)
    for edge in FIVE[2:]:
        ward.lose(edge)
    ward.run()
    ward.clock.advance(31.0)
    ward.coordinator.tick()
    assert ward.coordinator.committed()[-1].number == 1
    assert not ward.coordinator.committed()[-1].folded
    assert ward.rounds() == [1]
    ward.away.clear()
    for edge in FIVE[2:]:
        ward.coordinator.attach(EdgeId(edge))
    for _ in range(6):
        ward.clock.advance(31.0)
        ward.coordinator.tick()
        ward.run()
    assert ward.coordinator.finished
    assert ward.rounds() == [1, 2, 3, 4]


def test_with_one_edge_gone_the_others_carry_the_noise():
    ward = NoisyWard()
    ward.begin()
    ward.run(lambda edge, message: step_of(message) == "Inbox" and edge == FIVE[0])
    ward.lose(FIVE[0])
    ward.run()
    for _ in range(6):
        ward.clock.advance(31.0)
        ward.coordinator.tick()
        ward.run()
    assert ward.coordinator.finished
    assert all(FIVE[0] not in c.folded for c in ward.committed())
    assert {c.number for c in ward.committed()} <= set(ward.rounds())
