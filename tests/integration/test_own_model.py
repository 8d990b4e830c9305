"""docs/own-model.md, typed from top to bottom: a PyTorch module of the reader's own is checked, rehearsed and written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wardround.learn.models import decode_model

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(600)
def test_a_module_of_the_readers_own_is_trained_as_the_page_says(tmp_path):
    pytest.importorskip("torch")
    typed = "\n".join(BLOCK.findall((ROOT / "docs" / "own-model.md").read_text()))
    assert typed.count("wardround study ") == 3
    env = {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    kept = {name: text for name, text in os.environ.items() if name.startswith("LC_") or name == "LANG"}
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", typed],
        cwd=tmp_path, env=kept | env, capture_output=True, text=True, timeout=580, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(json.loads((tmp_path / "result" / "rehearsal.json").read_text())["rounds"]) == 3
    names = set(decode_model((tmp_path / "result" / "model.safetensors").read_bytes()))
    assert {"0.weight", "running.1.running_mean"} <= names, names
