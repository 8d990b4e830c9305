"""Beside its peers: who is at fault from the first round on is named, and edges that merely differ are not."""

from __future__ import annotations

import msgspec
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
    "turned round": (lambda u, _: -u, ("peers-climb", "peers-path")),
    "ten times as large": (lambda u, _: 10 * u, ("peers-norm",)),
    "nothing": (lambda u, _: 1e-6 * u, ("peers-norm",)),
    "noise": (
        lambda u, rng: rng.normal(size=u.shape) * np.linalg.norm(u) / np.sqrt(len(u)),
        ("peers-self", "peers-path", "peers-climb"),
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fault", ["turned round", "ten times as large", "nothing"])
def test_who_is_at_fault_from_the_first_round_on_is_named_and_nobody_else(fault, seed):
    federation, (change, reasons) = Federation(seed), FAULTS[fault]
    named = [federation.round(change) for _ in range(12)]
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
@pytest.mark.parametrize(("fault", "reason"), [("turned round", "peers-path peers-climb"), ("noise", "peers-self")])
def test_where_edges_differ_so_much_that_no_round_shows_it_all_first_rounds_together_do(fault, reason, seed):
    federation = Federation(seed, apart=1.3)
    federation.away = {"e02", "e05"}
    federation.round()
    federation.away = set()
    named = [federation.round(FAULTS[fault][0]) for _ in range(12)]
    assert {edge for each in named for edge in each} == {"e02", "e05"}
    assert {r for each in named for r in each.values()} & set(reason.split())


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


class Wards:
    """Edges that descend quadratic losses of their own: `kinds` optima, and each ward near that of its kind.

    All kinds but the last want one direction besides what is theirs alone; the last wants the opposite.
    """

    def __init__(self, seed=0, kinds=4, each=5, own=0.3, noise=0.1, size=60, shared=3.0):
        self.rng = np.random.default_rng(seed)
        optima = self.rng.normal(size=(kinds, size))
        optima += shared * np.where(np.arange(kinds) == kinds - 1, -1, 1)[:, None] * self.rng.normal(size=size)
        self.optima = np.repeat(optima, each, axis=0) + own * self.rng.normal(size=(kinds * each, size))
        self.names = [f"k{i // each}-{i % each}" for i in range(kinds * each)]
        self.curvature = 0.2 + self.rng.random(size)
        self.model, self.noise, self.number = np.zeros(size), noise, 0
        self.sketcher, self.peers = Sketcher("secret"), Peers()

    def round(self, change=lambda update: update, struck=()):
        self.number += 1
        made = {}
        for name, optimum in zip(self.names, self.optima, strict=True):
            update = 0.2 * self.curvature * (optimum - self.model + self.noise * self.rng.normal(size=len(optimum)))
            made[name] = change(update) if name in struck else update
        sketched = {e: self.sketcher.sketch(MemoryTensors({"w": u.astype(np.float32)})) for e, u in made.items()}
        verdicts = self.peers.judge(self.number, sketched)
        step = np.mean([u for e, u in made.items() if verdicts[e].accepted], axis=0)
        self.model = self.model + step
        self.peers.stepped(self.sketcher.sketch(MemoryTensors({"w": step.astype(np.float32)})))
        return {e: v.reason for e, v in verdicts.items() if not v.accepted}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("each", [5, 8])
def test_a_kind_of_edges_that_is_drawn_the_other_way_is_left_alone(each, seed):
    wards = Wards(seed, each=each)
    assert [wards.round() for _ in range(40)] == [{}] * 40


@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_sign_is_named_among_kinds_too_also_in_the_one_that_is_drawn_the_other_way(seed):
    wards, named = Wards(seed), {}
    for _ in range(12):
        named |= wards.round(lambda update: -update, struck=("k0-1", "k3-2"))
    assert set(named) == {"k0-1", "k3-2"}
    assert set(named.values()) <= {"peers-climb", "peers-path"}


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_named_among_kinds(seed):
    wards, named = Wards(seed), {}
    for _ in range(12):
        noise = wards.rng.normal(size=60)
        named |= wards.round(lambda update, noise=noise: noise * np.linalg.norm(update) / np.linalg.norm(noise), struck=("k1-1",))
    assert named == {"k1-1": "peers-self"}


def test_what_another_version_kept_is_forgotten():
    federation = Federation()
    federation.round()
    federation.peers.restore(msgspec.msgpack.encode({"edges": {"e01": {"pairs": 3, "along": [0.1, 0.2]}}}))
    assert federation.round() == {}


@pytest.mark.parametrize("seed", range(5))
def test_liars_who_are_alike_are_no_kind_where_others_come_in_none(seed):
    wards = Wards(seed, kinds=20, each=1, shared=2.0)
    liars = {"k17-0", "k18-0", "k19-0"}
    wards.optima[-3:] = wards.optima[-1] + 0.05 * wards.rng.normal(size=(3, 60))
    named = {}
    for _ in range(12):
        named |= wards.round()
    assert named == dict.fromkeys(liars, "peers-path")


def test_more_edges_than_are_asked_for_their_kind_are_judged_alike():
    wards = Wards(0, kinds=5, each=30)
    assert [wards.round() for _ in range(12)] == [{}] * 12
