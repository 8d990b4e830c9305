"""The own-history screen: it learns each edge, sees what turns round, and takes slow change for what it is."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.learn.messages import Order
from wardround.learn.models import MemoryTensors, decode_model, encode_model
from wardround.simulation.toy import toy_model, toy_training
from wardround.watch.detectors.own_history import OwnHistory

DIMENSIONS, EDGES = 400, 6


def judge(screen, number, updates, aside=()):
    return screen.judge_round(number, {edge: MemoryTensors(u) for edge, u in updates.items()}, aside)


def healthy(rng, round_number, edges=EDGES):
    """Updates as training gives them: a common direction that fades, and a part of each edge's own."""
    common = np.random.default_rng(1).normal(size=DIMENSIONS)
    out = {}
    for i in range(edges):
        own = np.random.default_rng(100 + i).normal(size=DIMENSIONS)
        update = (common + 0.8 * own + 0.7 * rng.normal(size=DIMENSIONS)) / (1 + 0.05 * round_number)
        out[f"e{i}"] = {"w": update.astype(np.float32)}
    return out


def warmed(rounds=12, seed=0):
    screen, rng = OwnHistory("seed"), np.random.default_rng(seed)
    for number in range(1, rounds + 1):
        verdicts = judge(screen, number, healthy(rng, number))
        assert all(v.accepted for v in verdicts.values())
    return screen, rng


FAULTS = {
    "turned round and eight times as large": lambda u: -8 * u,
    "turned round": lambda u: -3 * u,
    "noise of the same size": lambda u: np.random.default_rng(9).normal(size=u.shape) * np.std(u) * 4,
    "forty times as large": lambda u: 40 * u,
    "nothing at all": lambda u: u * 1e-6,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_it_names_the_edge_that_has_changed_and_no_other(fault):
    screen, rng = warmed()
    updates = healthy(rng, 13)
    updates["e2"] = {"w": fault(updates["e2"]["w"]).astype(np.float32)}
    verdicts = judge(screen, 13, updates)
    assert [e for e, v in verdicts.items() if not v.accepted] == ["e2"]
    assert verdicts["e2"].score > verdicts["e2"].threshold
    assert verdicts["e2"].reason


def test_a_healthy_hundred_rounds_raise_hardly_anything():
    refused = 0
    for seed in range(3):
        screen, rng = OwnHistory("seed"), np.random.default_rng(seed)
        for number in range(1, 101):
            refused += sum(not v.accepted for v in judge(screen, number, healthy(rng, number)).values())
    assert refused <= 2  # of 1,800


def test_what_it_refused_teaches_it_nothing():
    screen, rng = warmed()
    for number in range(13, 20):
        updates = healthy(rng, number)
        updates["e2"] = {"w": -8 * updates["e2"]["w"]}
        assert not judge(screen, number, updates)["e2"].accepted
    assert judge(screen, 20, healthy(rng, 20))["e2"].accepted


def test_what_an_edge_sends_while_it_is_set_aside_does_not_become_usual():
    """Set aside for its loss, by a person or another screen: here nothing is refused, as a study's threshold is high."""
    scores = {}
    for aside in ((), ("e2",)):
        screen, rng = OwnHistory("seed", threshold=50.0), np.random.default_rng(0)
        for number in range(1, 30):
            updates = healthy(rng, number)
            if number > 12:
                updates["e2"] = {"w": -updates["e2"]["w"]}
            last = judge(screen, number, updates, aside if number > 12 else ())
            assert all(v.accepted for v in last.values())
        scores[aside] = last["e2"].score
    assert scores["e2",] > 6.0 > scores[()]  # it is judged all the while, and comes back as one that has turned round


def test_an_edge_that_was_set_aside_early_and_is_as_honest_as_the_others_counts_afterwards():
    for seed in range(2):
        assert settling(8, seed, rounds=60, aside=("e02", range(6, 37))) == set()


def test_its_history_survives_a_restart():
    screen, rng = warmed()
    again = OwnHistory("seed")
    again.restore(screen.state())
    updates = healthy(rng, 13)
    updates["e1"] = {"w": -8 * updates["e1"]["w"]}
    first, second = judge(screen, 13, updates), judge(again, 13, updates)
    assert {e: v.score for e, v in first.items()} == pytest.approx({e: v.score for e, v in second.items()}, rel=1e-5)
    assert screen.state() == again.state()


def test_its_memory_does_not_grow_with_the_model():
    sizes = []
    for dimensions in (100, 100_000):
        screen, rng = OwnHistory("s"), np.random.default_rng(0)
        for number in range(8):
            judge(screen, number, {f"e{i}": {"w": rng.normal(size=dimensions).astype(np.float32)} for i in range(4)})
        sizes.append(len(screen.state()))
    assert sizes[1] < 1.5 * sizes[0]


def test_a_model_of_a_few_numbers_sets_no_innocent_edge_aside():
    """Updates of 21 numbers point anywhere by chance, all the more as training comes to its end; one edge joins late."""
    aside = []
    for seed in range(60):
        screen, model = OwnHistory(f"seed {seed}"), toy_model(seed)
        late, *others = (f"edge-{seed}-{i}" for i in range(3))
        for number in range(1, 31):
            order, data = Order("s", number, 1, "train", "", b"", 0.0), encode_model(model)
            here = [late, *others] if number >= 5 else others
            updates = {edge: decode_model(toy_training(edge, order, data, b"").data) for edge in here}
            aside += [(seed, edge, number) for edge, v in judge(screen, number, updates).items() if not v.accepted]
            model = {n: (model[n] + np.mean([u[n] for u in updates.values()], axis=0)).astype(np.float32) for n in model}
    assert not aside


def test_a_model_of_a_few_numbers_hides_no_edge_that_turns_round():
    screen, rng = OwnHistory("seed"), np.random.default_rng(2)
    common = rng.normal(size=21)
    for number in range(1, 15):
        updates = {f"e{i}": {"w": (common + 0.3 * rng.normal(size=21)).astype(np.float32)} for i in range(4)}
        if number == 14:
            updates["e2"] = {"w": -updates["e2"]["w"]}
        named = [e for e, v in judge(screen, number, updates).items() if not v.accepted]
    assert named == ["e2"]


def test_a_study_may_move_the_threshold_and_the_rounds_before_the_screen_speaks():
    updates = [healthy(np.random.default_rng(n), n) for n in range(1, 8)]
    updates[6]["e2"] = {"w": -8 * updates[6]["e2"]["w"]}
    named = {}
    for settings in ({}, {"threshold": 1_000.0}, {"rounds_min": 7}):
        screen = OwnHistory("seed", **settings)
        verdicts = [judge(screen, n, u) for n, u in enumerate(updates, 1)][-1]
        named[str(settings)] = [e for e, v in verdicts.items() if not v.accepted]
    assert list(named.values()) == [["e2"], [], []]


def test_training_that_turns_slowly_on_the_same_data_is_no_drift_and_a_bias_that_creeps_in_is():
    """Edges with few examples give nearly the same update in every round, and turn as the model moves: that is honest."""
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(6, DIMENSIONS)), rng.normal(size=(6, DIMENSIONS))
    bias = rng.normal(size=DIMENSIONS)
    for creeping in (False, True):
        screen, named = OwnHistory("seed"), set()
        for number in range(1, 101):
            turned = 0.005 * number
            path = (1 - turned) * start + turned * end + 0.02 * rng.normal(size=start.shape)
            updates = {f"e{i}": {"w": path[i].astype(np.float32)} for i in range(6)}
            if creeping and number > 40:
                updates["e2"] = {"w": (updates["e2"]["w"] + 0.04 * (number - 40) * bias).astype(np.float32)}
            named |= {e for e, v in judge(screen, number, updates).items() if not v.accepted}
        assert named == ({"e2"} if creeping else set())


class Wards:
    """A model of 42 numbers that has learned what there is: each update is an edge's own pull, and mostly chance."""

    def __init__(self, seed, edges=20, size=42):
        self.rng, self.edges, self.size = np.random.default_rng(seed), edges, size
        self.pull = self.rng.normal(size=(edges, size))
        self.screen, self.number = OwnHistory(f"secret {seed}"), 0

    def round(self, change=lambda update, _rng: update, struck=("e03", "e07"), everybody=0.0):
        self.number += 1
        made = self.pull + everybody + 0.9 * self.rng.normal(size=self.pull.shape)
        updates = {f"e{i:02}": made[i] for i in range(self.edges)}
        updates |= {e: change(updates[e], self.rng) for e in struck}
        verdicts = judge(self.screen, self.number, {e: {"w": u.astype(np.float32)} for e, u in updates.items()})
        return {e for e, v in verdicts.items() if not v.accepted}


def test_a_small_model_has_no_false_alarm_in_many_rounds():
    for seed in range(3):
        wards = Wards(seed)
        assert set().union(*(wards.round() for _ in range(200))) == set()  # 4,000 updates


def test_noise_in_place_of_small_updates_is_named_within_a_few_rounds():
    for seed in range(3):
        wards = Wards(seed)
        for _ in range(60):
            wards.round()
        named = set().union(*(wards.round(lambda u, rng: rng.normal(size=u.shape) * np.linalg.norm(u) / 6.5) for _ in range(12)))
        assert named == {"e03", "e07"}


def test_a_bias_that_creeps_in_does_not_become_usual():
    wards, bias = Wards(0), np.random.default_rng(5).normal(size=42)
    for _ in range(60):
        wards.round()
    grown = [wards.round(lambda u, _, n=n: u + 0.04 * n * bias) for n in range(40)]
    assert set().union(*grown) == {"e03", "e07"}


def test_what_happens_to_all_edges_alike_is_nobodys():
    wards = Wards(0)
    for _ in range(60):
        wards.round()
    turned = np.random.default_rng(5).normal(size=42)
    assert set().union(*(wards.round(everybody=0.8 * turned) for _ in range(30))) == set()


def test_when_the_hub_steps_too_far_no_edge_is_accused_of_it_and_history_begins_anew():
    wards = Wards(0)
    step = {"w": np.ones(42, np.float32)}
    for _ in range(40):
        wards.round()
        wards.screen.stepped(MemoryTensors(step))
    wards.screen.stepped(MemoryTensors({"w": 12 * step["w"]}))
    again = OwnHistory("secret 0")
    again.restore(wards.screen.state())
    wards.screen = again
    wards.pull = -wards.pull
    assert wards.round() == set()  # every edge trains from somewhere else
    assert wards.round(lambda u, _: 40 * u) == {"e03", "e07"}  # a size is still a size
    for _ in range(25):
        assert wards.round() == set()
        wards.screen.stepped(MemoryTensors({"w": 12 * step["w"]}))
    assert wards.round(lambda u, _: -u) == {"e03", "e07"}


def elsewhere(change, also=(), seed=0):
    """Edges whose model goes elsewhere after 60 rounds: every update changes by as much, each in its own way; e05's are small.

    Those of `also` turn as far as e05 does, though their updates are as large as most.
    """
    rng = np.random.default_rng(seed)
    pull, way = rng.normal(size=(2, 20, DIMENSIONS))
    pull[5] *= 0.5
    screen, named = OwnHistory(f"seed {seed}"), set()
    for number in range(1, 91):
        sizes = np.array([change * (2.0 if f"e{i:02}" in also else 1.0) for i in range(20)])[:, None]
        noise = 0.4 * np.linalg.norm(pull, axis=1, keepdims=True) / np.sqrt(DIMENSIONS) * rng.normal(size=pull.shape)
        made = pull + noise + (sizes * way if number > 60 else 0.0)
        verdicts = judge(screen, number, {f"e{i:02}": {"w": u.astype(np.float32)} for i, u in enumerate(made)})
        named |= {e for e, v in verdicts.items() if not v.accepted}
    return named


def test_a_model_that_goes_elsewhere_turns_small_updates_further_and_that_is_honest():
    for seed in range(2):
        assert elsewhere(0.5, seed=seed) == set()
        assert elsewhere(0.5, ["e07"], seed=seed) == {"e07"}


def test_where_all_edges_train_from_somewhere_else_their_sizes_change_and_that_is_nobodys():
    wards, step = Wards(0), {"w": np.ones(42, np.float32)}
    for _ in range(40):
        wards.round()
        wards.screen.stepped(MemoryTensors(step))
    wards.screen.stepped(MemoryTensors({"w": 12 * step["w"]}))
    wards.pull *= np.exp(1.2 * wards.rng.normal(size=(20, 1)))
    assert wards.round() == set()
    assert wards.round(lambda u, _: 500 * u) == {"e03", "e07"}


def settling(edges, seed, rounds=150, creeping=(), aside=("", ())):
    """A study that comes to its end: each edge has a loss of its own, steeper than others' in directions of its own.

    Its update is the way down that loss, so every edge's update turns as the model moves, and one turns more than another.
    """
    rng = np.random.default_rng(seed)
    steep = np.exp(rng.normal(size=(edges, DIMENSIONS)) * rng.uniform(0.5, 2.0, size=(edges, 1)))
    goal, bias, model = rng.normal(size=(edges, DIMENSIONS)), rng.normal(size=DIMENSIONS), np.zeros(DIMENSIONS)
    screen, named = OwnHistory(f"seed {seed}"), set()
    for number in range(1, rounds + 1):
        made = 0.02 * np.minimum(steep, 20.0) * (goal - model) * (1 + 0.02 * rng.normal(size=goal.shape))
        updates = {f"e{i:02}": made[i] for i in range(edges)}
        if number > 60:
            usual = np.linalg.norm(made, axis=1).mean() / np.sqrt(DIMENSIONS)
            updates |= {e: updates[e] + 0.03 * (number - 60) * usual * bias for e in creeping}
        out = {aside[0]} if number in aside[1] else set()
        verdicts = judge(screen, number, {e: {"w": u.astype(np.float32)} for e, u in updates.items()}, out)
        named |= {e for e, v in verdicts.items() if not v.accepted}
        model = model + np.mean([u for e, u in updates.items() if verdicts[e].accepted], axis=0)
    return named


@pytest.mark.parametrize("edges", [3, 4])
def test_as_the_training_of_few_edges_comes_to_its_end_none_is_set_aside(edges):
    assert [settling(edges, seed) for seed in range(2)] == [set(), set()]


@pytest.mark.parametrize("edges", [4, 10])
def test_a_bias_that_creeps_in_meanwhile_is_seen(edges):
    assert settling(edges, 0, rounds=100, creeping=["e02"]) == {"e02"}


def test_some_edges_of_many_turn_much_more_than_most_and_that_is_honest():
    """As in 119 hospitals of eICU: between rounds 30 and 60 half of them turned by 12 degrees, a tenth by 19, one by 32."""
    rng = np.random.default_rng(0)
    first, other = rng.normal(size=(2, 20, DIMENSIONS))
    degrees = 12 * np.exp(0.6 * np.linspace(-1.7, 1.7, 20))
    screen, named = OwnHistory("seed"), set()
    for number in range(1, 101):
        angle = np.radians(degrees * np.log2(number))[:, None]  # slower and slower
        made = np.cos(angle) * first + np.sin(angle) * other + 0.05 * rng.normal(size=first.shape)
        verdicts = judge(screen, number, {f"e{i:02}": {"w": u.astype(np.float32)} for i, u in enumerate(made)})
        named |= {e for e, v in verdicts.items() if not v.accepted}
    assert named == set()
