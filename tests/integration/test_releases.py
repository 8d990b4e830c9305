"""A study among real processes: models are gated and held by edges, one command goes back, and an export predicts alone."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time

import numpy as np
import pytest

from motion import hold_back, lake_of, recording, start_edges, start_study
from wardround.collect.storage import FolderStorage
from wardround.learn.blobs import FolderBlobs
from wardround.learn.held import HeldModels
from wardround.learn.journal import Journal
from wardround.learn.learners import make_learner
from wardround.learn.models import decode_model, digest
from wardround.learn.study import parse_study
from wardround.process.jobs import gold_examples
from wardround.process.transforms import TASKS
from wardround.store import opened
from wardround.watch.respond import entries_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:jax.*")
EDGES = ("edge-1", "edge-2", "edge-3", "edge-4")  # of four one may be set aside by itself
STUDY = """\
name = "moves"
task = "activity"
[learner]
hidden = []
learning_rate = 0.002
momentum = 0.0
[rounds]
count = 400
edges_min = 2
examples_min = 5
interval_s = 0.5
[triage]
aside_rounds = 1000
screen_threshold = 1e6  # what is done here is done by the watch alone
twin_cosine_max = 1.0
[respond.quarantine]
mode = "act"
kinds = ["input-dead"]
rounds = 10000
share_max = 0.25
[score]
held_back = 0.0
held_back_subjects = ["h-1", "h-2"]
[release]
canary_share = 0.34
hold_rounds = 2
examples_min = 10
score_margin = 1.0
worst_edge_margin = 1.0
ece_margin = 1.0
brier_margin = 2.0
models_kept = 500
"""


@pytest.fixture
def running(site, command, tmp_path):
    """A study in progress over three edges, with two held-back subjects in the lake."""
    hold_back(site, {"h-1": EDGES[0], "h-2": EDGES[1]})
    site.start_hub()
    start_edges(site, EDGES)
    start_study(site, command, tmp_path, STUDY)
    return site


def until(site, holds, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, site.hub.tail()
        time.sleep(0.3)
    return found


def standing(site, stage):
    """The models of a stage, read from the store as `study models` does: to ask the command each time would take minutes."""
    with opened(site.home / "hub.sqlite") as store:
        return [m for m in store.models("moves") if m.stage == stage]


def held(site, edge):
    """What an edge would predict with."""
    found = HeldModels(FolderBlobs(site.folder / edge / "learn" / "held")).open("moves")
    return None if found is None else found.release.model


def replay_what_was_set_aside(site, command, home, journal):
    """It counts in a later round, and is not taken twice; the edge is told."""
    rows = json.loads(command("study", "updates", "moves", "--edge", EDGES[2], "--json", *home).stdout)
    number = max(r["round"] for r in rows if r["verdict"] == "aside")
    done = command("study", "replay", "moves", EDGES[2], str(number), "--reason", "a test", *home)
    assert "counts in the next round" in done.stdout, done.stderr
    until(site, lambda: any(c.replayed for c in journal.committed()))
    again = command("study", "replay", "moves", EDGES[2], str(number), *home)
    assert "replayed already" in again.stderr


def edge_status(command, folder):
    return json.loads(command("edge", "status", "--limit", "100", "--json", "--home", str(folder)).stdout)


def let_one_count_again(site, journal, command, home):
    """An edge is set aside, as a screen does it; the operator sees it, lets it count again, and cannot do so twice."""
    folder = site.folder / EDGES[2]
    assert json.loads(command("study", "quarantine", "moves", "--json", *home).stdout) == []
    assert {a["verdict"] for a in edge_status(command, folder)["receipts"]} == {"accepted"}
    journal.quarantine(EDGES[2], 10_000, "twins-peer")
    listed = json.loads(command("study", "quarantine", "moves", "--json", *home).stdout)
    assert listed == [{"edge": EDGES[2], "until_round": 10_000, "reason": "twins-peer"}]
    until(site, lambda: EDGES[2] in journal.last().aside)
    replay_what_was_set_aside(site, command, home, journal)
    released = command("study", "release", "moves", EDGES[2], "--reason", "a test", *home)
    assert "counts again" in released.stdout, released.stderr
    assert not journal.set_aside()
    again = command("study", "release", "moves", EDGES[2], *home)
    assert again.returncode != 0
    assert "is not set aside" in again.stderr
    until(site, lambda: "released" in {a["verdict"] for a in edge_status(command, folder)["receipts"]})


def counted(journal):
    """The counts of rows of the newest round by edge, and what is kept of its updates; None: it is just being taken over."""
    number = journal.last().number
    kept = {k.update.edge: k for k in journal.kept(round_number=number)}
    counts = {edge: rows for edge, (_, rows) in journal.said(number).items() if rows}
    return (counts, kept) if len(counts) >= 2 else None


def what_an_edge_is_fed_stands_still_and_it_is_set_aside_by_itself(site, journal, command, home):
    """From counts of rows, signed, to an alert and a quarantine that nobody asked for; undo lets the edge count again."""
    edge = EDGES[0]
    counts, kept = until(site, lambda: counted(journal))
    for name, rows in counts.items():
        assert json.loads(kept[name].signed.announcement)["rows_sha256"] == hashlib.sha256(rows).hexdigest()
    assert not journal.set_aside()
    site.keep(edge, [o for i in range(8) for o in recording(f"still-{i}", edge, 50 + i, still=True)])
    until(site, lambda: edge in journal.last().aside, 120)
    (entry,) = quarantines(site)
    assert (entry.edge, entry.kind, entry.state) == (edge, "input-dead", "done")
    with opened(site.home / "hub.sqlite") as store:
        alert = next(a.body for a in store.alerts(limit=50) if a.alert_id == entry.alert_id)
    assert "no longer varies" in alert["finding"]["title"]
    assert alert["finding"]["evidence"][-1][1] > alert["finding"]["threshold"]
    assert alert["response"]["undo"] == f"response:{entry.response_id}"
    undone = command("response", "undo", entry.response_id, "--reason", "the patient sleeps", *home)
    assert "counts again" in undone.stdout, undone.stderr
    number = journal.last().number
    until(site, lambda: edge in journal.last().folded and journal.last().number > number + 2)
    (entry,) = quarantines(site)  # what a person has undone is not done again, though it still stands still
    assert (entry.state, entry.ended_why) == ("undone", "the patient sleeps")
    told = until(site, lambda: {a["verdict"] for a in edge_status(command, site.folder / edge)["receipts"]} & {"released"})
    assert told


def quarantines(site):
    """What the hub has done by itself to edges; as `response list` reads it."""
    with opened(site.home / "hub.sqlite") as store:
        return [e for e in entries_of(store.load_state("response-book") or b"{}") if e.act == "quarantine"]


def responses_and_automation(site, command, home):
    """What the hub would do about an alert, and what it does by the clock, as an operator sees them."""
    would = command("response", "dry-run", "model-diverged", "--study", "moves", *home)
    assert "moves" in would.stdout, would.stderr
    assert "mode dry-run" in would.stdout or "no rollback" in would.stdout
    refused = command("response", "undo", "R-0001", *home)
    assert "there is no response" in refused.stderr
    rows = {r["name"]: r for r in json.loads(command("automation", "--json", *home).stdout)}
    assert {"job:signals", "compaction", "retention", "hub-certificate", "edge-certificates", "study:moves"} <= set(rows)
    assert rows["study:moves"]["outcome"] == rows["job:examples-activity"]["outcome"] == "ok"
    assert not [r for r in rows.values() if r["late"]]
    assert command("automation", "--late", *home).returncode == 0


def every_update_is_signed(site, command, home):
    """Each holds, and one whose row was changed behind the hub's back does not."""
    checked = command("study", "updates", "moves", "--verify", "--json", *home)
    rows = json.loads(checked.stdout)
    assert {r["edge"] for r in rows} == set(EDGES)
    assert not [r for r in rows if r["wrong"]]
    assert {r["verdict"] for r in rows} <= {"accepted", "waiting", "late", "failed"}
    db = FolderStorage(site.home / "studies" / "moves").connect("journal")
    db.execute("UPDATE accepted SET sha256 = ? WHERE round = 1 AND edge = ?", ("0" * 64, EDGES[0]))
    forged = command("study", "updates", "moves", "--round", "1", "--edge", EDGES[0], "--verify", *home)
    assert forged.returncode == 1
    assert "not what their edges signed" in forged.stderr
    row = next(r for r in rows if (r["round"], r["edge"]) == (1, EDGES[0]))
    db.execute("UPDATE accepted SET sha256 = ? WHERE round = 1 AND edge = ?", (row["sha256"], EDGES[0]))
    db.close()


@pytest.mark.timeout(900)
def test_models_are_tried_become_current_and_one_command_goes_back(running, command, tmp_path):
    site = running
    retired = until(site, lambda: standing(site, "retired"), 90)[-1]  # a canary has stood its trial
    assert retired.facts["signature"]["signature"]
    current = standing(site, "current")[0]
    assert current.facts["score"]["value"] > 0.9
    assert set(current.facts["score"]["by_edge"]) == set(EDGES[:2])
    assert set(current.facts["lineage"]["updates"]) <= set(EDGES)

    home = ("--home", str(site.home))
    responses_and_automation(site, command, home)
    paused = command("study", "pause", "moves", *home)
    assert "no new round" in paused.stdout, paused.stderr
    every_update_is_signed(site, command, home)
    until(site, lambda: [held(site, e) for e in EDGES].count(standing(site, "current")[0].model) >= 2)
    shown = command("study", "rollback", "moves", "--to", str(retired.number), "--dry-run", "--json", *home)
    dry = json.loads(shown.stdout)
    assert (dry["done"], dry["to_round"]) == (False, retired.number)
    assert not standing(site, "rolled-back")
    done = command("study", "rollback", "moves", "--to", str(retired.number), "--reason", "a test", *home)
    assert f"back at the model of round {retired.number}" in done.stdout, done.stderr
    assert [m.model for m in standing(site, "current")] == [retired.model]
    shown = command("study", "models", "moves", "--json", *home)
    stages = {m["number"]: m["stage"] for m in json.loads(shown.stdout)}
    assert stages[retired.number] == "current"
    assert "rolled-back" in stages.values()
    until(site, lambda: all(held(site, e) == retired.model for e in EDGES))

    site.hub.kill()
    site.start_hub()
    assert [m.model for m in standing(site, "current")] == [retired.model]
    assert next(s.state for s in site.store().studies()) == "paused"
    assert "rounds go on" in command("study", "resume", "moves", *home).stdout
    journal = Journal(FolderStorage(site.home / "studies" / "moves").connect)
    let_one_count_again(site, journal, command, home)
    what_an_edge_is_fed_stands_still_and_it_is_set_aside_by_itself(site, journal, command, home)
    row = journal.rollbacks()[0]
    assert (row.to_model, row.reason) == (retired.model, "a test")
    after = until(site, lambda: journal.committed_at(row.number + 1))[0]
    assert after.base == retired.model
    titles = [h.title for h in site.store().happenings(limit=1_000)]
    assert any(t.startswith("moves: rollback by ") and t.endswith(" done") for t in titles)

    stopped = command("study", "stop", "moves", *home)
    assert stopped.returncode == 0, stopped.stderr
    last = journal.last().number
    site.hub.stop()
    asked = command("study", "promote", "moves", "--model", str(after.number), *home)
    assert "no hub runs here" in asked.stdout
    site.start_hub()
    until(site, lambda: [m.number for m in standing(site, "current")] == [after.number])
    assert journal.last().number == last
    again = [command("study", "promote", "moves", "--model", str(after.number), *home) for _ in range(3)]
    assert again[-1].returncode != 0, again  # the first may find that a canary has stood its trial meanwhile
    assert "is current already" in again[-1].stderr
    check_export(site, command, tmp_path / "out", after)


def check_export(site, command, out, made):
    done = command("study", "export", "moves", "-o", str(out), "--home", str(site.home))
    assert done.returncode == 0, done.stderr
    study, task = parse_study(STUDY, where="test"), TASKS["activity"]
    examples = gold_examples(lake_of(site), task)
    np.savetxt(out / "features.csv", examples.features, delimiter=",")
    alone = [sys.executable, str(out / "predict.py"), str(out / "features.csv")]
    run = subprocess.run(alone, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    found = np.array([[float(p) for p in line.split(",")] for line in run.stdout.splitlines()[1:]])
    learner = make_learner(study.learner, len(task.feature_names), len(task.classes))
    data = (out / "model.safetensors").read_bytes()
    assert digest(data) == made.model
    np.testing.assert_allclose(found, learner.predict(decode_model(data), examples.features), atol=1e-4)
    card = json.loads((out / "card.json").read_text())
    assert card["examples"] == sum(made.folded.values())
    assert "no medical device" in (out / "card.md").read_text()
    onnx = command("study", "export", "moves", "-o", str(out), "--format", "onnx", "--home", str(site.home))
    assert onnx.returncode != 0
    assert "has no ONNX form" in onnx.stderr
