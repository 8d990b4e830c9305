"""DP-SGD at the edge: each example is clipped by itself, the noise is what is paid for, and what would go past it is refused."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path

import jax
import msgspec
import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.stats import chi2

from wardround.errors import LearnError, StudyError
from wardround.learn.learners import Pull, make_learner
from wardround.learn.learners.dp_sgd import GRID, Steps, descend, drawn, steps_of
from wardround.learn.learners.jax_learner import JaxLearner
from wardround.learn.learners.jax_nets import NETS
from wardround.learn.learners.jax_private import _clipped_sums, gradient_sums
from wardround.learn.models import decode_model, encode_model
from wardround.learn.privacy.accounting import Release
from wardround.learn.privacy.edge_budget import DELTA, EPSILON, budgets, spend
from wardround.learn.privacy.ledger import Entry, spent
from wardround.learn.privacy.noise import Csprng
from wardround.learn.study import (
    DpSgdSettings,
    LearnerSettings,
    LocalRule,
    Study,
    WatchSettings,
    decode_training,
    encode_training,
    parse_study,
    training_settings,
)
from wardround.learn.study_checks import check
from wardround.learn.trainer import Source, Work, Worker
from wardround.process.transforms import TASKS
from wardround.records import Examples

FEATURES, CLASSES, N = 6, 3, 40
DP = DpSgdSettings(noise=1.5, clip=0.7)


def examples(n=N, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n).astype(np.int32)
    features = rng.normal(size=(n, FEATURES)).astype(np.float32)
    features[:, 0] += 2 * labels
    names = tuple(f"f{i}" for i in range(FEATURES))
    subjects, t_us = np.array([f"s{i % 5}" for i in range(n)]), np.arange(n, dtype=np.int64)
    return Examples(features=features, labels=labels, subjects=subjects, t_us=t_us, feature_names=names)


def settings(**changes):
    given = {"hidden": (5,), "batch": 8, "epochs": 2, "momentum": 0.0, "l2": 0.0, "dp_sgd": DP}
    return LearnerSettings(**(given | changes))


def moved(learner, seed=1):
    """A model in the middle of its training: the last layer of a first one is zero, and so are most gradients."""
    rng = np.random.default_rng(seed)
    first = learner.initial(0)
    return {n: t if n.startswith("scale.") else (t + rng.normal(size=t.shape)).astype(t.dtype) for n, t in first.items()}


def split(model):
    buffers = {n: t for n, t in model.items() if n.startswith("scale.")}
    return {n: t for n, t in model.items() if n not in buffers}, buffers


def own_gradients(kind, channels, weights, given):
    """Each example's gradient, one call each, in float64: {name: (N, *shape)} and their lengths."""

    def loss(w, row, label):
        return -jax.nn.log_softmax(NETS[kind].logits(w, row[None], channels)[0])[label]

    gradient = jax.jit(jax.grad(loss))
    x = np.clip(given.features, -6, 6)  # `moved` leaves the scaling that changes nothing
    each = [gradient(weights, x[row], int(given.labels[row])) for row in range(len(given))]
    return lengths_of({n: np.stack([np.asarray(g[n], np.float64) for g in each]) for n in weights})


def lengths_of(each):
    with np.errstate(over="ignore", invalid="ignore"):
        return each, np.sqrt(sum(np.square(g).reshape(len(g), -1).sum(1) for g in each.values()))


def clipped_sum(each, lengths, rows, clip):
    total = {n: np.zeros(g.shape[1:]) for n, g in each.items()}
    for row in rows:
        for name, g in each.items():
            total[name] += g[row] * min(1.0, clip / lengths[row]) if lengths[row] > 0 else 0.0
    return total


def assert_same(found, expected, rows, clip):
    """Each example is cut towards zero by less than one step of the grid; the rest is float32."""
    room = len(rows) * clip / GRID + 1e-5
    for name, total in expected.items():
        np.testing.assert_allclose(found[name].reshape(total.shape) * clip / GRID, total, rtol=0, atol=room, err_msg=name)


ROWS = np.arange(0, N, 2)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "tcn", "gru"])
def test_jax_clips_each_example_as_a_loop_over_them_does(kind):
    own = settings(kind=kind, channels=1 if kind == "mlp" else 2, kernel=2)
    learner, given = make_learner(own, FEATURES, CLASSES), examples()
    weights, buffers = split(moved(learner))
    each, lengths = own_gradients(kind, own.channels, weights, given)
    clip = float(np.median(lengths[ROWS]))
    assert lengths[ROWS].min() < 0.8 * clip < 1.2 * clip < lengths[ROWS].max()  # some are clipped and some are not
    own = msgspec.structs.replace(own, dp_sgd=DpSgdSettings(noise=1.0, clip=clip))
    found = gradient_sums(own, weights, buffers, given.features, given.labels)(weights, ROWS)
    assert_same(found, clipped_sum(each, lengths, ROWS, clip), ROWS, clip)


def test_no_example_moves_the_sum_further_than_the_grid_and_not_with_weights_that_overflow_either():
    own, given = settings(batch=4), examples()
    given.features[7] = np.float32(3e38)
    learner = make_learner(own, FEATURES, CLASSES)
    assert isinstance(learner, JaxLearner)
    model = moved(learner)
    weights, buffers = split(model)
    sums = gradient_sums(own, weights, buffers, given.features, given.labels)
    for row in range(N):
        squares = sum(int(np.dot(t, t)) for t in sums(weights, np.array([row])).values())
        assert squares <= GRID**2
    huge = {n: np.full_like(t, 3e38) for n, t in weights.items()}
    for row in range(N):  # which of these overflow hangs on the order of sums; none goes past the clip
        assert sum(int(np.dot(t, t)) for t in sums(huge, np.array([row])).values()) <= GRID**2
    everyone, halves = sums(weights, np.arange(N)), [sums(weights, half) for half in (np.arange(20), np.arange(20, N))]
    assert all((everyone[n] == halves[0][n] + halves[1][n]).all() for n in everyone)  # whole numbers, in any parts


def test_a_gradient_that_is_no_number_counts_as_nothing_and_a_huge_one_is_clipped():
    rows = {
        "below": [0.3, -0.4],
        "huge": [3e38, 3e38],
        "infinite": [np.inf, 0.0],
        "minus": [-np.inf, np.inf],
        "nan": [np.nan, 0.1],
        "zero": [0.0, 0.0],
        "filling": [1.0, 1.0],
    }
    each = {"w": np.array(list(rows.values()), np.float32)}
    with jax.enable_x64(True):
        found = np.asarray(_clipped_sums(each, len(rows) - 1, 0.7)["w"])
    expected = np.array([0.3, -0.4]) + 0.7 / math.sqrt(2)
    np.testing.assert_allclose(found * 0.7 / GRID, expected, rtol=0, atol=2 * 0.7 / GRID + 1e-5)


def nothing(weights, _rows):
    return {n: np.zeros(w.size, np.int64) for n, w in weights.items()}


def test_the_noise_of_a_step_has_the_variance_that_is_paid_for():
    """An error probability of 1e-9, both sides together: chi-squared with as many degrees as there are weights."""
    size, own = 20_000, settings(learning_rate=1.0)
    steps = Steps(1, 0.25, 100)
    noise = descend({"w": np.zeros(size, np.float32)}, nothing, steps, own)["w"].astype(np.float64)
    sigma = own.dp_sgd.noise * own.dp_sgd.clip / steps.expected
    low, high = chi2.ppf([5e-10, 1 - 5e-10], size)
    assert low < float(np.square(noise / sigma).sum()) < high


def test_coins_are_as_biased_as_said_and_come_from_the_source_alone():
    """Six standard deviations: wrong once in five hundred million runs."""
    steps = Steps(1, 0.25, 400_000)
    came = len(drawn(steps, Csprng()))
    assert abs(came - steps.expected) < 6 * math.sqrt(steps.expected * (1 - steps.rate))
    assert len(drawn(Steps(1, 1.0, 50), Csprng())) == 50
    assert len(drawn(Steps(1, 0.25, 8), bytes)) == 8
    assert len(drawn(Steps(1, 0.25, 8), lambda n: b"\xff" * n)) == 0


def test_steps_keep_their_rate_while_an_edge_grows_by_little():
    own = settings(batch=32, epochs=3)
    assert steps_of(own, 20) == Steps(3, 1.0, 20)
    assert steps_of(own, 1_000).number == 3 * 32
    assert 0.95 * 32 < steps_of(own, 1_000).expected <= 32
    rates = {steps_of(own, n).rate for n in range(1_000, 2_001)}
    assert len(rates) <= 18
    assert all(rate <= 32 / 1_000 for rate in rates)


def test_penalty_pull_and_momentum_are_added_beside_the_noise():
    own = settings(l2=0.5, momentum=0.9, learning_rate=0.1, dp_sgd=DpSgdSettings(noise=0.05, clip=1e-6))
    first = {"w.weight": np.ones((2, 2), np.float32), "w.bias": np.ones(2, np.float32)}
    pull = Pull(2.0, towards={n: np.zeros_like(w) for n, w in first.items()})
    new = descend(first, nothing, Steps(2, 0.5, 10), own, pull)
    weight, bias, v, u = 1.0, 1.0, 0.0, 0.0
    for _ in range(2):
        v, u = 0.9 * v + 2.5 * weight, 0.9 * u + 2.0 * bias
        weight, bias = weight - 0.1 * v, bias - 0.1 * u
    np.testing.assert_allclose(new["w.weight"], weight, atol=1e-5)
    np.testing.assert_allclose(new["w.bias"], bias, atol=1e-5)


def test_training_learns_and_says_no_loss_and_no_two_are_alike():
    own = settings(hidden=(), epochs=10, batch=50, learning_rate=0.5, dp_sgd=DpSgdSettings(noise=0.5, clip=1.0))
    given = examples(600)
    learner = make_learner(own, FEATURES, CLASSES)
    model = learner.initial(0)
    one, other = (learner.train(model, given, seed=0, round=1) for _ in range(2))
    assert one.metrics == {}
    assert not np.array_equal(one.update["layer0.weight"], other.update["layer0.weight"])
    trained = {n: t + one.update.get(n, 0) for n, t in model.items()}
    assert (learner.predict(trained, given.features).argmax(1) == given.labels).mean() > 0.5  # a third by chance


# -- what is paid


class Shape:
    classes, feature_names, metric = ("a", "b", "c"), tuple(f"f{i}" for i in range(FEATURES)), "accuracy"


def told(own, **asked):
    """An order, with what a hub that does not check may ask besides."""
    study = Study(name="s", task="activity", learner=own, watch=WatchSettings(row_counts=False))
    return encode_training(msgspec.structs.replace(training_settings(study, Shape(), LocalRule()), **asked))


@pytest.fixture
def edge(tmp_path, monkeypatch):
    """Train once at an edge whose home is tmp_path."""
    module = types.ModuleType("own_rows")
    module.examples = lambda _home, _task: examples(400)
    monkeypatch.setitem(sys.modules, "own_rows", module)
    worker = Worker()

    def train(round_number=1, order=b"", **changes):
        own = settings(**changes)
        model = encode_model(make_learner(own, FEATURES, CLASSES).initial(0))
        source = Source("own_rows:examples", str(tmp_path), "e")
        return worker.run(Work(source, "train", order or told(own), model, round_number, study="s"))

    return train


def test_epsilon_at_the_edge_is_dp_accountings_own_and_survives(edge, tmp_path):
    first, second = edge(1).metrics, edge(2).metrics
    ((release, steps),) = spent(budgets(tmp_path)["s"]).items()
    usable = steps_of(settings(), 400)
    trained = decode_model(edge(3).data)
    assert set(trained) == {"layer0.weight", "layer0.bias", "layer1.weight", "layer1.bias"}
    assert (release.noise, release.sampling) == (1.5, "poisson")
    assert release.rate >= usable.rate  # fewer examples train than there are: some are held back
    assert steps % 2 == 0
    accountant = PLDAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(PoissonSampledDpEvent(release.rate, GaussianDpEvent(1.5)), steps)
    assert second[EPSILON] == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    assert 0 < first[EPSILON] < second[EPSILON]
    assert second[DELTA] == 1e-5
    assert not {"loss_before", "loss_after", "accuracy"} & set(second)


def test_a_training_for_no_study_is_not_paid_for_and_not_done(tmp_path):
    with pytest.raises(LearnError, match="names no study"):
        spend(tmp_path, "", 1, DP, rate=0.1, steps=2)
    assert not budgets(tmp_path)


def test_an_edge_trains_no_more_when_its_budget_is_spent(edge, tmp_path):
    tight = DpSgdSettings(noise=1.5, clip=0.7, epsilon_max=2.5)
    said = []

    def train_on():
        said.extend(edge(number, dp_sgd=tight).metrics[EPSILON] for number in range(50))

    with pytest.raises(LearnError, match=r"epsilon_max is 2\.5"):
        train_on()
    assert 0 < max(said) <= 2.5
    assert len(budgets(tmp_path)["s"]) == len(said)


def test_a_ledger_that_does_not_hold_stops_the_training(edge, tmp_path):
    edge(1)
    edge(2)
    (path,) = (tmp_path / "dp-sgd").iterdir()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[1])
    with pytest.raises(StudyError, match="does not follow"):
        edge(3)


@pytest.mark.parametrize(
    ("changes", "asked", "words"),
    [
        ({}, {"rule": LocalRule(personal="ditto", personal_epochs=1)}, "a second model"),
        ({}, {"row_counts": True}, "counts of rows"),
        ({}, {"patient_clip": 1.0}, "a sum over patients"),
        ({"class_weighting": "balanced"}, {}, "class_weighting"),
        ({"kind": "sklearn"}, {}, "learner.kind"),
    ],
    ids=str,
)
def test_an_edge_trains_by_no_order_that_goes_past_the_noise(edge, tmp_path, changes, asked, words):
    with pytest.raises(LearnError, match=words):
        edge(1, order=told(settings(**changes), **asked))
    assert not budgets(tmp_path)


def test_an_edge_of_before_reads_orders_without_noise_and_declines_those_with_it():
    """As it was: settings that refuse a key which they do not know."""
    names = {f.name: f.type for f in msgspec.structs.fields(LearnerSettings) if f.name != "dp_sgd"}
    old_learner = msgspec.defstruct("OldLearner", list(names.items()), forbid_unknown_fields=True)
    old = msgspec.defstruct("Old", [("learner", old_learner)])
    plain = settings(dp_sgd=DpSgdSettings())
    assert msgspec.msgpack.decode(told(plain), type=old).learner.hidden == (5,)
    assert decode_training(told(plain)).learner == plain
    assert decode_training(told(settings())).learner == settings()
    with pytest.raises(msgspec.ValidationError, match="dp_sgd"):
        msgspec.msgpack.decode(told(settings()), type=old)


def test_entries_of_before_read_as_one_release():
    release = Release(1.0)
    assert spent([Entry(1, 0, 0, release, 1.0, 1.0), Entry(2, 0, 0, release, 1.0, 1.0, times=5)]) == {release: 6}
    assert b"times" not in msgspec.json.encode(Entry(1, 0, 0, release, 1.0, 1.0))


# -- what is not sound

TEXT = """
name = "s"
task = "activity"
[learner]
{learner}
[learner.dp_sgd]
noise = 1.0
{dp}
[strategy]
{strategy}
[watch]
row_counts = {rows}
"""


def checked(learner="", dp="", strategy="", rows="false"):
    study = parse_study(TEXT.format(learner=learner, dp=dp, strategy=strategy, rows=rows), where="test")
    check(study, TASKS)
    return study


def test_a_sound_study_begins_with_nobodys_data():
    assert checked().begins_public
    checked(strategy='name = "coordinate-median"')
    assert not Study(name="s").begins_public


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"learner": 'kind = "sklearn"'}, "no gradient of a single example"),
        ({"learner": 'class_weighting = "balanced"'}, "counts without noise"),
        ({"strategy": 'name = "qfedavg"'}, "losses"),
        ({"strategy": 'name = "ditto"'}, "second model"),
        ({"strategy": 'name = "fine-tuning"'}, "second model"),
        ({"strategy": 'name = "fltrust"'}, "as noisy"),
        ({"rows": "true"}, "histograms"),
        ({"dp": "clip = 0.0"}, "dp_sgd.clip"),
        ({"dp": "epsilon_max = 0.0"}, "dp_sgd.epsilon_max"),
        ({"dp": "delta = 0.5"}, "dp_sgd.delta"),
    ],
    ids=str,
)
def test_what_is_not_sound_is_refused_by_name(what, words):
    with pytest.raises(StudyError, match=words):
        checked(**what)


# -- PyTorch

MODELS = """
from torch import nn

def plain(n, classes):
    return nn.Sequential(nn.Linear(n, 5), nn.Tanh(), nn.GroupNorm(1, 5), nn.Linear(5, classes))

def batchnorm(n, classes):
    return nn.Sequential(nn.Linear(n, 5), nn.BatchNorm1d(5), nn.Linear(5, classes))
"""
OPTIMISER = "\ndef optimiser(parameters, learning_rate):\n    raise AssertionError\n"


@pytest.fixture
def torch_models(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch (pip install torch==2.13.0) is not installed here")
    (Path(tmp_path) / "dp_sgd_models.py").write_text("import torch\n" + MODELS)
    (Path(tmp_path) / "dp_sgd_optimiser.py").write_text("import torch\n" + MODELS + OPTIMISER)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("dp_sgd_models", "dp_sgd_optimiser"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_pytorch_clips_each_example_as_a_loop_over_them_does(torch_models):
    import torch

    from wardround.learn.learners import torch_private

    own = settings(kind="torch", module="dp_sgd_models:plain")
    learner, given = make_learner(own, FEATURES, CLASSES), examples()
    model = moved(learner)
    weights, _ = split(model)
    module = learner.module(model).train()
    x = np.clip(given.features, -6, 6)
    found = []
    for row in range(N):
        logits = module(torch.from_numpy(x[row : row + 1]))
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor([int(given.labels[row])]))
        named = dict(module.named_parameters())
        found.append(dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True)))
    each, lengths = lengths_of({n: np.stack([g[n].double().numpy() for g in found]) for n in weights})
    clip = float(np.median(lengths[ROWS]))
    assert lengths[ROWS].min() < 0.8 * clip < 1.2 * clip < lengths[ROWS].max()
    clipping = msgspec.structs.replace(own, dp_sgd=DpSgdSettings(noise=1.0, clip=clip))
    sums = torch_private.gradient_sums(clipping, module, learner._loss, weights, x, given.labels)
    assert_same(sums(weights, ROWS), clipped_sum(each, lengths, ROWS, clip), ROWS, clip)
    for row in range(N):
        assert sum(int(np.dot(t, t)) for t in sums(weights, np.array([row])).values()) <= GRID**2
    x[3] = np.nan  # a gradient that is no number counts as nothing, and spoils no other
    spoilt = torch_private.gradient_sums(clipping, module, learner._loss, weights, x, given.labels)
    assert all((t == 0).all() for t in spoilt(weights, np.array([3])).values())
    alone = spoilt(weights, np.array([4]))  # on some processors PyTorch rounds two examples together in another way than one
    assert_same(spoilt(weights, np.array([3, 4])), {n: t * clip / GRID for n, t in alone.items()}, [4], clip)
    trained = learner.train(model, given, seed=0, round=1)
    assert trained.metrics == {}
    assert set(trained.update) == set(weights)


@pytest.mark.parametrize(
    ("module", "words"), [("dp_sgd_models:batchnorm", "normalises"), ("dp_sgd_optimiser:plain", "optimiser")]
)
def test_modules_whose_examples_have_no_gradient_of_their_own_are_refused(torch_models, module, words):
    with pytest.raises(StudyError, match=words):
        make_learner(settings(kind="torch", module=module), FEATURES, CLASSES)
