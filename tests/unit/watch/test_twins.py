"""Twins and free riders: copies, noisy copies and the hub's last step sent back are named; edges that agree are not."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.learn.models import MemoryTensors, Step
from wardround.watch.detectors.screens import Screens
from wardround.watch.detectors.twins import Twins
from wardround.watch.detectors.updates import DIMENSIONS, Sketcher

SIZE, EDGES = 2_000, 10


class Federation:
    """Rounds of edges that agree as much as `common` says; the hub's step is their mean."""

    def __init__(self, common=0.7, seed=0, size=SIZE, edges=EDGES, screens=None):
        self.rng, self.common, self.size, self.edges = np.random.default_rng(seed), common, size, edges
        self.screens = screens or Screens(f"secret {seed}")
        self.base, self.last, self.number = np.zeros(size, np.float32), np.zeros(size), 0

    def round(self, change=lambda updates, _federation: updates):
        """The edges that are refused, with their reasons."""
        self.number += 1
        shared = self.rng.normal(size=self.size)
        updates = {
            f"e{i}": np.sqrt(self.common) * shared + np.sqrt(1 - self.common) * self.rng.normal(size=self.size)
            for i in range(self.edges)
        }
        updates = {e: (u / (1 + 0.02 * self.number)).astype(np.float32) for e, u in change(updates, self).items()}
        verdicts = self.screens.judge_round(self.number, {e: MemoryTensors({"w": u}) for e, u in updates.items()})
        refused = {e: v for e, v in verdicts.items() if not v.accepted}
        self.last = np.mean([u for e, u in updates.items() if e not in refused] or [0 * self.base], axis=0)
        new = (self.base + self.last).astype(np.float32)
        self.screens.stepped(Step(MemoryTensors({"w": self.base}), {"w": new}))
        self.base = new
        return {e: v.reason for e, v in refused.items()}


def copied(updates, federation):
    """e8 and e9 send what e7 sends, each with a tenth of noise and at a size of its own: sybils of one edge."""
    for edge, size in (("e8", 0.9), ("e9", 1.1)):
        noise = 0.1 * federation.rng.normal(size=federation.size)
        updates[edge] = size * (updates["e7"] + noise)
    return updates


def stale(updates, federation):
    """e3 sends the hub's last step, with a little noise."""
    updates["e3"] = 1.2 * federation.last + 0.05 * federation.rng.normal(size=federation.size)
    return updates


@pytest.mark.parametrize("common", [0.0, 0.3, 0.7])
def test_copies_are_named_in_the_second_round_in_which_they_are_sent(common):
    federation = Federation(common)
    assert federation.round(copied) == {}
    assert federation.round(copied) == dict.fromkeys(["e7", "e8", "e9"], "twins-peer")
    assert all(reason.startswith("own-history") for reason in federation.round().values())  # no twin when they are none


@pytest.mark.parametrize("common", [0.0, 0.3, 0.7])
def test_who_sends_the_last_global_step_back_is_named(common):
    federation = Federation(common)
    federation.round()
    named = [federation.round(stale) for _ in range(3)]
    assert named == [{}, {"e3": "twins-stale"}, {"e3": "twins-stale"}]


@pytest.mark.parametrize("common", [0.0, 0.5, 0.9, 0.97, 0.999])
@pytest.mark.parametrize("edges", [2, 3, 5, 10])
def test_edges_that_agree_are_no_twins_however_much_they_agree(common, edges):
    for seed in range(3):
        federation = Federation(common, seed, edges=edges, screens=Screens(f"s{seed}", threshold=1e6))
        assert [federation.round() for _ in range(40)] == [{}] * 40


def test_copies_are_named_among_edges_that_agree():
    federation = Federation(0.9)

    def exact(updates, _):
        return updates | {"e8": 1.3 * updates["e7"]}

    federation.round(exact)
    assert set(federation.round(exact)) == {"e7", "e8"}


def test_models_of_a_few_numbers_are_alike_by_chance_and_only_copies_are_twins():
    refused = 0
    for seed in range(20):
        federation = Federation(0.0, seed, size=8, edges=8, screens=Screens(f"s{seed}", threshold=1e6))
        refused += sum(len(federation.round()) for _ in range(25))
    assert refused <= 2  # of 4,000

    def exact(updates, _):
        return updates | {"e7": updates["e6"]}

    federation = Federation(0.0, size=21, edges=8)
    federation.round(exact)
    assert set(federation.round(exact)) == {"e6", "e7"}


def test_a_round_that_is_judged_again_speaks_once():
    sketcher, rng = Sketcher("s"), np.random.default_rng(0)
    made = {f"e{i}": rng.normal(size=SIZE).astype(np.float32) for i in range(6)}
    made["e1"] = made["e0"]
    sketched = {e: sketcher.sketch(MemoryTensors({"w": u})) for e, u in made.items()}
    twins = Twins("s")
    assert all(v.accepted for _ in range(3) for v in twins.judge(1, sketched).values())
    assert {e for e, v in twins.judge(2, sketched).items() if not v.accepted} == {"e0", "e1"}


def test_what_is_known_survives_a_restart():
    federation = Federation(0.3)
    federation.round(lambda u, f: stale(copied(u, f), f))
    federation.round()
    state = federation.screens.state()
    federation.screens = Screens("secret 0")
    federation.screens.restore(state)
    assert set(federation.round(copied)) >= {"e7", "e8", "e9"}
    federation.round(stale)
    assert federation.screens.state() != state


def test_an_older_hubs_history_is_of_other_sketches_and_begins_anew():
    federation = Federation(0.3, edges=3)
    for _ in range(8):
        federation.round()
    older = federation.screens._own_history.state()
    federation.screens = Screens("secret 0")
    federation.screens.restore(older)
    assert federation.screens.state() == Screens("secret 0").state()
    assert federation.round() == {}


def test_memory_is_three_numbers_an_edge_and_one_step_whatever_the_model():
    sizes = []
    for size in (1_000, 100_000):
        sketcher, twins, rng = Sketcher("s"), Twins("s"), np.random.default_rng(0)
        for number in range(6):
            made = {f"e{i}": MemoryTensors({"w": rng.normal(size=size).astype(np.float32)}) for i in range(20)}
            twins.judge(number, {e: sketcher.sketch(u) for e, u in made.items()})
            twins.stepped(sketcher.sketch(made["e0"]))
        sizes.append(len(twins.state()))
    assert sizes[0] == sizes[1] < 8 * DIMENSIONS + 20 * 30


def test_an_update_of_nothing_is_nobodys_twin():
    sketcher, twins = Sketcher("s"), Twins("s")
    nothing = {f"e{i}": sketcher.sketch(MemoryTensors({"w": np.zeros(100, np.float32)})) for i in range(6)}
    assert all(v.accepted for number in range(4) for v in twins.judge(number, nothing).values())
    assert twins.judge(9, {}) == {}


def test_large_rounds_are_compared_in_parts_and_completely():
    sketcher, rng = Sketcher("s"), np.random.default_rng(1)
    made = {f"e{i:04}": rng.normal(size=300).astype(np.float32) for i in range(600)}
    made["e0599"] = made["e0001"]
    sketched = {e: sketcher.sketch(MemoryTensors({"w": u})) for e, u in made.items()}
    twins = Twins("s")
    for number in (1, 2):
        named = {e for e, v in twins.judge(number, sketched).items() if not v.accepted}
    assert named == {"e0001", "e0599"}


@pytest.mark.parametrize("tensors", [1, 12])
def test_a_part_of_a_large_update_stands_for_it(tensors):
    """Cosine and norm of what is read are those of the whole, to the error of the sketch, for tensors of any size."""
    rng = np.random.default_rng(0)
    sizes = [400_000 // tensors] * tensors + [7, 300]
    first = {f"t{i:02}": rng.normal(size=n).astype(np.float32) for i, n in enumerate(sizes)}
    second = {n: (0.9 * t + np.sqrt(1 - 0.81) * rng.normal(size=t.shape)).astype(np.float32) for n, t in first.items()}
    sketcher = Sketcher("s")
    a, b = (sketcher.sketch(MemoryTensors(u)) for u in (first, second))
    flat = np.concatenate(list(first.values()))
    assert a.norm == pytest.approx(float(np.linalg.norm(flat)), rel=0.02)
    assert float(a.direction @ b.direction) == pytest.approx(0.9, abs=0.06)
    assert a.size == len(flat)

    class Counted(MemoryTensors):
        read = 0

        def block(self, name, start, stop):
            Counted.read += stop - start
            return super().block(name, start, stop)

    sketcher.sketch(Counted(first))
    assert Counted.read < 0.6 * len(flat)


class Wards(Federation):
    """Four hospitals with four wards each: within one their updates are much alike, and the data of each stay."""

    HOSPITALS, WARDS, ALIKE = 4, 4, 0.97

    def __init__(self, seed=0, again=0.9):
        super().__init__(0.0, seed, screens=Screens(f"s{seed}", threshold=1e6))
        self.hospitals = self.rng.normal(size=(self.HOSPITALS, self.size))
        self.own = self.rng.normal(size=(self.HOSPITALS, self.WARDS, self.size))
        self.again = again  # of what is a ward's own, the part that comes again in its next round

    def round(self, change=lambda updates, _federation: updates):
        fresh = self.rng.normal(size=self.own.shape)
        own = np.sqrt(self.again) * self.own + np.sqrt(1 - self.again) * fresh
        made = np.sqrt(self.ALIKE) * self.hospitals[:, None] + np.sqrt(1 - self.ALIKE) * own
        wards = {f"e{i}{j}": made[i, j] for i in range(self.HOSPITALS) for j in range(self.WARDS)}
        return super().round(lambda _, federation: change(wards, federation))


@pytest.mark.parametrize("again", [0.8, 1.0])
def test_wards_of_one_hospital_are_close_and_no_twins_as_each_has_data_of_its_own(again):
    for seed in range(3):
        wards = Wards(seed, again)
        assert [wards.round() for _ in range(20)] == [{}] * 20


def test_a_ward_that_sends_another_wards_update_is_named_and_the_wards_beside_them_are_not():
    wards = Wards()

    def noisy(updates, federation):
        noise = 0.05 * federation.rng.normal(size=federation.size)
        return updates | {"e12": updates["e11"] + noise}

    assert [wards.round() for _ in range(3)] == [{}] * 3
    named = [wards.round(noisy) for _ in range(2)]
    assert named[-1] == dict.fromkeys(["e11", "e12"], "twins-peer")
    assert set().union(*(wards.round() for _ in range(6))) <= {"e11", "e12"}


def test_what_was_between_two_wards_survives_a_restart():
    wards = Wards()
    wards.round()
    state = wards.screens.state()
    wards.screens = Screens("s0", threshold=1e6)
    wards.screens.restore(state)
    assert wards.round() == {}
    assert wards.round(lambda updates, _: updates | {"e12": 1.1 * updates["e11"]}) == dict.fromkeys(["e11", "e12"], "twins-peer")
