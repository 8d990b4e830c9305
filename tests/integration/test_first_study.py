"""docs/first-study.md, typed from top to bottom by a newcomer: a fresh home, a CSV as a wearable exports it, no word of ours."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import pytest

from newcomer_under_test import machine
from wardround.learn.models import decode_model
from wearable_under_test import PEOPLE, export

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh( install)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
WHOLE = bool(os.environ.get("WARDROUND_NEWCOMER"))


@pytest.mark.timeout(3_600 if WHOLE else 300)
def test_a_newcomer_comes_from_an_empty_folder_to_a_model_that_is_scored(tmp_path, capsys):
    blocks = BLOCK.findall((ROOT / "docs" / "first-study.md").read_text())
    install, study = ("\n".join(text for mark, text in blocks if bool(mark) is wanted) for wanted in (True, False))
    assert study.count("wardround study ") > 6
    folder = tmp_path / "newcomer"
    folder.mkdir()
    export(folder / "wearable.csv")
    newcomer = machine(folder, whole=WHOLE)
    newcomer.prepare()
    began = time.monotonic()
    done = newcomer.type(install, study, 1_500 if WHOLE else 280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert f"{PEOPLE} subjects" in done.stdout
    facts = json.loads((folder / "result" / "rehearsal.json").read_text())
    scores = [r["score"] for r in facts["rounds"]]
    assert scores[-1] > 0.6  # of six classes, chance is a sixth
    assert decode_model((folder / "result" / "model.safetensors").read_bytes())
    if WHOLE:
        with capsys.disabled():
            print(f"\n{newcomer.how}: {time.monotonic() - began:.0f} s, accuracy on people unseen {scores[-1]:.2f}")
