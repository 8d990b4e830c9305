"""An exported model predicts what the learner predicts, with NumPy and safetensors alone; its card says what is known."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest

from wardround.errors import CertificateRefused, StudyError
from wardround.learn.cards import Registered, card, markdown
from wardround.learn.exports import export_model
from wardround.learn.learners import make_learner
from wardround.learn.manifests import Signed, read_manifest
from wardround.learn.models import CONTROL_PREFIX, encode_model
from wardround.learn.scaling import with_scaling
from wardround.learn.study import parse_study
from wardround.records import Examples
from wardround.trust.certificates import Authority, key_pem, new_key, write_private
from wardround.trust.signatures import HubSigner, check_signature

FEATURES, CLASSES = 12, 3
ALONE = """
import runpy, sys
for name in ("wardround", "jax", "scipy", "msgspec", "torch"):
    sys.modules[name] = None  # an import of any of these fails
sys.argv = ["predict.py", sys.argv[2], *sys.argv[3:]]
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@dataclass(frozen=True)
class Task:
    title: str = "What a person does"
    classes: tuple[str, ...] = ("sit", "walk", "run")
    feature_names: tuple[str, ...] = tuple(f"f{i}" for i in range(FEATURES))


FACTS = {
    "lineage": {"updates": {"a": 60, "b": 40}, "aside": ["c"], "version": "1", "code": "abc", "study_sha256": "ff"},
    "score": {
        "metric": "accuracy",
        "value": 0.9,
        "worst_edge": "b",
        "worst": 0.7,
        "by_edge": {"a": 0.95, "b": 0.7},
        "examples": 50,
        "subjects": 4,
        "from_us": 0,
        "to_us": 3_600_000_000,
    },
    "calibration": {"ece": 0.08, "brier": 0.2, "temperature": 1.7, "ece_scaled": 0.03},
    "reason": "it has stood its trial",
}


@pytest.fixture
def signer(tmp_path):
    authority = Authority.create(tmp_path / "pki", "test")
    key = new_key()
    write_private(tmp_path / "pki" / "hub.key", key_pem(key))
    write_private(tmp_path / "pki" / "hub.pem", authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 1.0), 0o644)
    return HubSigner(tmp_path / "pki"), authority


def study_of(learner):
    return parse_study(f'name = "s"\ntask = "activity"\n[learner]\n{learner}\n', where="test")


def trained(study, seed=0):
    """A model with an opinion: every tensor is drawn."""
    learner = make_learner(study.learner, FEATURES, CLASSES)
    rng = np.random.default_rng(seed)
    model = {n: rng.normal(size=t.shape).astype(np.float32) * 0.5 for n, t in learner.initial(0).items()}
    model["scale.std"] = np.abs(model["scale.std"]) + 0.5
    return learner, model


@pytest.mark.filterwarnings("ignore::DeprecationWarning:jax.*")
@pytest.mark.parametrize(
    "learner",
    [
        "hidden = []",
        "hidden = [8, 4]",
        'kind = "cnn"\nchannels = 2\nhidden = [5, 4]\nkernel = 3',
        'kind = "cnn"\nchannels = 1\nhidden = [3, 3, 3, 3]\nkernel = 4',
        'kind = "tcn"\nchannels = 2\nhidden = [4, 4]\nkernel = 3',
        'kind = "gru"\nchannels = 3\nhidden = [6]',
    ],
)
def test_the_loading_example_alone_predicts_what_the_learner_does(learner, tmp_path, signer):
    study = study_of(learner)
    made, model = trained(study)
    features = np.random.default_rng(1).normal(size=(40, FEATURES)).astype(np.float32) * 4
    features[3, 2] = np.nan
    data = encode_model({**model, CONTROL_PREFIX + "x": np.ones(3, np.float32)})
    registered = Registered(7, "d" * 64, "c" * 64, "current", 1_700_000_000_000_000, FACTS)
    hub, _ = signer
    export_model(tmp_path / "out", study, Task(), registered, data, lambda m: Signed(m, hub.sign(m), hub.certificate))
    np.savetxt(tmp_path / "features.csv", features, delimiter=",")
    program, rows = str(tmp_path / "out" / "predict.py"), str(tmp_path / "features.csv")
    run = subprocess.run(
        [sys.executable, "-c", ALONE, "_", program, rows], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    heading, *lines = run.stdout.splitlines()
    assert heading == "sit,walk,run"
    found = np.array([[float(p) for p in line.split(",")] for line in lines])
    np.testing.assert_allclose(found, made.predict(model, features), atol=2e-5)
    assert found.argmax(axis=1).std() > 0  # it says more than one thing


def examples_of(features, labels):
    n = len(labels)
    return Examples(
        features=features,
        labels=labels,
        subjects=np.full(n, "s"),
        t_us=np.arange(n),
        feature_names=tuple(f"f{i}" for i in range(FEATURES)),
    )


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["sklearn", "xgboost"])
def test_the_loading_example_alone_predicts_with_linear_models_and_trees(kind, classes, tmp_path, signer):
    pytest.importorskip(kind)
    learner = f'kind = "{kind}"' + ('\ntrees = 3\n[strategy]\nname = "bagging"' if kind == "xgboost" else "")
    study = study_of(learner)
    made = make_learner(study.learner, FEATURES, classes)
    rng = np.random.default_rng(classes)
    features = rng.normal(size=(200, FEATURES)).astype(np.float32)
    labels = ((features[:, 0] + features[:, 3] ** 2).argsort().argsort() * classes // 200).astype(np.int32)
    model = with_scaling(made.initial(0), made.statistics(examples_of(features, labels)), class_weighting="none")
    trained_ = made.train(model, examples_of(features, labels), seed=1, round=1).update
    model = {**model, **{name: trained_[name] + (model[name] if kind == "sklearn" else 0) for name in trained_}}
    features[3, 2], features[5, 0] = np.nan, np.inf
    task = Task(classes=("sit", "walk", "run")[:classes])
    registered = Registered(7, "d" * 64, "c" * 64, "current", 1_700_000_000_000_000, FACTS)
    hub, _ = signer
    sign = lambda m: Signed(m, hub.sign(m), hub.certificate)  # noqa: E731
    export_model(tmp_path / "out", study, task, registered, encode_model(model), sign)
    np.savetxt(tmp_path / "features.csv", features, delimiter=",", fmt="%.9g")
    program, rows = str(tmp_path / "out" / "predict.py"), str(tmp_path / "features.csv")
    run = subprocess.run(
        [sys.executable, "-c", ALONE, "_", program, rows], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    found = np.array([[float(p) for p in line.split(",")] for line in run.stdout.splitlines()[1:]])
    np.testing.assert_allclose(found, made.predict(model, features), atol=2e-5)
    assert found.argmax(axis=1).std() > 0


def test_the_file_is_signed_and_a_changed_one_is_seen(tmp_path, signer):
    hub, authority = signer
    study = study_of("hidden = []")
    _, model = trained(study)
    registered = Registered(7, "d" * 64, "c" * 64, "current", 1, FACTS)
    export_model(
        tmp_path / "out", study, Task(), registered, encode_model(model), lambda m: Signed(m, hub.sign(m), hub.certificate)
    )
    said = json.loads((tmp_path / "out" / "manifest.json").read_text())
    manifest, signature = base64.b64decode(said["manifest"]), base64.b64decode(said["signature"])
    now_us = 1_000_000 * int(time.time())
    check_signature(manifest, signature, said["certificate"].encode(), authority.pem, now_us=now_us)
    assert read_manifest(manifest, said["sha256"]).size == (tmp_path / "out" / "model.safetensors").stat().st_size
    with pytest.raises(CertificateRefused):
        check_signature(manifest + b" ", signature, said["certificate"].encode(), authority.pem, now_us=now_us)
    file = tmp_path / "out" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    (tmp_path / "f.csv").write_text(",".join(["0"] * FEATURES))
    run = subprocess.run(
        [sys.executable, str(tmp_path / "out" / "predict.py"), str(tmp_path / "f.csv")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode != 0
    assert "not the file that card.json describes" in run.stderr


def test_the_card_says_what_is_known_and_nothing_else():
    study = study_of("hidden = []")
    registered = Registered(7, "d" * 64, "c" * 64, "current", 1, FACTS)
    text = markdown(card(study, Task(), registered, file_sha256="e" * 64))
    for words in (
        "no medical device",
        "b (worst) | 0.700",
        "0.080",
        "0.030 on subjects",
        "1.70",
        "a (60 examples)",
        "20% of all",
    ):
        assert words in text
    bare = card(study, Task(), Registered(7, "d" * 64, "c" * 64, "candidate", 1, {}), file_sha256="e" * 64)
    assert not {"score", "calibration", "version", "reason"} & set(bare)
    assert "None: no held-back example" in markdown(bare)


def test_a_folder_that_cannot_be_written_is_an_error_in_words(tmp_path, signer):
    hub, _ = signer
    (tmp_path / "file").write_text("")
    study = study_of("hidden = []")
    _, model = trained(study)
    registered = Registered(7, "d" * 64, "c" * 64, "current", 1, FACTS)
    with pytest.raises(StudyError, match="cannot be written"):
        export_model(
            tmp_path / "file" / "out", study, Task(), registered, encode_model(model), lambda m: Signed(m, hub.sign(m), b"")
        )
