"""What all studies have cost a patient of an edge: reckoned by dp-accounting, bounded, and on the disk before it is spent."""

from __future__ import annotations

import json
import sys
import types

import msgspec
import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, get_epsilon_gaussian
from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.stats import binom
from tests.unit.learn.privacy.test_dp_sgd import CLASSES, DP, FEATURES, Shape, examples, settings
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.errors import LearnError, StudyError
from wardround.learn.learners import make_learner
from wardround.learn.messages import Order
from wardround.learn.models import encode_model
from wardround.learn.privacy import accounting, willing
from wardround.learn.privacy.accounting import Exposure, Figure, exposed
from wardround.learn.privacy.edge_budget import budgets
from wardround.learn.privacy.patient_budget import (
    LEFT_OUT,
    NAME,
    NO_BOUND,
    Bound,
    admit,
    exposures,
    highest,
    histories,
    name_of,
    pay,
    trainings,
)
from wardround.learn.study import DpSgdSettings, LearnerSettings, LocalRule, encode_training, parse_study, training_settings
from wardround.learn.trainer import Source, Work, Worker
from wardround.records import Examples
from wardround.settings import EdgePrivacySettings
from wardround.trust.pseudonyms import Pseudonyms

DELTA = 1e-6
ADD = NeighboringRelation.ADD_OR_REMOVE_ONE


# -- what it is


def reckoned(*events, delta=DELTA):
    accountant = PLDAccountant(neighboring_relation=ADD, value_discretization_interval=accounting.LOSS_STEP)
    for event, times in events:
        accountant.compose(event, times)
    return accountant.get_epsilon(delta)


def test_one_example_of_a_patient_is_poisson_sampling_itself():
    found = exposed({Exposure(2.0, 0.05): 60}, DELTA)
    assert found.epsilon == pytest.approx(reckoned((PoissonSampledDpEvent(0.05, GaussianDpEvent(2.0)), 60)), rel=2e-3)
    assert not found.least


def test_gaussians_add_up_by_the_closed_form():
    found = exposed({Exposure(4.0): 3, Exposure(2.0): 1}, DELTA)
    assert found.epsilon == pytest.approx(get_epsilon_gaussian((3 / 16 + 1 / 4) ** -0.5, DELTA))
    assert exposed({}, DELTA) == Figure(0.0)


def test_several_examples_are_a_mixture_whose_means_are_binomial_and_add_up_with_gaussians():
    found = exposed({Exposure(6.0, 0.05, 6): 40, Exposure(8.0): 2}, DELTA)
    counts = np.arange(7)
    mixture = MixtureOfGaussiansDpEvent(6.0, [float(c) for c in counts], list(binom.pmf(counts, 6, 0.05)))
    assert found.epsilon == pytest.approx(reckoned((mixture, 40), (GaussianDpEvent(8.0 / 2**0.5), 1)), rel=2e-3)


def test_more_examples_cost_more_and_where_that_is_enough_the_search_ends():
    figures = [exposed({Exposure(9.0, 0.05, k): 20}, DELTA).epsilon for k in (1, 2, 4, 9)]
    assert figures == sorted(figures)
    assert figures[0] < figures[-1] / 3
    assert exposed({Exposure(9.0, 0.05, 9): 20}, DELTA) == exposed({Exposure(9.0, 0.05, 10): 20}, DELTA)  # rounded up
    least = exposed({Exposure(9.0, 0.05, 400): 20}, DELTA, enough=figures[2] / 2)
    assert least == Figure(figures[2], least=True)


@pytest.mark.parametrize(("examples_", "rate"), [(1, 0.3), (7, 0.01), (40, 0.5), (600, 0.1), (3000, 0.002)])
def test_counts_in_a_batch_are_never_taken_for_fewer(examples_, rate):
    counts, chances = accounting._in_a_batch(examples_, rate)
    assert sum(chances) == pytest.approx(1.0, abs=1e-12)
    assert len(counts) <= accounting.COUNTS_MAX + 2
    for i in range(examples_ + 1):  # as many examples or more, with at least the chance they have
        above = sum(c for n, c in zip(counts, chances, strict=True) if n >= i)
        assert above >= binom.sf(i - 1, examples_, rate) - 1e-12
    assert chances[0] == pytest.approx(binom.pmf(0, examples_, rate), rel=1e-9)  # none are none


# -- the ledger


def training(**dp):
    study = parse_study('name = "s"\ntask = "activity"\n[watch]\nrow_counts = false\n' + dp.pop("more", ""), where="test")
    study = msgspec.structs.replace(study, learner=settings(**dp)) if dp else study
    return training_settings(study, Shape(), LocalRule())


CENTRAL = '[privacy]\nmode = "{mode}"\nunit = "{unit}"\nnoise = 4.0\npopulation = 100\ndelta = 1e-4\n'


@pytest.mark.parametrize(
    ("mode", "unit", "noise"), [("clear-dp", "patient", 4.0), ("clear-dp", "edge", 2.0), ("blind-dp", "edge", 2.0)]
)
def test_noise_over_units_covers_a_patient_by_how_far_one_can_move_the_sum(mode, unit, noise):
    costs = exposures(training(more=CENTRAL.format(mode=mode, unit=unit)), examples())
    assert costs == {name_of(f"s{i}"): (Exposure(noise), 1) for i in range(5)}


def test_dp_sgd_costs_a_patient_by_their_own_examples_and_comes_before_noise_of_the_hub():
    given = examples(43)
    costs = exposures(training(dp_sgd=DP), given)
    assert {e.examples for e, _ in costs.values()} == {8, 9}
    assert {(e.noise, n) for e, n in costs.values()} == {(DP.noise, 2 * 6)}
    assert not exposures(training(), given)


def test_a_line_is_short_where_nothing_has_changed_and_studies_add_up(tmp_path):
    a, b = {"p": (Exposure(2.0), 1), "q": (Exposure(2.0), 1)}, {"p": (Exposure(1.0, 0.1, 3), 5)}
    for number in range(3):
        pay(tmp_path, "a", number, a)
        pay(tmp_path, "b", number, b)
    pay(tmp_path, "a", 3, {"q": (Exposure(2.0), 1)})
    pay(tmp_path, "a", 4, a)
    assert histories(trainings(tmp_path)) == {
        "p": {Exposure(2.0): 4, Exposure(1.0, 0.1, 3): 15},
        "q": {Exposure(2.0): 5},
    }
    assert set(histories(trainings(tmp_path), {"b"})) == {"p"}
    lines = (tmp_path / NAME).read_text().splitlines()
    assert [json.loads(line).get("again", False) for line in lines] == [False, False, True, True, True, True, False, False]


def test_a_ledger_that_does_not_hold_stops_everything(tmp_path):
    pay(tmp_path, "a", 1, {"p": (Exposure(2.0), 1)})
    pay(tmp_path, "a", 2, {"p": (Exposure(2.0), 1)})
    lines = (tmp_path / NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / NAME).write_bytes(lines[1])
    with pytest.raises(StudyError, match="does not follow"):
        pay(tmp_path, "a", 3, {"p": (Exposure(2.0), 1)})
    with pytest.raises(StudyError, match="does not follow"):
        trainings(tmp_path)


def test_the_highest_is_found_without_looking_at_everybody(monkeypatch):
    looked = []
    monkeypatch.setattr("wardround.learn.privacy.patient_budget.exposed", lambda s, d: looked.append(s) or exposed(s, d))
    few, many = {Exposure(4.0, 0.1, 1): 5}, {Exposure(4.0, 0.1, 2): 9}
    assert highest([few, many, few, {}], DELTA) == exposed(many, DELTA)
    assert looked == [many]
    apart = {Exposure(3.0): 1}
    assert highest([apart, many], DELTA).epsilon == max(exposed(apart, DELTA).epsilon, exposed(many, DELTA).epsilon)


# -- the bound


def test_whoever_would_get_over_the_bound_is_left_out_and_others_are_not(tmp_path):
    given = examples(40)
    own = training(more=CENTRAL.format(mode="clear-dp", unit="patient"))
    assert admit(tmp_path, own, given, NO_BOUND) == (given, 0)
    one = exposed({Exposure(4.0): 1}, DELTA).epsilon
    bound = Bound(one * 1.01, DELTA)
    left, out = admit(tmp_path, own, given, bound)
    assert (len(left), out) == (40, 0)
    pay(tmp_path, "another study", 1, {name_of("s1"): (Exposure(4.0), 1)})
    left, out = admit(tmp_path, own, given, bound)
    assert (out, set(left.subjects)) == (1, {"s0", "s2", "s3", "s4"})


def test_leaving_some_out_makes_others_take_part_more_often_and_that_is_looked_at_too(tmp_path):
    labels = np.zeros(120, np.int32)
    subjects = np.array(["big"] * 60 + [f"s{i % 6}" for i in range(60)])
    features = np.zeros((120, FEATURES), np.float32)
    given = Examples(
        features=features, labels=labels, subjects=subjects, t_us=np.arange(120), feature_names=tuple(map(str, range(FEATURES)))
    )
    own = training(dp_sgd=DpSgdSettings(noise=30.0), epochs=1, batch=8)
    cost = {k: exposed({e: n}, DELTA).epsilon for k, (e, n) in exposures(own, given).items()}
    small = exposures(own, given.where(given.subjects != "big"))
    alone = exposed({small[name_of("s0")][0]: small[name_of("s0")][1]}, DELTA).epsilon
    assert cost[name_of("s0")] < alone < cost[name_of("big")]
    bound = Bound(alone * 1.001, DELTA)
    left, out = admit(tmp_path, own, given, bound)
    assert (out, set(left.subjects)) == (1, {f"s{i}" for i in range(6)})
    between = Bound((alone + cost[name_of("s0")]) / 2, DELTA)
    left, out = admit(tmp_path, own, given, between)
    assert (out, len(left)) == (7, 0)


def test_a_study_without_noise_is_declined_by_an_edge_with_a_bound(tmp_path):
    plain, bounded = training(), EdgePrivacySettings(patient_epsilon_max=5.0)
    with pytest.raises(LearnError, match="no noise"):
        admit(tmp_path, plain, examples(), Bound(5.0, DELTA))

    def why(own, task="train", edge=bounded):
        return willing.why_not(edge, Order("s", 1, 1, task, "b" * 64, encode_training(own), 20.0))

    assert "patient_epsilon_max" in why(plain)
    assert not why(plain, edge=EdgePrivacySettings())
    assert not why(training(dp_sgd=DP))
    assert not why(training(more=CENTRAL.format(mode="clear-dp", unit="patient")))
    for task in ("survey", "statistics", "flower"):
        assert "patient_epsilon_max" in why(training(dp_sgd=DP), task)


# -- a training


@pytest.fixture
def edge(tmp_path, monkeypatch):
    """Train once at an edge whose home is tmp_path."""
    module = types.ModuleType("rows_of_patients")
    module.examples = lambda _home, _task: examples(100)
    monkeypatch.setitem(sys.modules, "rows_of_patients", module)
    worker = Worker()

    def train(own, bound=NO_BOUND, study="s", number=1):
        model = encode_model(make_learner(own.learner, FEATURES, CLASSES).initial(0))
        source = Source("rows_of_patients:examples", str(tmp_path), "e")
        return worker.run(Work(source, "train", encode_training(own), model, number, study=study, bound=bound))

    return train


def test_two_studies_add_up_and_the_count_of_those_left_out_is_all_that_is_said(edge, tmp_path):
    dp = DpSgdSettings(noise=25.0, epsilon_max=1e4)
    one = training(dp_sgd=dp, epochs=1)
    first = edge(one, study="first").metrics
    assert LEFT_OUT not in first
    given = histories(trainings(tmp_path))
    assert 3 <= len(given) <= 5  # some are held back, and pay nothing
    pay(tmp_path, "elsewhere", 1, {next(iter(given)): (Exposure(1.0), 1)})
    done = edge(one, Bound(4.0, DELTA), study="second")
    assert done.metrics[LEFT_OUT] == 1.0
    assert done.examples < 20 * len(given)
    assert not any(name in json.dumps(done.metrics) for name in given)
    again = histories(trainings(tmp_path), {"second"})
    assert set(given) - set(again) == {next(iter(given))}


def test_where_too_few_are_left_nothing_is_trained_and_nothing_paid(edge, tmp_path):
    own = training(dp_sgd=DpSgdSettings(noise=25.0, epsilon_max=1e4), epochs=1)
    with pytest.raises(LearnError, match="patients are left out"):
        edge(own, Bound(0.01, DELTA))
    assert not trainings(tmp_path)
    assert not budgets(tmp_path)


def test_what_the_study_itself_refuses_costs_no_patient(edge, tmp_path):
    own = training(dp_sgd=DpSgdSettings(noise=1.0, epsilon_max=0.01), epochs=1)
    with pytest.raises(LearnError, match="epsilon_max"):
        edge(own)
    assert not trainings(tmp_path)


def test_a_study_without_noise_is_not_in_the_ledger(edge, tmp_path):
    own = msgspec.structs.replace(training(), learner=LearnerSettings(hidden=(5,)))
    edge(own)
    assert not (tmp_path / NAME).exists()


def test_the_command_shows_it_for_everybody_and_for_one(edge, tmp_path):
    (tmp_path / "edge.toml").write_text('name = "e"\nhub_host = "h"\nhub_port = 1\n[privacy]\npatient_epsilon_max = 9.0\n')
    subject = Pseudonyms.open(tmp_path / "pseudonym.key").of("MRN 7")

    def shown(*arguments):
        result = CliRunner().invoke(app, ["edge", "budget", *arguments, "--home", str(tmp_path)])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "No study with noise" in shown()
    pay(tmp_path, "a", 1, {name_of(subject): (Exposure(3.0), 1), name_of("other"): (Exposure(2.0), 1)})
    pay(tmp_path, "b", 1, {name_of("other"): (Exposure(2.0), 1)})
    everybody, one = json.loads(shown("--json")), json.loads(shown("MRN 7", "--json"))
    assert everybody["epsilon"] == pytest.approx(exposed({Exposure(2.0): 2}, DELTA).epsilon)
    assert [(s["study"], s["patients"]) for s in everybody["studies"]] == [("a", 2), ("b", 1)]
    assert one["epsilon"] == pytest.approx(exposed({Exposure(3.0): 1}, DELTA).epsilon)
    assert [s["study"] for s in one["studies"]] == ["a"]
    assert everybody["epsilon_max"] == 9.0
    words = shown("MRN 7")
    assert "MRN 7 has spent" in words
    assert "The bound is 9" in words
