"""Beside its peers: who is at fault from the first round on is named, and edges that merely differ are not."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.learn.models import MemoryTensors
from wardround.watch.detectors.peers import EDGES_MIN, Peers
from wardround.watch.detectors.screens import Screens
from wardround.watch.detectors.updates import Sketcher

SIZE, EDGES = 400, 20


class Federation:
    """Edges that agree at first and less and less, each with a part of its own, as training has it."""

    def __init__(self, seed=0, size=SIZE, edges=EDGES):
        self.rng, self.size, self.edges, self.number = np.random.default_rng(seed), size, edges, 0
        self.shared = self.rng.normal(size=size)
        self.own = 0.7 * self.rng.normal(size=(edges, size))
        self.sizes = np.exp(0.2 * self.rng.normal(size=edges))
        self.sketcher, self.peers = Sketcher("secret"), Peers()

    def updates(self, change=lambda update, _rng: update, struck=("e02", "e05")):
        self.number += 1
        fading = 1.5 / self.number
        made = {}
        for i in range(self.edges):
            update = fading * self.shared + fading * self.own[i] + 0.3 * self.rng.normal(size=self.size)
            edge = f"e{i:02}"
            made[edge] = self.sizes[i] * (change(update, self.rng) if edge in struck else update)
        return {e: MemoryTensors({"w": u.astype(np.float32)}) for e, u in made.items()}

    def round(self, *change):
        verdicts = self.peers.judge(self.number + 1, {e: self.sketcher.sketch(u) for e, u in self.updates(*change).items()})
        return {e: v.reason for e, v in verdicts.items() if not v.accepted}


FAULTS = {
    "turned round": (lambda u, _: -u, "peers-direction"),
    "ten times as large": (lambda u, _: 10 * u, "peers-norm"),
    "nothing": (lambda u, _: 1e-6 * u, "peers-norm"),
    "noise": (lambda u, rng: rng.normal(size=u.shape) * np.linalg.norm(u) / np.sqrt(len(u)), "peers-self"),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("change", "reason"), FAULTS.values(), ids=FAULTS)
def test_who_is_at_fault_from_the_first_round_on_is_named_and_nobody_else(change, reason, seed):
    federation, named = Federation(seed), {}
    for _ in range(8):
        named |= federation.round(change)
    assert set(named) == {"e02", "e05"}
    assert reason in named.values()


@pytest.mark.parametrize("size", [21, 400])
def test_edges_that_differ_are_not_named(size):
    for seed in range(8):
        federation = Federation(seed, size)
        assert [federation.round() for _ in range(60)] == [{}] * 60


def test_one_odd_round_is_no_fault():
    federation = Federation()
    federation.round()
    assert federation.round(lambda u, _: 10 * u) == {}
    assert federation.round() == {}


def test_where_updates_do_not_agree_nothing_is_said_of_directions():
    federation = Federation()
    federation.shared = np.zeros(SIZE)
    assert [federation.round(lambda u, _: -u) for _ in range(20)] == [{}] * 20


def test_too_few_edges_have_no_spread():
    federation = Federation(edges=EDGES_MIN - 1)
    assert federation.round(lambda u, _: 100 * u) == federation.round(lambda u, _: 100 * u) == {}


def test_a_round_that_is_judged_again_speaks_once():
    federation = Federation()
    sketched = {e: federation.sketcher.sketch(u) for e, u in federation.updates(lambda u, _: 10 * u).items()}
    assert all(v.accepted for _ in range(3) for v in federation.peers.judge(1, sketched).values())


def test_what_is_known_survives_a_restart():
    federation = Federation()
    federation.round(lambda u, _: 10 * u)
    again = Peers()
    again.restore(federation.peers.state())
    federation.peers = again
    assert federation.round(lambda u, _: 10 * u) == dict.fromkeys(["e02", "e05"], "peers-norm")


def test_the_screens_keep_them_too():
    federation, screens = Federation(), Screens("secret")
    screens.judge_round(1, federation.updates(lambda u, _: 10 * u))
    again = Screens("secret")
    again.restore(screens.state())
    verdicts = again.judge_round(2, federation.updates(lambda u, _: 10 * u))
    assert {e: v.reason for e, v in verdicts.items() if not v.accepted} == dict.fromkeys(["e02", "e05"], "peers-norm")
