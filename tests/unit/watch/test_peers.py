"""Beside its peers: who is at fault from the first round on is named, and edges that merely differ are not."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.learn.models import MemoryTensors
from wardround.watch.detectors.peers import EDGES_MIN, Peers
from wardround.watch.detectors.screens import Screens
from wardround.watch.detectors.updates import Sketched, Sketcher

SIZE, EDGES = 400, 20


class Federation:
    """Edges that agree at first and less and less, each with a part of its own, as training has it."""

    def __init__(self, seed=0, size=SIZE, edges=EDGES, apart=0.7):
        self.rng, self.size, self.edges, self.number = np.random.default_rng(seed), size, edges, 0
        self.shared = self.rng.normal(size=size)
        self.own = apart * self.rng.normal(size=(edges, size))
        self.sizes = np.exp(0.2 * self.rng.normal(size=edges))
        self.sketcher, self.peers, self.away = Sketcher("secret"), Peers(), set()

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
        sketched = {e: self.sketcher.sketch(u) for e, u in self.updates(*change).items() if e not in self.away}
        verdicts = self.peers.judge(self.number + 1, sketched)
        mean = np.mean([u.norm * u.direction for e, u in sketched.items() if verdicts[e].accepted], axis=0)
        length = float(np.linalg.norm(mean))
        self.peers.stepped(Sketched(mean / length, length, self.size))
        return {e: v.reason for e, v in verdicts.items() if not v.accepted}


FAULTS = {
    "turned round": (lambda u, _: -u, ("peers-direction", "peers-path")),
    "ten times as large": (lambda u, _: 10 * u, ("peers-norm",)),
    "nothing": (lambda u, _: 1e-6 * u, ("peers-norm",)),
    "noise": (
        lambda u, rng: rng.normal(size=u.shape) * np.linalg.norm(u) / np.sqrt(len(u)),
        ("peers-self", "peers-path", "peers-direction"),
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("change", "reasons"), FAULTS.values(), ids=FAULTS)
def test_who_is_at_fault_from_the_first_round_on_is_named_and_nobody_else(change, reasons, seed):
    federation = Federation(seed)
    named = [federation.round(change) for _ in range(10)]
    assert {edge for each in named for edge in each} == {"e02", "e05"}
    assert {reason for each in named for reason in each.values()} <= set(reasons)


@pytest.mark.parametrize("size", [21, 400])
def test_edges_that_differ_are_not_named(size):
    for seed in range(8):
        federation = Federation(seed, size)
        assert [federation.round() for _ in range(60)] == [{}] * 60


def test_a_first_update_that_is_ten_times_as_large_as_the_others_is_enough():
    federation = Federation()
    assert federation.round(lambda u, _: 10 * u) == dict.fromkeys(["e02", "e05"], "peers-norm")
    assert Federation().round(lambda u, _: 4 * u) == {}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("fault", "reason"), [("turned round", "peers-path"), ("noise", "peers-self")])
def test_where_edges_differ_so_much_that_no_round_shows_it_all_first_rounds_together_do(fault, reason, seed):
    federation = Federation(seed, apart=1.3)
    federation.away = {"e02", "e05"}
    federation.round()
    federation.away = set()
    named = [federation.round(FAULTS[fault][0]) for _ in range(12)]
    assert {edge for each in named for edge in each} == {"e02", "e05"}
    assert any(reason in each.values() for each in named)


@pytest.mark.parametrize("apart", [0.7, 1.3, 2.0])
@pytest.mark.parametrize("size", [42, 400])
def test_edges_that_differ_are_not_named_in_all_their_first_rounds(size, apart):
    for seed in range(5):
        federation = Federation(seed, size=size, apart=apart)
        assert [federation.round() for _ in range(40)] == [{}] * 40


def test_who_joins_when_the_long_steps_are_over_is_not_judged_by_the_path():
    federation, named = Federation(apart=1.3), {}
    federation.away = {"e02"}
    for _ in range(8):
        federation.round()
    federation.away = set()
    for _ in range(10):
        named |= federation.round(lambda u, _: -u, ("e02",))
    assert "peers-path" not in named.values()


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
    sketched = {e: federation.sketcher.sketch(u) for e, u in federation.updates(lambda u, _: -u).items()}
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
