"""What Prometheus reads: names and types by its conventions, scores beside thresholds, and never a patient."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from wardround.errors import PortTaken
from wardround.ports import LOOPBACK, free_port
from wardround.watch import metrics as module
from wardround.watch.metrics import EdgeFacts, Facts, Metrics, SinkFacts, StudyFacts

ROOT = Path(__file__).parents[3]
FACTS = Facts(
    version="1.0",
    edges=[EdgeFacts("icu-a", up=True, seen_us=5_000_000, spooled=7, certificate_us=9_000_000), EdgeFacts("icu-b", up=False)],
    studies=[StudyFacts("rhythm", 12, 9, 10, "accuracy", 0.91, 0.7)],
    sinks=[SinkFacts("pager", 2, 40, 1, failing=True)],
    alerts=[("high", "firing"), ("high", "firing"), ("low", "acknowledged")],
    inbox_waiting=3,
    behind_s=1.5,
    jobs=[("trends", 4_000_000)],
)


def scraped(made):
    port = made.serve(LOOPBACK, free_port())
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()
    finally:
        made.close()


def busy(facts=FACTS):
    made = Metrics(lambda: facts)
    made.arrived(10, 5_000)
    for seconds in (0.05, 0.7, 7_200.0):
        made.round_committed("rhythm", seconds, 3_000_000)
    made.round_abandoned("rhythm")
    for outcome in ("accepted", "accepted", "refused"):
        made.update("rhythm", outcome)
    made.scored("rhythm", "icu-a", 2.5, 6.0)
    return made


def samples(text):
    found = [s for family in text_string_to_metric_families(text) for s in family.samples]
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in found}


def test_it_says_how_things_stand_and_what_happened():
    found = samples(scraped(busy()))
    assert found["wardround_samples_total", ()] == 5_000
    assert found["wardround_edge_up", (("edge", "icu-b"),)] == 0
    assert found["wardround_edge_last_seen_timestamp_seconds", (("edge", "icu-a"),)] == 5.0
    assert ("wardround_edge_last_seen_timestamp_seconds", (("edge", "icu-b"),)) not in found
    assert found["wardround_rounds_total", (("outcome", "abandoned"), ("study", "rhythm"))] == 1
    assert found["wardround_updates_total", (("outcome", "accepted"), ("study", "rhythm"))] == 2
    assert found["wardround_update_score", (("edge", "icu-a"), ("study", "rhythm"))] == 2.5
    assert found["wardround_update_score_threshold", (("study", "rhythm"),)] == 6.0
    assert found["wardround_alerts", (("priority", "high"), ("state", "firing"))] == 2
    assert found["wardround_round_duration_seconds_bucket", (("le", "0.1"), ("study", "rhythm"))] == 1
    assert found["wardround_round_duration_seconds_bucket", (("le", "1.0"), ("study", "rhythm"))] == 2
    assert found["wardround_round_duration_seconds_bucket", (("le", "+Inf"), ("study", "rhythm"))] == 3
    assert found["wardround_round_duration_seconds_count", (("study", "rhythm"),)] == 3
    assert found["wardround_study_worst_edge_score", (("metric", "accuracy"), ("study", "rhythm"))] == 0.7


def test_labels_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "LABELS_MAX", 5)
    made = Metrics(lambda: Facts(edges=[EdgeFacts(f"e{i}", up=True) for i in range(50)]))
    for i in range(50):
        made.scored("s", f"e{i}", 1.0, 6.0)
    found = samples(scraped(made))
    assert len([1 for name, _ in found if name == "wardround_update_score"]) == 5
    assert len([1 for name, _ in found if name == "wardround_edge_up"]) == 5
    assert found["wardround_edges_registered", ()] == 50
    assert {label for _, labels in found for label, _ in labels} <= {"edge", "study", "version", "simulated"}


def test_a_taken_port_is_said():
    made, other = busy(), busy()
    port = made.serve(LOOPBACK, free_port())
    try:
        with pytest.raises(PortTaken, match=str(port)):
            other.serve(LOOPBACK, port)
    finally:
        made.close()


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's prometheus is not installed")


def promtool(*arguments, given=None):
    done = subprocess.run(["promtool", *arguments], input=given, capture_output=True, timeout=30, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


@needs_promtool
def test_prometheus_own_linter_finds_nothing():
    code, said = promtool("check", "metrics", given=scraped(busy()).encode())
    assert (code, said) == (0, "")


@needs_promtool
def test_the_rules_hold():
    rules = ROOT / "deploy/prometheus/wardround.rules.yml"
    assert promtool("check", "rules", str(rules))[0] == 0
    code, said = promtool("test", "rules", str(rules.with_name("wardround.rules.test.yml")))
    assert code == 0, said


def test_rules_dashboard_and_runbooks_speak_of_metrics_and_sections_that_exist():
    rules = (ROOT / "deploy/prometheus/wardround.rules.yml").read_text()
    dashboard = (ROOT / "deploy/grafana/wardround.json").read_text()
    names = {s.name for s in _all_samples()}
    for text in (rules, "\n".join(_expressions(json.loads(dashboard)))):
        asked = set(re.findall(r"\bwardround_[a-z_]+\b", re.sub(r"study:\S+", "", text)))
        assert asked
        assert asked <= names
    sections = set(re.findall(r"^## ([a-z-]+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE))
    assert set(re.findall(r"runbooks.md#([a-z-]+)", rules)) <= sections


def test_the_page_names_every_metric_with_its_kind_and_labels():
    """A newcomer to the dashboard looks them up there."""
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(wardround_\w+)` \| (\w+) \| (.*?) ?\| .+ \|$", page, re.MULTILINE)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    served = {
        f.name + ("_total" if f.type == "counter" else ""): (f.type, tuple(f._labelnames))
        for f in Metrics(lambda: FACTS).collect()
    }
    assert len(rows) == len(told)
    assert told == served


def _all_samples():
    text = generate_latest(_Registry(busy())).decode()
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


class _Registry:
    def __init__(self, made):
        self.collect = made.collect


def _expressions(panel):
    """Every query of a dashboard."""
    if isinstance(panel, dict):
        return ([panel["expr"]] if "expr" in panel else []) + [e for v in panel.values() for e in _expressions(v)]
    return [e for v in panel for e in _expressions(v)] if isinstance(panel, list) else []
