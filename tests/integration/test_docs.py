"""The commands of README.md and docs/, typed: those that need no running program in `make test`, all others in `make test-docs`.

What runs which is in docs_under_test.py; tests/unit/test_docs_listed.py holds that list against the pages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from docs_under_test import LIVE, LONG, ROOT, steps

WHOLE = bool(os.environ.get("WARDROUND_DOCS"))
PLAYER = ROOT / "tests" / "docs_player.py"


def play(folder: Path, mode: str, timeout_s: float) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, str(PLAYER), str(folder), mode], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "played.json").read_text())


@pytest.mark.timeout(600)
def test_the_commands_that_need_no_running_program(tmp_path):
    played = play(tmp_path, "home", 580)
    may = {step.command: step.codes for step in steps()}
    wrong = [p for p in played if p["code"] not in may[p["command"]]]
    assert wrong == []
    assert [p["command"] for p in played if "Traceback" in p["err"]] == []
    silent = [p["command"] for p in played if not p["out"] + p["err"]]
    assert silent == [], "whoever types a command hears what came of it"
    assert {p["command"] for p in played} == set(may) - {c for c in may if c.startswith("python: ")}


@pytest.mark.skipif(not WHOLE, reason="minutes: make test-docs")
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("mode", ["live", "long"])
def test_the_commands_that_want_programs_or_minutes(tmp_path, mode):
    played = play(tmp_path, mode, 3_500)
    assert [p for p in played if p["code"] not in p["codes"]] == []
    assert [p["command"] for p in played if "Traceback" in p["err"]] == []
    assert {p["command"] for p in played} == set(LIVE if mode == "live" else LONG)
