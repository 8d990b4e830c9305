"""docs/first-study.md, typed from top to bottom by a newcomer: a fresh home, a CSV as a wearable exports it, no word of ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wardround.learn.models import decode_model
from wearable_under_test import PEOPLE, export

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh( install)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
WHOLE = bool(os.environ.get("WARDROUND_NEWCOMER"))


@pytest.mark.timeout(1200 if WHOLE else 300)
def test_a_newcomer_comes_from_an_empty_folder_to_a_model_that_is_scored(tmp_path):
    blocks = BLOCK.findall((ROOT / "docs" / "first-study.md").read_text())
    typed = "\n".join(text for install, text in blocks if WHOLE or not install)
    assert typed.count("wardround study ") > 6
    export(tmp_path / "wearable.csv")
    path = "/usr/local/bin:/usr/bin:/bin"
    if not WHOLE:
        path = f"{Path(sys.executable).parent}:{path}"
    kept = {name: text for name, text in os.environ.items() if name.startswith(("PIP_", "LC_", "SSL_", "http")) or name == "LANG"}
    env = kept | {"HOME": str(tmp_path), "PATH": path, "WARDROUND_SOURCE": str(ROOT)}
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", typed],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1100 if WHOLE else 280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert f"{PEOPLE} subjects" in done.stdout
    facts = json.loads((tmp_path / "result" / "rehearsal.json").read_text())
    scores = [r["score"] for r in facts["rounds"]]
    assert scores[-1] > 0.6  # of six classes, chance is a sixth
    assert decode_model((tmp_path / "result" / "model.safetensors").read_bytes())
