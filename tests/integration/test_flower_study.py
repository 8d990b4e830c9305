"""A Wardround study on a Flower federation: Flower's own SuperLink and SuperNodes, our coordinator and learner."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from flower_federation import FlowerFederation
from motion import recording
from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.learn.learners import make_learner
from wardround.learn.models import decode_model, without_controls
from wardround.learn.study import parse_study
from wardround.process.transforms import TASKS
from wardround.records import Consent
from wardround.trust.consent import ConsentRegister

STUDY = """\
name = "activity"
task = "activity"
[learner]
hidden = []
learning_rate = 0.05
momentum = 0.0
epochs = 10
batch = 8
[strategy]
name = "scaffold"
[rounds]
count = 2
edges_min = 2
examples_min = 5
deadline_s = 60
[score]
held_back = 0.0
"""


@pytest.mark.timeout(300)
def test_a_study_runs_as_a_flower_app_on_flowers_own_runtime(tmp_path, command):
    python = Path(sys.prefix) / "flower" / "bin" / "python"
    if not python.exists():
        pytest.skip("Flower is not installed: make .venv/flower/.ready")
    (tmp_path / "study.toml").write_text(STUDY)
    app = tmp_path / "app"
    done = command("flower", "export", str(tmp_path / "study.toml"), "--out", str(app))
    assert done.returncode == 0, done.stderr
    homes = [tmp_path / f"edge-{i}" for i in range(2)]
    for i, home in enumerate(homes):
        store = LocalStore(FolderStorage(home / "local"))
        store.keep(list(recording(f"p-{i}", f"edge-{i}", i)))
        store.close()
        consents = ConsentRegister(home / "consent.sqlite")
        consents.set(f"p-{i}", "*", Consent.LOCAL)
        consents.close()
    federation = FlowerFederation(tmp_path / "flower", str(python), [f'wardround-home="{home}"' for home in homes])
    with federation:
        federation.run(app)
        model = app / "result" / "history.json"
        end = time.monotonic() + 240
        while not model.exists():
            assert time.monotonic() < end, federation.tail()
            time.sleep(0.2)
    history = json.loads(model.read_text())
    assert [h["round"] for h in history] == [0, 1, 2]
    assert all(len(h["nodes"]) == 2 for h in history)
    assert history[2]["metrics"]["loss_before"] < history[1]["metrics"]["loss_before"]
    study, task = parse_study(STUDY, where="test"), TASKS["activity"]
    parameters = without_controls(decode_model((app / "result" / "model.safetensors").read_bytes()))
    learner = make_learner(study.learner, len(task.feature_names), len(task.classes))
    unseen = task.examples(list(recording("u", "edge-9", 9)))
    known = unseen.labels >= 0
    right = learner.predict(parameters, unseen.features).argmax(axis=1)[known] == unseen.labels[known]
    assert right.mean() > 0.9


def test_a_study_that_needs_the_hub_is_refused(tmp_path, command):
    (tmp_path / "study.toml").write_text(STUDY.replace("scaffold", "fltrust"))
    done = command("flower", "export", str(tmp_path / "study.toml"), "--out", str(tmp_path / "app"))
    assert done.returncode == 2
    assert "its own lake" in done.stderr or "hub's own lake" in done.stderr
