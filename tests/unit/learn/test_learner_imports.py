"""A learner's library is loaded by who trains with it, and its absence is said with the remedy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wardround.errors import StudyError
from wardround.learn.learners import make_learner
from wardround.learn.study import LearnerSettings
from wardround.learn.trainer import said

HEAVY = ("jax", "torch", "sklearn", "xgboost")


def test_the_training_worker_begins_without_any():
    code = f"import sys, wardround.learn.trainer, wardround.training_data; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["torch", "sklearn", "xgboost"])
def test_a_missing_library_is_named_with_its_extra(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    monkeypatch.delitem(sys.modules, f"wardround.learn.learners.{kind}_learner", raising=False)
    for name in [n for n in sys.modules if n.startswith(f"{kind}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    module = "own_models:plain" if kind == "torch" else ""
    with pytest.raises(StudyError, match="not installed") as missing:
        make_learner(LearnerSettings(kind=kind, module=module), 4, 2)
    assert f"wardround[{kind}]" in said(missing.value)
