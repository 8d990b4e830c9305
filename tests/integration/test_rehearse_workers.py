"""A rehearsal on real Dask workers makes the model of one process."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from wardround.learn.models import decode_model
from wardround.learn.study_example import example_study
from wardround.process.transforms import TASKS

TASK = TASKS["ventricular-beats"]


def rehearsed(folder, *arguments):
    command = [sys.executable, "-m", "wardround.cli.main", "study", "rehearse", str(folder / "study.toml"), "--data"]
    command += [str(folder / "data"), "--edges", "12", "--rounds", "4", "--alpha", "5", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fast", [(), ("--fast",)], ids=["screened", "fast"])
def test_workers_make_the_model_of_one_process(tmp_path, fast):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 600)
    columns = {name: rng.normal(size=600) + labels for name in TASK.feature_names}
    (tmp_path / "data").mkdir()
    pl.DataFrame(columns | {"label": labels}).write_parquet(tmp_path / "data" / "all.parquet")
    (tmp_path / "study.toml").write_text(example_study("s", TASK.name, TASKS).replace("held_back = 0.2", "held_back = 0.0"))
    here = rehearsed(tmp_path, "--out", str(tmp_path / "here"), *fast)
    there = rehearsed(tmp_path, "--out", str(tmp_path / "there"), "--workers", "2", *fast)
    assert [r["participants"] for r in here["rounds"]] == [r["participants"] for r in there["rounds"]]
    one, other = (decode_model((tmp_path / name / "model.safetensors").read_bytes()) for name in ("here", "there"))
    assert max(float(np.abs(one[n]).max()) for n in one if not n.startswith("scale.")) > 0.01
    for name, tensor in one.items():
        np.testing.assert_allclose(other[name], tensor, atol=2e-5, err_msg=name)
