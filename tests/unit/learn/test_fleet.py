"""A rehearsal is the live study without links: the same models, whichever way its edges are trained."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from wardround.errors import LearnError
from wardround.learn import virtual_edges
from wardround.learn.faults import Faults, condition_at
from wardround.learn.fleet import Fleet
from wardround.learn.local import train_locally
from wardround.learn.models import MemoryTensors, is_buffer
from wardround.learn.privacy.modes import PrivacySettings
from wardround.learn.strategies import STRATEGIES, Fold, WeightedUpdate, make_strategy
from wardround.learn.study import LearnerSettings, RoundSettings, StrategySettings, Study, TriageSettings
from wardround.records import Examples
from wardround.settings import ScheduleSettings
from wardround.watch.detectors.screens import Screens

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
    monkeypatch.setattr(virtual_edges, "POOL_BYTES_MAX", 2_000)
    parts = list(Fleet(study(), EDGES, classes=CLASSES).run())[-1].model
    for name, tensor in whole.items():
        np.testing.assert_allclose(parts[name], tensor, atol=1e-5)


def test_absent_edges_are_said_and_the_rest_goes_on():
    fleet = Fleet(study(rounds=10), EDGES, classes=CLASSES, faults=Faults(absent=0.5))
    rounds = list(fleet.run())
    assert any(r.lost for r in rounds)
    assert all(set(r.lost).isdisjoint(r.participants) for r in rounds)
    assert list(fleet.run())[3].lost == rounds[3].lost


def settings(given, **changes):
    return msgspec.structs.replace(given, rounds=msgspec.structs.replace(given.rounds, **changes))


def test_slow_edges_miss_the_deadline_and_over_selection_spares_the_wait():
    faults = Faults(slow=0.4)
    waits = list(Fleet(settings(study(), edges_min=2, deadline_s=30.0), EDGES, classes=CLASSES, faults=faults).run())
    slow = set(waits[0].lost)
    assert slow
    assert all(set(r.lost) == slow for r in waits)
    assert all(r.virtual_s == pytest.approx(30.0) for r in waits)
    wanted = len(EDGES) - len(slow)
    given = settings(study(edges_max=wanted), edges_min=2, deadline_s=30.0, over_selection=10.0)
    spared = list(Fleet(given, EDGES, classes=CLASSES, faults=faults).run())
    assert all(r.virtual_s < 10.0 and not r.lost for r in spared)
    assert all(slow.isdisjoint(r.participants) for r in spared)


def test_in_a_buffered_study_slow_edges_come_late_and_count_for_less():
    faults = Faults(slow=0.3)
    given = settings(study(rounds=25), edges_min=2, mode="buffered", buffer=3, deadline_s=2.0)
    late = list(Fleet(given, EDGES, classes=CLASSES, faults=faults).run())
    slow = set(Fleet(settings(study(), deadline_s=30.0), EDGES, classes=CLASSES, faults=faults).run().__next__().lost)
    assert slow
    assert slow & {e for r in late for e in r.participants}
    assert slow.isdisjoint(late[0].participants)
    assert all(len(r.participants) >= 2 for r in late)


def test_means_and_single_updates_of_several_bases_give_the_same_model(monkeypatch):
    given = settings(study(rounds=6), edges_min=2, mode="buffered", buffer=3, deadline_s=4.0)
    faults = Faults(slow=0.3, absent=0.1)
    together = list(Fleet(given, EDGES, classes=CLASSES, faults=faults).run())
    each = list(Fleet(given, EDGES, classes=CLASSES, faults=faults, screen=Trusting()).run())
    assert [r.participants for r in together] == [r.participants for r in each]
    for name, tensor in together[-1].model.items():
        np.testing.assert_allclose(each[-1].model[name], tensor, atol=2e-5, err_msg=name)


def test_an_edge_of_very_many_examples_weighs_no_more_than_the_bound_however_it_is_trained():
    given = study("fedavg", rounds=1, class_weighting="none")
    bounded = msgspec.structs.replace(given, triage=TriageSettings(examples_ratio_max=1.0))  # of a median of 64
    (together,) = Fleet(bounded, EDGES, classes=CLASSES).run()
    (each,) = Fleet(bounded, EDGES, classes=CLASSES, screen=Trusting()).run()
    (free,) = Fleet(given, EDGES, classes=CLASSES).run()
    fleet = Fleet(bounded, EDGES, classes=CLASSES)
    base, strategy = fleet.first_model(), make_strategy(given.strategy, given.learner)
    updates = []
    for own in EDGES.values():
        local = train_locally(fleet.learner, given.learner, strategy.rule, base, {}, own, round_number=1)
        updates.append(WeightedUpdate(MemoryTensors(local.update), min(64, local.examples)))
    expected = strategy.fold(Fold(MemoryTensors(base), updates, {}, len(EDGES))).model
    for name, tensor in expected.items():
        np.testing.assert_allclose(together.model[name], tensor, atol=2e-5, err_msg=name)
        np.testing.assert_allclose(each.model[name], tensor, atol=2e-5, err_msg=name)
    assert not all(np.allclose(free.model[name], tensor, atol=2e-5) for name, tensor in expected.items())


class Said(NamedTuple):
    accepted: bool
    reason: str = "own-history"
    score: float = 0.0
    threshold: float = 1.0


class Trusting:
    """A screen that refuses whom it is told to, from a round on."""

    def __init__(self, refused=(), since=0):
        self._refused, self._since, self.judged, self.aside, self.steps = set(refused), since, [], [], 0

    def judge_round(self, number, updates, aside=()):
        self.judged.append(set(updates))
        self.aside.append(set(aside))
        return {e: Said(e not in self._refused or number < self._since) for e in updates}

    def stepped(self, _step):
        self.steps += 1


@pytest.mark.parametrize("screen", [None, Trusting()], ids=["means", "each"])
def test_an_update_of_nan_is_refused_and_the_round_goes_on(screen):
    done = list(Fleet(study(rounds=6), EDGES, classes=CLASSES, faults=Faults(nan=0.3), screen=screen).run())
    assert {reason for r in done for reason in r.refused.values()} == {"not-finite"}
    assert all(set(r.refused).isdisjoint(r.participants) for r in done)
    assert all(np.isfinite(t).all() for t in done[-1].model.values())


def test_whom_the_screen_refuses_is_set_aside_and_stays_so():
    screen = Trusting({"edge-03"}, since=2)
    given = study(rounds=4)
    done = list(Fleet(given, EDGES, classes=CLASSES, screen=screen).run())
    assert [r.aside for r in done] == [(), ("edge-03",), ("edge-03",), ("edge-03",)]
    assert "edge-03" not in done[1].participants
    assert screen.steps == 4
    others = {n: e for n, e in EDGES.items() if n != "edge-03"}
    assert screen.judged[1] == {*others, "edge-03"}
    assert screen.aside == [set(), set(), {"edge-03"}, {"edge-03"}]  # what it sends from then on is not its usual


def test_a_round_that_fails_is_tried_again_and_what_arrived_counts():
    given = settings(study(rounds=6), edges_min=6)
    done = list(Fleet(given, EDGES, classes=CLASSES, faults=Faults(absent=0.3)).run())
    assert max(r.attempts for r in done) > 1
    assert all(len(r.participants) >= 6 for r in done)


def test_a_round_that_cannot_be_had_is_an_error_not_a_wait():
    with pytest.raises(LearnError, match="given up 20 times"):
        list(Fleet(settings(study(), edges_min=7), EDGES, classes=CLASSES, faults=Faults(absent=1.0)).run())


def test_edges_are_asked_when_the_schedule_lets_them():
    night = msgspec.structs.replace(study(rounds=3), schedule=ScheduleSettings(windows=("01:00-03:00",), charging=True))
    done = list(Fleet(night, EDGES, classes=CLASSES).run())
    assert all(r.participants for r in done)
    never = msgspec.structs.replace(night, schedule=ScheduleSettings(windows=("14:00-15:00",), charging=True))
    with pytest.raises(LearnError, match="for two weeks"):
        list(Fleet(never, EDGES, classes=CLASSES).run())


def test_virtual_edges_are_plugged_in_for_some_hours_of_the_night():
    hours = [sum(condition_at(0, f"e{i}", h * 900.0).charging for h in range(96)) / 4 for i in range(40)]
    assert min(hours) >= 6
    assert max(hours) <= 10.25
    for i in range(40):
        levels = [condition_at(0, f"e{i}", h * 900.0).battery for h in range(96)]
        assert 19 <= min(levels) <= 25
        assert max(levels) == 100


def test_training_that_diverges_is_said_where_only_sums_are_made_and_refused_where_updates_are():
    pulled = StrategySettings(name="fedprox", proximal=1e3)  # beyond the clipped gradient
    wild = msgspec.structs.replace(study(learning_rate=99.0), strategy=pulled)
    with pytest.raises(LearnError, match="diverged"):
        list(Fleet(wild, EDGES, classes=CLASSES).run())
    first = next(Fleet(wild, EDGES, classes=CLASSES, screen=Trusting()).run())
    assert len(first.refused) >= 5
    assert all("diverged" in reason for reason in first.refused.values())
    assert all(np.isfinite(t).all() for t in first.model.values())


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


def blind(given, **privacy):
    return msgspec.structs.replace(given, privacy=PrivacySettings(mode="blind", **privacy))


def moved(model, other):
    return max(float(np.abs(model[name] - other[name]).max()) for name in model if not is_buffer(name))


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_blind_rehearsal_gives_the_clear_model_to_rounding_and_no_screen_looks(strategy):
    class Refuses(Screens):
        def judge_round(self, round_number, updates, aside=()):
            raise AssertionError("a blind hub has no update to look at")

    clear = [r.model for r in Fleet(study(strategy), EDGES, classes=CLASSES).run()]
    fleet = Fleet(blind(study(strategy)), EDGES, classes=CLASSES, screen=Refuses("s"))
    rounds = list(fleet.run())
    assert not fleet.screened
    for done, model in zip(rounds, clear, strict=True):
        assert 0 < moved(done.model, model) < 1e-4
        assert not done.metrics  # nor does it learn a loss


def test_a_rehearsal_in_groups_folds_their_sums_and_not_the_updates():
    """Six edges in groups of two (live none is so small): the median is of three means."""
    folded = []

    class Watched(Fleet):
        def _sum(self, made, base, circle):
            folded.append((len(made), circle))
            return super()._sum(made, base, circle)

    grouped = msgspec.structs.replace(study("coordinate-median"), privacy=PrivacySettings(mode="blind-groups", group_edges=2))
    fleet = Watched(grouped, EDGES, classes=CLASSES)
    done = next(iter(fleet.run()))
    number = max(1, len(fleet.names) // 2)
    assert len(folded) == number
    assert sum(n for n, _ in folded) == len(fleet.names)
    assert max(n for n, _ in folded) <= folded[0][1]
    alone = next(iter(Fleet(study("coordinate-median"), EDGES, classes=CLASSES).run())).model
    assert moved(done.model, alone) > 1e-4


def test_a_blind_update_that_is_clipped_or_not_finite_is_what_it_is_live():
    first = next(iter(Fleet(study(), EDGES, classes=CLASSES).run())).model
    tight = Fleet(blind(study(), clip=1e-3), EDGES, classes=CLASSES)
    done = next(iter(tight.run()))
    assert moved(done.model, tight.first_model()) <= 1.001e-3 < moved(first, tight.first_model())
    spoilt = Fleet(blind(study()), EDGES, classes=CLASSES, faults=Faults(nan=0.4))
    refused = next(iter(spoilt.run())).refused
    assert refused
    assert set(refused.values()) == {"not-finite"}
