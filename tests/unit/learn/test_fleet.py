"""A rehearsal is the live study without links: the same models, whichever way its edges are trained."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from wardround.errors import LearnError
from wardround.learn import fleet as fleet_module
from wardround.learn.fleet import Fleet
from wardround.learn.local import train_locally
from wardround.learn.models import MemoryTensors
from wardround.learn.strategies import STRATEGIES, Fold, WeightedUpdate, make_strategy
from wardround.learn.study import LearnerSettings, RoundSettings, StrategySettings, Study
from wardround.records import Examples

FEATURES, CLASSES = 6, 3


def edge(seed, n):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    centres = np.random.default_rng(99).normal(size=(CLASSES, FEATURES)) * 2
    return Examples(
        features=(centres[labels] + rng.normal(size=(n, FEATURES)) + 0.3 * rng.normal(size=FEATURES)).astype(np.float32),
        labels=labels.astype(np.int32),
        subjects=np.full(n, f"s{seed}"),
        t_us=np.arange(n, dtype=np.int64),
        feature_names=tuple(f"f{i}" for i in range(FEATURES)),
    )


EDGES = {f"edge-{i:02d}": edge(i, n) for i, n in enumerate((2, 30, 64, 65, 150, 90, 41))}


def study(strategy="fedavg", rounds=3, edges_max=0, **learner):
    settings = {"hidden": (5,), "epochs": 2, "batch": 8, "momentum": 0.0, "class_weighting": "balanced", **learner}
    return Study(
        name="s",
        task="activity",
        learner=LearnerSettings(**settings),
        rounds=RoundSettings(count=rounds, edges_min=1, examples_min=1, edges_max=edges_max),
        strategy=StrategySettings(name=strategy, private=("layer1.*",), proximal=0.3),
    )


def by_hand(given, participants):
    """The live study's own steps: train_locally at each edge, then the strategy's fold."""
    fleet = Fleet(given, EDGES, classes=CLASSES)
    strategy, model, memory, kept = make_strategy(given.strategy, given.learner), fleet.first_model(), {}, {}
    for number, names in enumerate(participants, start=1):
        updates = []
        for name in names:
            local = train_locally(
                fleet.learner, given.learner, strategy.rule, model, kept.get(name, {}), EDGES[name], round_number=number
            )
            kept[name] = local.kept
            updates.append(WeightedUpdate(MemoryTensors(local.update), local.examples, local.metrics))
        done = strategy.fold(Fold(MemoryTensors(model), updates, memory, len(EDGES)))
        model, memory = done.model, done.memory
    return model


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s not in {"fltrust", "bagging"}])
@pytest.mark.parametrize("edges_max", [0, 4])
def test_every_strategy_gives_the_live_studys_model(strategy, edges_max):
    given = study(strategy, edges_max=edges_max)
    rounds = list(Fleet(given, EDGES, classes=CLASSES).run())
    expected = by_hand(given, [r.participants for r in rounds])
    assert set(rounds[-1].model) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_allclose(rounds[-1].model[name], tensor, atol=2e-5, err_msg=name)
    if edges_max:
        assert all(len(r.participants) == 4 for r in rounds)
        assert {e for r in rounds for e in r.participants} == set(EDGES)


def test_parts_that_fit_in_memory_give_what_the_whole_gives(monkeypatch):
    whole = list(Fleet(study(), EDGES, classes=CLASSES).run())[-1].model
    monkeypatch.setattr(fleet_module, "POOL_BYTES_MAX", 2_000)
    parts = list(Fleet(study(), EDGES, classes=CLASSES).run())[-1].model
    for name, tensor in whole.items():
        np.testing.assert_allclose(parts[name], tensor, atol=1e-5)


def test_absent_edges_are_said_and_the_rest_goes_on():
    fleet = Fleet(study(rounds=10), EDGES, classes=CLASSES, absent=0.5)
    rounds = list(fleet.run())
    assert any(r.lost for r in rounds)
    assert all(set(r.lost).isdisjoint(r.participants) for r in rounds)
    assert list(fleet.run())[3].lost == rounds[3].lost


def test_a_fleet_without_examples_is_refused():
    nothing = msgspec.structs.replace(edge(1, 20), labels=np.full(20, -1, np.int32))
    with pytest.raises(LearnError, match="no edge"):
        Fleet(study(), {"a": nothing}, classes=CLASSES)


@pytest.mark.parametrize("strategy", ["ditto", "fine-tuning"])
def test_a_personal_model_fits_its_edge_better(strategy):
    fleet = Fleet(study(strategy, rounds=30, learning_rate=0.1), EDGES, classes=CLASSES)
    *_, last = fleet.run()
    gained = []
    for name, examples in EDGES.items():
        own = fleet.learner.predict(fleet.personal(last.model, name), examples.features)
        shared = fleet.learner.predict(last.model, examples.features)
        rows = np.arange(len(examples))
        gained.append(np.log(own[rows, examples.labels]).sum() - np.log(shared[rows, examples.labels]).sum())
    assert sum(gained) > 1
    assert sum(g > 0 for g in gained) > len(gained) / 2
