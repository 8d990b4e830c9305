"""The main job, small: every real program, both kills, both faults, and the count."""

from __future__ import annotations

import json

import pytest


@pytest.mark.timeout(280)
def test_the_demo_comes_to_a_good_end(command, tmp_path):
    facts_file = tmp_path / "facts.json"
    ended = command("demo", "--folder", str(tmp_path / "run"), "--play", "25", "--json", str(facts_file), timeout=270)
    assert ended.returncode == 0, ended.stdout[-3_000:] + ended.stderr
    assert "SIMULATED PATIENTS" in ended.stdout
    facts = json.loads(facts_file.read_text())
    observations, scores = facts["observations"], facts["scores"]
    assert facts["simulated_patients"] is True
    assert (observations["lost"], observations["duplicated"], observations["altered"]) == (0, 0, 0)
    assert observations["acknowledged"] == observations["stored"] > 5_000
    assert observations["without_consent_in_lake"] == 0
    assert observations["quarantined"] > 0
    assert facts["rounds"]["count"] >= 20
    assert set(scores) >= {"metric", "local_only_mean", "local_only_worst", "federated", "federated_worst_edge", "pooled"}
    assert scores["gap_closed"] > 0.5
    assert scores["federated"] > scores["local_only_mean"]
    kinds = {(a["kind"], a["edge"]) for a in facts["alerts"]}
    told = {kind for kind, _ in kinds}
    assert "sensor-dead" in told
    assert told & {"update-poisoned", "update-refused"}, "where the edge's own past is short, the lie is refused for its length"
    assert all(a["seconds_to_detect"] < 60 and a["response"] for a in facts["alerts"])
    assert sum("SIGKILL" in harm for harm in facts["harm"]) == 2
    assert facts["problems"] == []


@pytest.mark.timeout(280)
def test_the_demo_runs_on_real_recordings(command, tmp_path, shared_data):
    facts_file = tmp_path / "facts.json"
    records = shared_data / "har_smartphone"
    ended = command("demo", "--folder", str(tmp_path / "run"), "--records", str(records), "--json", str(facts_file), timeout=270)
    assert ended.returncode == 0, ended.stdout[-3_000:] + ended.stderr
    facts = json.loads(facts_file.read_text())
    assert facts["simulated_patients"] is False
    assert facts["observations"]["lost"] == facts["observations"]["duplicated"] == 0
    assert facts["scores"]["gap_closed"] >= 0.93
