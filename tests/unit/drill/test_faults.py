"""Faults of the drill: each alters those who are struck as it says, the same way for the same seed, and nobody else."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.drill.catalogue import FAULTS, FROM_THE_START, chosen
from wardround.drill.faults import Scene, flat, shaped
from wardround.drill.meddling import Meddling
from wardround.drill.synthetic import FEATURES, SyntheticWards
from wardround.errors import StudyError
from wardround.learn.interference import overshot
from wardround.learn.models import MemoryTensors
from wardround.learn.virtual_edges import Made

WARDS = SyntheticWards(3)
NAMES = WARDS.names
OF_DATA = ("label-flip", "concept-drift", "covariate-drift", "dead-sensor", "unit-error", "creeping-sensor")
OF_UPDATES = tuple(n for n in FAULTS if n not in (*OF_DATA, "straggler", "server-step", "participation"))
STEP = {"w": np.ones((3, 4), np.float32), "b": np.full(5, 0.5, np.float32)}


def scene(fault, since=0, number=10, struck=None):
    struck = FAULTS[fault].edges(NAMES, 1) if struck is None else frozenset(struck)
    return Scene(1, number, since, struck, 2, np.zeros(FEATURES), np.ones(FEATURES), STEP)


def updates(seed=0):
    rng = np.random.default_rng(seed)
    made = {}
    for name in NAMES:
        tensors = {"w": 1 + rng.normal(size=(3, 4)), "b": 1 + rng.normal(size=5)}
        made[name] = Made(MemoryTensors({n: t.astype(np.float32) for n, t in tensors.items()}), 30)
    return made


def test_there_are_eighteen_and_each_says_what_it_is():
    assert len(FAULTS) == 18
    assert set(FROM_THE_START) <= set(FAULTS)
    for fault in FAULTS.values():
        assert len(fault.story()) > 60
        assert fault.title
        assert fault.seen_by


@pytest.mark.parametrize("name", [n for n, f in FAULTS.items() if f.share])
def test_who_is_struck_follows_from_the_seed(name):
    fault = FAULTS[name]
    assert len(fault.edges(NAMES, 1)) == max(1, round(fault.share * len(NAMES)))
    assert fault.edges(NAMES, 1) == fault.edges(NAMES, 1)
    assert len({fault.edges(NAMES, s) for s in range(5)}) > 1


@pytest.mark.parametrize("name", OF_DATA)
def test_a_fault_of_data_keeps_the_rows_and_leaves_what_was_given_alone(name):
    edge, fault = NAMES[0], FAULTS[name]
    given = WARDS.examples(1)[edge]
    before = given.features.copy(), given.labels.copy()
    found = fault.examples(scene(name, since=20), edge, given)
    assert len(found) == len(given)
    np.testing.assert_array_equal(before[0], given.features)
    np.testing.assert_array_equal(before[1], given.labels)
    assert not (np.array_equal(found.features, given.features) and np.array_equal(found.labels, given.labels))
    again = fault.examples(scene(name, since=20), edge, given)
    np.testing.assert_array_equal(found.features, again.features)


def test_what_each_fault_of_data_does():
    edge = NAMES[0]
    given = WARDS.tried()[edge]
    assert (FAULTS["label-flip"].examples(scene("label-flip"), edge, given).labels != given.labels).all()
    half = np.mean(FAULTS["concept-drift"].examples(scene("concept-drift"), edge, given).labels != given.labels)
    assert half == pytest.approx(0.5, abs=0.01)
    for name, moved, spread in (("covariate-drift", 1.0, 1.0), ("dead-sensor", None, 0.0), ("unit-error", None, 1.8)):
        found = FAULTS[name].examples(scene(name), edge, given)
        feature = int(np.argmax(np.abs(found.features.mean(axis=0) - given.features.mean(axis=0))))
        was, now = given.features[:, feature], found.features[:, feature]
        assert now.std() / was.std() == pytest.approx(spread, abs=0.35)
        if moved is not None:
            assert (now.mean() - was.mean()) / was.std() == pytest.approx(moved, abs=0.45)
    creep = [FAULTS["creeping-sensor"].examples(scene("creeping-sensor", since=s), edge, given) for s in (0, 50)]
    np.testing.assert_allclose(creep[0].features, given.features, rtol=1e-5, atol=1e-5)
    assert np.abs(creep[1].features - given.features).max() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", OF_UPDATES)
def test_a_fault_of_updates_alters_those_who_are_struck_and_keeps_shapes(name):
    given = updates()
    found = FAULTS[name].updates(scene(name, since=5), given)
    assert set(found) == FAULTS[name].edges(NAMES, 1)
    for edge, made in found.items():
        assert made.tensors.shapes() == given[edge].tensors.shapes()
        assert made.tensors.dtype("w") == np.float32
        assert made.examples == given[edge].examples
    again = FAULTS[name].updates(scene(name, since=5), given)
    assert all(np.array_equal(flat(found[e]), flat(again[e]), equal_nan=True) for e in found)


def test_what_each_fault_of_updates_does():
    given, struck = updates(), ("edge-0003", "edge-0009")
    own = {e: flat(given[e]) for e in struck}
    made = {n: {e: flat(m) for e, m in FAULTS[n].updates(scene(n, 10, struck=struck), given).items()} for n in OF_UPDATES}
    norms = [np.linalg.norm(flat(m)) for e, m in given.items() if e not in struck]
    for edge in struck:
        np.testing.assert_allclose(made["sign-flip"][edge], -own[edge])
        np.testing.assert_allclose(made["scaling"][edge], 10 * own[edge], rtol=1e-5)
        assert np.isnan(made["nan"][edge]).sum() == 1
        assert np.abs(made["free-rider-zero"][edge]).max() < 1e-5
        moved = np.linalg.norm(made["creeping-update"][edge] - own[edge])
        assert moved == pytest.approx(0.3 * np.mean(norms), rel=1e-3)
    np.testing.assert_allclose(made["alie"][struck[0]], made["alie"][struck[1]])
    assert made["alie"][struck[0]].mean() == pytest.approx(1 - 1.5, abs=0.3)
    step = flat(Made(MemoryTensors(STEP), 1))
    assert np.corrcoef(made["free-rider-stale"][struck[0]], step)[0, 1] > 0.99
    one, other = (made["sybil"][e] for e in struck)
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.98


def test_flat_and_shaped_are_inverse():
    made = updates()[NAMES[0]]
    again = shaped(made, flat(made))
    for name in ("w", "b"):
        np.testing.assert_array_equal(again.tensors.block(name, 0, 5), made.tensors.block(name, 0, 5))


def test_it_begins_with_its_round_and_strikes_nobody_else():
    meddling = Meddling(WARDS, NAMES, FAULTS["label-flip"], from_round=5, seed=1)
    plain = WARDS.examples(4)
    assert all(np.array_equal(meddling.examples(4, NAMES)[n].labels, plain[n].labels) for n in NAMES)
    plain, found = WARDS.examples(5), meddling.examples(5, NAMES)
    changed = {n for n in NAMES if not np.array_equal(found[n].labels, plain[n].labels)}
    assert changed == meddling.struck != frozenset()


def test_faults_of_the_fleet_and_the_hub():
    slow = Meddling(WARDS, NAMES, FAULTS["straggler"], from_round=5, seed=1)
    assert {slow.seconds(4, n, 2.0) for n in NAMES} == {2.0}
    assert {n for n in NAMES if slow.seconds(5, n, 2.0) == 5.0} == slow.struck
    away = Meddling(WARDS, NAMES, FAULTS["participation"], from_round=5, seed=1)
    assert not any(away.stays_away(4, n, 1) for n in NAMES)
    assert 10 <= sum(away.stays_away(5, n, 1) for n in NAMES) <= 30
    steps = Meddling(WARDS, NAMES, FAULTS["server-step"], from_round=5, seed=1)
    assert [steps.step_factor(n) for n in (4, 5)] == [1.0, 12.0]
    base = {"w": np.ones(2, np.float32), "scale.mean": np.zeros(2, np.float32)}
    moved = overshot(base, {"w": np.full(2, 1.5, np.float32), "scale.mean": np.ones(2, np.float32)}, 12.0)
    assert moved["w"].tolist() == [7.0, 7.0]
    assert moved["scale.mean"].tolist() == [1.0, 1.0]


def test_a_fault_that_is_not_there_is_named_with_what_is_near():
    with pytest.raises(StudyError, match="label-flop") as error:
        chosen("label-flop")
    assert "label-flip" in error.value.remedy
    with pytest.raises(StudyError):
        chosen(" , ")
    assert [f.name for f in chosen("all")] == list(FAULTS)
    assert [f.name for f in chosen("nan, alie")] == ["nan", "alie"]
