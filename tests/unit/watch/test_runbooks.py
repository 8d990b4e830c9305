"""Every kind of alert has its section in the runbooks, and every rule of the book speaks of kinds that exist."""

from __future__ import annotations

import re
from pathlib import Path

from wardround.watch.model_findings import WORDS
from wardround.watch.model_watch import COMMON, detectors

ROOT = Path(__file__).parents[3]


def kinds():
    text = "".join(p.read_text() for part in ("watch", "bedside") for p in (ROOT / "src/wardround" / part).rglob("*.py"))
    words = "signal-silent|sensor-dead|device-silent|news2|own-baseline|ectopic-run|activity-fall"
    found = re.findall(r'kind="([a-z-]+)"', text) + re.findall(rf'"({words})"', text)
    return {*found, *re.findall(r'Sign\(\s*"([a-z-]+)"', text), COMMON}


def test_every_kind_has_a_runbook():
    sections = set(re.findall(r"^## ([a-z0-9-]+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE))
    assert {"edge-silent", "update-poisoned", "sensor-dead", "edge-loss", "input-drift", "news2", "certificate"} <= kinds()
    assert kinds() <= sections


def test_every_kind_of_training_has_its_words():
    assert {sign.kind for d in detectors() for sign in d.signs.values()} | {COMMON} == set(WORDS)
