"""What a release of mode `clear-dp` is: clipped to a length, noisy by as much as was reckoned, spent before it is made."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.clock import ManualClock
from wardround.errors import StorageFull, StudyError
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.models import MemoryTensors
from wardround.learn.privacy import central as module
from wardround.learn.privacy.accounting import Release, epsilon
from wardround.learn.privacy.central import GRID, Central, Plan, add_clipped
from wardround.learn.privacy.ledger import MemoryLedger
from wardround.learn.privacy.modes import PrivacySettings
from wardround.records import EdgeId

NOISY = 200_000  # parameters, where noise is measured


def private(ledger=None, **own) -> Central:
    settings = PrivacySettings(**{"mode": "clear-dp", "population": 10, "noise": 2.0, "target_epsilon": 50.0, **own})
    study = SimpleNamespace(name="s", privacy=settings, rounds=SimpleNamespace(count=3))
    return Central(study, ledger if ledger is not None else MemoryLedger(), ManualClock(), MemoryBlobs())


def tensors(values) -> MemoryTensors:
    return MemoryTensors({"w": np.asarray(values, np.float32)})


def mean(central: Central, updates, size: int = 4, number: int = 1) -> np.ndarray:
    base = tensors(np.zeros(size))
    return central.mean(number, 1, base, ("w",), [tensors(u) for u in updates])["w"]


@pytest.fixture
def silent(monkeypatch):
    """Without noise, to look at the sum."""
    monkeypatch.setattr(module, "discrete_gaussian", lambda _sigma, size: np.zeros(size, np.int64))


@given(
    st.lists(st.floats(-(2.0**49), 2.0**49, width=32), min_size=1, max_size=40),
    st.floats(1e-6, 1e6),
)
def test_nothing_longer_than_the_clip_is_ever_added(values, clip):
    sums = {"w": np.zeros(len(values), np.int64)}
    short = add_clipped(sums, tensors(values), clip)
    assert sum(int(v) ** 2 for v in sums["w"]) <= GRID**2
    norm = float(np.linalg.norm(np.asarray(values, np.float32).astype(float)))
    assert short == (norm <= clip)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40))
def test_a_short_update_is_added_as_it_is(values):
    sums = {"w": np.zeros(len(values), np.int64)}
    assert add_clipped(sums, tensors(values), 10.0)
    assert np.allclose(sums["w"] * 10.0 / GRID, np.asarray(values, np.float32), atol=1.01 * 10.0 / GRID)


def test_a_long_update_keeps_its_direction():
    sums = {"w": np.zeros(2, np.int64)}
    add_clipped(sums, tensors([300.0, 400.0]), 1.0)
    assert sums["w"] / GRID == pytest.approx([0.6, 0.8], abs=1e-6)


def test_the_sum_is_divided_by_whom_we_expect_and_not_by_who_came(silent):
    few = mean(private(), [[0.5, 0, 0, 0]] * 2)
    many = mean(private(), [[0.5, 0, 0, 0]] * 20)
    assert few[0] == pytest.approx(2 * 0.5 / 10, rel=1e-5)
    assert many[0] == pytest.approx(20 * 0.5 / 10, rel=1e-5)


@pytest.mark.parametrize("own", [{}, {"clip_norm": 0.01}, {"sampling": "fixed", "sample": 0.5}])
def test_the_noise_is_as_large_as_was_reckoned(own):
    """200,000 draws: the standard deviation within 6.2 standard errors, which fails once in 1e9 runs if all is well."""
    central = private(**own)
    found = mean(central, [np.zeros(NOISY)], NOISY)
    per_round = 5 if "sample" in own else 10
    wanted = 2.0 * central.clip / per_round
    assert abs(found.std() / wanted - 1) < 6.2 / math.sqrt(2 * NOISY)
    assert abs(found.mean()) < 6.2 * wanted / math.sqrt(NOISY)


def test_two_releases_of_the_same_have_other_noise():
    central = private()
    assert not np.array_equal(mean(central, [np.ones(4)]), mean(central, [np.ones(4)]))


def test_it_is_spent_before_the_noise_is_drawn(monkeypatch):
    ledger, seen = MemoryLedger(), []
    monkeypatch.setattr(
        module, "discrete_gaussian", lambda _s, size: (seen.append(len(ledger.entries)), np.zeros(size, np.int64))[1]
    )
    mean(private(ledger), [np.ones(4)])
    assert seen == [1]
    assert ledger.entries[0].release == Release(2.0)
    assert (ledger.entries[0].round, ledger.entries[0].parameters) == (1, 4)


def test_a_ledger_that_cannot_be_written_releases_nothing(monkeypatch):
    class Full(MemoryLedger):
        def append(self, entry):
            raise StorageFull("full", remedy="")

    monkeypatch.setattr(module, "discrete_gaussian", lambda *_: pytest.fail("released"))
    with pytest.raises(StorageFull):
        mean(private(Full()), [np.ones(4)])


def test_what_would_overspend_is_refused_with_the_rounds_that_are_left():
    target = epsilon({Release(2.0): 4}, 1e-5) + 1e-6
    central = private(target_epsilon=target)
    mean(central, [np.ones(4)])
    central.check_more(3)
    with pytest.raises(StudyError, match="5 more rounds would overspend") as caught:
        central.check_more(5)
    assert caught.value.remedy.startswith("3 rounds are left")
    for _ in range(3):
        assert central.fits()
        mean(central, [np.ones(4)])
    assert not central.fits()
    assert central.epsilon == pytest.approx(target, abs=1e-5)
    with pytest.raises(StudyError, match="overspend") as caught:
        mean(central, [np.ones(4)])
    assert caught.value.remedy.startswith("0 rounds are left")
    assert len(central._ledger.entries) == 4


def test_a_restart_goes_on_where_the_ledger_stands():
    ledger = MemoryLedger()
    target = epsilon({Release(2.0): 2}, 1e-5) + 1e-6
    for _ in range(2):
        mean(private(ledger, target_epsilon=target), [np.ones(4)])
    assert not private(ledger, target_epsilon=target).fits()


def test_a_model_that_the_ledger_knows_nothing_of_stops_the_study():
    ledger = MemoryLedger()
    mean(private(ledger), [np.ones(4)], number=1)
    study = SimpleNamespace(name="s", privacy=PrivacySettings(mode="clear-dp", population=10), rounds=SimpleNamespace(count=3))
    Central(study, ledger, ManualClock(), MemoryBlobs(), released=[1])
    with pytest.raises(StudyError, match="nothing of round 2"):
        Central(study, ledger, ManualClock(), MemoryBlobs(), released=[1, 2])


# -- adaptive clipping


def test_an_adaptive_clip_goes_to_the_quantile(silent):
    """Lengths 1 to 100: their median is 50."""
    central = private(clip_quantile=0.5, clip_norm=0.1, population=100, noise=1.0, target_epsilon=1e4)
    updates = [[float(n), 0, 0, 0] for n in range(1, 101)]
    for number in range(1, 120):
        mean(central, updates, number=number)
    assert 45 < central.clip < 56


def test_the_count_takes_its_part_of_the_noise():
    """Andrew et al., theorem 1: z^-2 = z_sum^-2 + (2 sigma_count)^-2, so the release as a whole costs what z does."""
    plan = Plan.of(PrivacySettings(population=200, noise=1.5, clip_quantile=0.5))
    assert plan.count_noise == 10.0
    assert plan.sum_noise**-2 + (2 * plan.count_noise) ** -2 == pytest.approx(1.5**-2)
    assert plan.release == Release(1.5)


def test_the_count_is_noisy():
    """The clip after one round, 400 times: its spread is that of a count with noise of a twentieth of the units, within 30 %."""
    logs = []
    for _ in range(400):
        central = private(clip_quantile=0.5, population=100, noise=1.0)
        mean(central, [[0.1, 0, 0, 0]] * 50 + [[9.0, 0, 0, 0]] * 50)
        logs.append(math.log(central.clip))
    assert np.std(logs) == pytest.approx(0.2 * 5.0 / 100, rel=0.3)
    assert abs(np.mean(logs)) < 6 * 0.01 / math.sqrt(400)


def test_too_few_units_for_a_count_are_refused():
    with pytest.raises(StudyError, match="too few"):
        Plan.of(PrivacySettings(population=10, noise=2.0, clip_quantile=0.5))


# -- who takes part

EDGES = [EdgeId(f"e{n:03}") for n in range(100)]


def test_a_coin_lets_in_a_share():
    """300 rounds of 100 edges: within 6 standard errors; and each edge comes in some rounds and not in others."""
    central = private(sampling="poisson", sample=0.4, population=100)
    rounds = [central.choose(EDGES) for _ in range(300)]
    share = sum(len(r) for r in rounds) / 30_000
    assert abs(share - 0.4) < 6 * math.sqrt(0.24 / 30_000)
    assert np.std([len(r) for r in rounds]) == pytest.approx(math.sqrt(24), rel=0.35)
    assert all(0 < sum(e in r for r in rounds) < 300 for e in EDGES)


def test_by_lot_there_are_always_as_many():
    central = private(sampling="fixed", sample=0.2, population=100)
    rounds = [central.choose(EDGES) for _ in range(200)]
    assert {len(set(r)) for r in rounds} == {20}
    assert set().union(*rounds) == set(EDGES)
    assert central.plan.release == Release(2.0, "fixed", 1.0, 20, 100)


def test_below_the_population_nobody_is_drawn():
    central = private(sampling="fixed", sample=0.2, population=100)
    assert central.enough(EDGES)
    assert not central.enough(EDGES[:99])
    assert private(population=100).enough(EDGES[:3])
