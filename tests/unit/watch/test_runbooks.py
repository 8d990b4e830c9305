"""Every kind of alert has its section in the runbooks, and every rule of the book speaks of kinds that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def kinds():
    text = "".join(p.read_text() for p in (ROOT / "src/wardround/watch").rglob("*.py"))
    return set(re.findall(r'kind="([a-z-]+)"', text)) | set(re.findall(r'"(signal-silent|sensor-dead)"', text))


def test_every_kind_has_a_runbook():
    sections = set(re.findall(r"^## ([a-z-]+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE))
    assert {"edge-silent", "update-poisoned", "sensor-dead"} <= kinds()
    assert kinds() <= sections
