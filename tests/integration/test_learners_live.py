"""Studies whose learner is PyTorch, scikit-learn or XGBoost, at the same time over the same real hub and edges."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from motion import hold_back, lake_of, start_edges
from wardround.learn.learners import make_learner
from wardround.learn.models import decode_model, without_controls
from wardround.learn.study import parse_study
from wardround.process.jobs import gold_examples
from wardround.process.transforms import TASKS

EDGES = ("edge-1", "edge-2")
MODULE = """
from torch import nn


def make(n_features, n_classes):
    return nn.Sequential(nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, n_classes))
"""
COMMON = """\
task = "activity"
[rounds]
count = 3
edges_min = 2
examples_min = 5
[score]
held_back = 0.0
held_back_subjects = ["h-1"]
"""
STUDIES = {
    "torch": '[learner]\nkind = "torch"\nmodule = "ward_models:make"\nlearning_rate = 0.02\nepochs = 10\nbatch = 8\n',
    "sklearn": '[learner]\nkind = "sklearn"\nlearning_rate = 0.02\nepochs = 3\n',
    "xgboost": '[learner]\nkind = "xgboost"\nlearning_rate = 0.3\ntrees = 2\ndepth = 3\n[strategy]\nname = "bagging"\n',
}


def study_text(kind):
    return f'name = "with-{kind}"\n{COMMON}{STUDIES[kind]}'


@pytest.mark.timeout(300)
def test_every_learner_trains_over_real_edges_and_torch_leaves_as_onnx(site, command, tmp_path, monkeypatch):
    for library in ("torch", "sklearn", "xgboost", "onnxruntime"):
        pytest.importorskip(library)
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "ward_models.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    hold_back(site, {"h-1": EDGES[0]})
    site.start_hub()
    start_edges(site, EDGES)
    for kind in STUDIES:
        path = tmp_path / f"{kind}.toml"
        path.write_text(study_text(kind))
        started = command("study", "start", str(path), "--home", str(site.home))
        assert started.returncode == 0, started.stderr

    store = site.store()
    wanted = {f"with-{kind}" for kind in STUDIES}
    end = time.monotonic() + 220
    while (states := {s.name: (s.state, s.detail) for s in store.studies()}) and {s for s, _ in states.values()} != {"finished"}:
        assert time.monotonic() < end, (states, site.hub.tail())
        assert "failed" not in {s for s, _ in states.values()}, states
        time.sleep(0.5)
    assert set(states) == wanted
    end = time.monotonic() + 60
    while len(scores := {name: last_score(store, name) for name in wanted if last_score(store, name) is not None}) < len(wanted):
        assert time.monotonic() < end, (scores, site.hub.tail())
        time.sleep(0.5)
    assert all(score > 0.9 for score in scores.values()), scores
    store.close()
    check_onnx(site, command, tmp_path / "out", lake_of(site))
    refused = command("study", "export", "with-sklearn", "--format", "onnx", "-o", str(tmp_path / "no"), "--home", str(site.home))
    assert refused.returncode != 0
    assert "no ONNX form" in refused.stderr


def last_score(store, name):
    rounds = store.rounds(name)
    score = rounds[-1].facts.get("score") if rounds else None
    return None if score is None else score["value"]


def check_onnx(site, command, out, lake):
    import onnxruntime

    done = command(
        "study", "export", "with-torch", "--format", "onnx", "-o", str(out), "--home", str(site.home), "--json", timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "model.onnx" in json.loads(done.stdout)["files"]
    study, task = parse_study(study_text("torch"), where="test"), TASKS["activity"]
    examples = gold_examples(lake, task)
    learner = make_learner(study.learner, len(task.feature_names), len(task.classes))
    parameters = without_controls(decode_model((out / "model.safetensors").read_bytes()))
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    (found,) = session.run(["probabilities"], {"features": examples.features.astype(np.float32)})
    np.testing.assert_allclose(found, learner.predict(parameters, examples.features), atol=1e-4)
