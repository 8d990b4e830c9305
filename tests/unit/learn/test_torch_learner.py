"""PyTorch modules in a federation: BatchNorm's statistics reach the next model, and a user's own code is the hub's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from wardround.errors import LearnError, StudyError
from wardround.learn.learners import check_learner, code_digest, make_learner, own_code
from wardround.learn.local import private_names, sent_names, train_locally
from wardround.learn.models import MemoryTensors, is_running, with_controls, without_controls
from wardround.learn.scaling import fold_sums, with_scaling
from wardround.learn.strategies import STRATEGIES, Fold, WeightedUpdate, make_strategy
from wardround.learn.study import LearnerSettings, LocalRule, StrategySettings, Study, parse_study
from wardround.records import Examples

pytest.importorskip("torch", reason="PyTorch (pip install torch==2.13.0) is not installed here")
FEATURES, CLASSES = 4, 2


def edge(seed, n=120, shift=0.0):
    """The class moves the first feature; the second is large and far from zero on some edges."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n).astype(np.int32)
    features = rng.normal(size=(n, FEATURES)).astype(np.float32)
    features[:, 0] += 2.5 * labels
    features[:, 1] = 4 * features[:, 1] + shift
    return Examples(
        features=features,
        labels=labels,
        subjects=np.full(n, f"s{seed}"),
        t_us=np.arange(n, dtype=np.int64),
        feature_names=("a", "b", "c", "d"),
    )


EDGES = [edge(1), edge(2, n=61, shift=3.0), edge(3, shift=-3.0)]
UNSEEN = edge(9, n=400)


def settings(module="own_models:Named", **changes):
    given = {"epochs": 3, "batch": 20, "learning_rate": 0.05, "momentum": 0.0}
    return LearnerSettings(kind="torch", module=module, **(given | changes))


def rounds(strategy_name, count=6, own=None, change=lambda update: update):
    """The model after rounds by hand, and the learner."""
    own = own or settings()
    learner = make_learner(own, FEATURES, CLASSES)
    strategy = make_strategy(StrategySettings(name=strategy_name), own)
    model = with_scaling(learner.initial(0), fold_sums(learner.statistics(e) for e in EDGES), class_weighting="none")
    if strategy.rule.controls:
        model = with_controls(model)
    kept, memory = [{} for _ in EDGES], {}
    for number in range(1, count + 1):
        done = [
            train_locally(learner, own, strategy.rule, model, k, e, round_number=number) for k, e in zip(kept, EDGES, strict=True)
        ]
        reference = learner.train(model, UNSEEN, seed=0, round=number).update if strategy.wants_reference else None
        updates = [WeightedUpdate(MemoryTensors(change(d.update)), d.examples, d.metrics) for d in done]
        made = strategy.fold(Fold(MemoryTensors(model), updates, memory, len(EDGES), reference))
        model, memory, kept = made.model, made.memory, [d.kept for d in done]
    return without_controls(model), learner


def accuracy(learner, model, examples=UNSEEN):
    return (learner.predict(model, examples.features).argmax(axis=1) == examples.labels).mean()


@pytest.mark.parametrize("name", [n for n in STRATEGIES if n not in {"fedbn", "bagging"}])
def test_batchnorm_is_right_in_evaluation_mode_whatever_the_strategy(name):
    model, learner = rounds(name, count=30 if name in {"fedadagrad", "qfedavg"} else 6)  # these take small steps
    assert all(np.isfinite(t).all() for t in model.values())
    assert (model["running.bn1.running_var"] > 0).all()
    assert model["running.bn1.num_batches_tracked"].dtype == np.int64
    assert accuracy(learner, model) > 0.8


def test_a_rule_that_leaves_the_statistics_at_home_is_wrong():
    def without(update):
        return {n: t for n, t in update.items() if not is_running(n)}

    right, learner = rounds("fedavg", own=settings("own_models:shifted"))
    wrong, _ = rounds("fedavg", own=settings("own_models:shifted"), change=without)
    assert accuracy(learner, right) > 0.85
    assert accuracy(learner, wrong) < 0.7


def test_running_statistics_are_the_mean_by_examples_even_under_an_optimiser_at_the_hub():
    own = settings()
    learner = make_learner(own, FEATURES, CLASSES)
    model = learner.initial(0)
    done = [learner.train(model, e, seed=0, round=1) for e in EDGES]
    expected = np.average(
        [model["running.bn1.running_var"] + d.update["running.bn1.running_var"] for d in done],
        axis=0,
        weights=[d.examples for d in done],
    )
    seen = [float(d.update["running.bn1.num_batches_tracked"]) for d in done]
    for name in ("fedavg", "fedadam", "fednova", "fedyogi", "fedavgm"):
        strategy = make_strategy(StrategySettings(name=name, server_learning_rate=3.0), own)
        updates = [WeightedUpdate(MemoryTensors(d.update), d.examples, d.metrics) for d in done]
        after = strategy.fold(Fold(MemoryTensors(model), updates)).model
        np.testing.assert_allclose(after["running.bn1.running_var"], expected, rtol=1e-6, err_msg=name)
        assert after["running.bn1.num_batches_tracked"] == round(np.average(seen, weights=[d.examples for d in done]))


def test_fedbn_keeps_the_whole_layer_at_its_edge():
    rule = LocalRule(private=StrategySettings().private)
    names = list(make_learner(settings(), FEATURES, CLASSES).initial(0))
    assert private_names(rule, names) == {n for n in names if "bn1" in n}
    assert sent_names(rule, names) == {"out.weight", "out.bias"}
    model, _ = rounds("fedbn")
    assert (model["running.bn1.running_mean"] == 0).all()


def test_dtypes_are_the_modules():
    model, learner = rounds("fedavg", count=1)
    assert model["out.weight"].dtype == np.float64
    assert model["running.bn1.running_mean"].dtype == np.float64
    assert learner.predict(model, UNSEEN.features).dtype == np.float32


def test_random_numbers_of_others_are_left_alone():
    import torch

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    learner = make_learner(settings("own_models:normed"), FEATURES, CLASSES)
    learner.train(learner.initial(3), EDGES[0], seed=1, round=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_loss_and_an_optimiser_beside_the_module_are_used():
    own = settings("own_models_with_optimiser:make", learning_rate=0.01)
    learner = make_learner(own, FEATURES, CLASSES)
    model = learner.initial(0)
    update = learner.train(model, EDGES[0], seed=0, round=1).update
    largest = max(float(np.abs(t).max()) for t in update.values())
    assert 0.01 < largest < 0.01 * 3 * 6 * 1.2  # Adam moves each weight by its rate at most, 18 times
    study = Study(name="s", learner=own, strategy=StrategySettings(name="scaffold"))
    with pytest.raises(StudyError, match="plain steps"):
        check_learner(study, FEATURES, CLASSES)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("own_models:not_a_module", "returned a str"),
        ("own_models:one_logit", "two examples"),
        ("own_models:absent", "defines no"),
        ("own_models", "learner.module is"),
        ("no_such_package.models:make", "no module"),
        ("os:kill", "Python's own library"),
        ("programs_under_test:main", "defines no"),
    ],
)
def test_a_module_that_will_not_do_is_refused_with_the_reason(module, message):
    with pytest.raises(StudyError, match=message):
        make_learner(settings(module), FEATURES, CLASSES)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's own, on the path."""
    folder = tmp_path / "brought_models"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / "nets.py").write_text("from torch import nn\n\n\ndef make(f, c):\n    return nn.Linear(f, c)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [n for n in sys.modules if n.startswith("brought_models")]:
        del sys.modules[name]
    own_code._loaded.pop("brought_models.nets", None)


def test_another_version_than_the_hubs_is_refused_before_it_is_imported(package):
    own = settings("brought_models.nets:make")
    digest = code_digest(own)
    with pytest.raises(StudyError, match="another version"):
        make_learner(own, FEATURES, CLASSES, code="0" * 32)
    with pytest.raises(StudyError, match="imported"):  # the right version is: and then its own error is told
        make_learner(own, FEATURES, CLASSES, code=digest)
    (package / "__init__.py").write_text("")
    with pytest.raises(StudyError, match="another version"):
        make_learner(own, FEATURES, CLASSES, code=digest)
    fixed = code_digest(own)
    assert make_learner(own, FEATURES, CLASSES, code=fixed).initial(0)["weight"].shape == (CLASSES, FEATURES)
    (package / "nets.py").write_text("from torch import nn\n\n\ndef make(f, c):\n    return nn.Linear(f, c, bias=False)\n")
    with pytest.raises(StudyError, match="changed since"):
        make_learner(own, FEATURES, CLASSES, code=code_digest(own))
    (package / "nets.py").write_bytes(b"from torch import nn\r\n\r\n\r\ndef make(f, c):\r\n    return nn.Linear(f, c)\r\n")
    assert code_digest(own) == fixed


def test_a_loss_of_one_number_is_refused(package):
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(
        "from torch import nn\n\n\ndef make(f, c):\n    return nn.Linear(f, c)\n\n\nloss = nn.CrossEntropyLoss()\n"
    )
    learner = make_learner(settings("brought_models.nets:make"), FEATURES, CLASSES)
    with pytest.raises(LearnError, match="for 20 examples"):
        learner.train(learner.initial(0), EDGES[0], seed=0, round=1)


def test_onnx_gives_the_learners_probabilities():
    runtime = pytest.importorskip("onnxruntime")
    from wardround.learn.learners.onnx_export import export_onnx

    for module in ("own_models:normed",):
        model, learner = rounds("fedavg", count=2, own=settings(module))
        file = export_onnx(settings(module), FEATURES, CLASSES, model)
        session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
        features = UNSEEN.features.copy()
        features[0, 0], features[1, 1], features[2, 2] = np.nan, np.inf, 1e9
        for rows in (features, features[:1]):
            (found,) = session.run(["probabilities"], {"features": rows})
            np.testing.assert_allclose(found, learner.predict(model, rows), atol=1e-5)


def test_onnx_of_another_learner_is_refused():
    from wardround.learn.learners.onnx_export import export_onnx

    with pytest.raises(StudyError, match="mlp"):
        export_onnx(LearnerSettings(), FEATURES, CLASSES, {})


def test_the_example_of_the_docs_runs_and_is_ten_lines_at_most(package):
    text = (Path(__file__).parents[3] / "docs" / "learners.md").read_text(encoding="utf-8")
    code, toml = (text.split(f"```{kind}\n")[1].split("```")[0] for kind in ("python", "toml"))
    assert len([line for line in (code + toml).splitlines() if line]) <= 10
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text(code)
    study = parse_study('name = "s"\n' + toml.replace("my_package.models", "brought_models.nets"), where="docs")
    learner = make_learner(study.learner, FEATURES, CLASSES)
    model = learner.initial(0)
    trained = learner.train(model, EDGES[0], seed=0, round=1, epochs=5)
    assert trained.metrics["loss_after"] < trained.metrics["loss_before"]
