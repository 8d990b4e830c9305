"""Every kind of alert has its section in the runbooks, and every rule of the book speaks of kinds that exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import get_args

import msgspec
import yaml

from wardround.bedside.findings import TREND_KIND
from wardround.settings import RespondSettings
from wardround.watch import bedside, live_model
from wardround.watch.alerts import Rules
from wardround.watch.detectors.told import Told
from wardround.watch.model_findings import WORDS
from wardround.watch.model_watch import COMMON, detectors
from wardround.watch.sensor_findings import _SENSOR

ROOT = Path(__file__).parents[3]
# What a finding's kind is called where it is no word of its own, and the kinds that it may be.
NAMED = {
    "TREND_KIND": {TREND_KIND},
    "kind": {kind for kind, _ in _SENSOR.values()},
    "deviation.kind": {sign.kind for d in [*detectors(), Told()] for sign in d.signs.values()} | {COMMON},
    "episode.kind": {*get_args(bedside.Kind), *get_args(live_model.LiveKind)},
}


def said():
    """The kind of every finding that the sources make: a word, or the name of what holds it."""
    for path in (ROOT / "src/wardround").rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text if "Finding(" in text else "")):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                yield path.name, next(k.value for k in node.keywords if k.arg == "kind")


@functools.cache
def kinds():
    found = {value.value for _, value in said() if isinstance(value, ast.Constant)}
    return found.union(*NAMED.values())


def runbooks() -> dict[str, str]:
    """Each section by its kind."""
    _, *parts = re.split(r"^## ([a-z0-9-]+)$", (ROOT / "docs/runbooks.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_kind_has_a_runbook():
    sections = set(runbooks())
    assert {"edge-silent", "update-poisoned", "sensor-dead", "edge-loss", "news2", "certificate", "job-late"} <= kinds()
    assert kinds() <= sections


def test_every_alert_of_prometheus_has_a_runbook_of_its_own_kind():
    rules = yaml.safe_load((ROOT / "deploy/prometheus/wardround.rules.yml").read_text())["groups"][0]["rules"]
    alerts = {rule["alert"]: rule["annotations"].get("runbook_url", "") for rule in rules if "alert" in rule}
    assert len(alerts) > 5
    pages = {name: url.partition("#")[2] for name, url in alerts.items()}
    assert set(pages.values()) <= set(runbooks())
    assert "test" not in pages.values()


def test_a_runbook_says_what_to_do():
    """A section that only repeats what the alert says helps nobody at three in the morning."""
    asks = re.compile(
        r"wardround [a-z]|^1\. |\b(?:Look|Ask|Change|Have|See)\b|Was it meant|is to be done|call when", re.MULTILINE
    )
    thin = [kind for kind, text in runbooks().items() if not asks.search(text)]
    assert thin == []


def test_no_finding_has_a_kind_that_this_test_does_not_know():
    others = {(name, ast.unparse(value)) for name, value in said() if not isinstance(value, ast.Constant)}
    others.discard(("responding.py", "kind"))  # one that nobody has raised: what would be done about it
    assert {text for _, text in others} == set(NAMED)


def test_every_rule_speaks_of_kinds_that_exist():
    for rule in Rules().inhibitions:
        assert {rule.source, *rule.targets} <= kinds()
    for settings in msgspec.structs.astuple(RespondSettings()):
        assert set(settings.kinds) <= kinds()


def test_every_kind_of_training_has_its_words():
    assert {sign.kind for d in [*detectors(), Told()] for sign in d.signs.values()} | {COMMON} == set(WORDS)
