"""A step of the server that ruins the model, among real processes: seen, gone back from by itself, and that undone by a person.

Detectors of the hub's step speak after forty rounds, which takes most of a minute on a busy machine: with WARDROUND_ROLLBACK=1.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from motion import hold_back, start_edges, start_study
from wardround.collect.storage import FolderStorage
from wardround.learn.journal import Journal
from wardround.responding import BY_ITSELF
from wardround.store import opened
from wardround.watch.respond import entries_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:jax.*"),
    pytest.mark.skipif(not os.environ.get("WARDROUND_ROLLBACK"), reason="`make test-rollback`: a minute of real rounds first"),
]
EDGES = ("edge-1", "edge-2", "edge-3")
HEALTHY = 45  # rounds, until the detectors of the hub's step have a past
STRUCK = 2  # rounds: a step is unusual in two of three
STUDY = """\
name = "moves"
task = "activity"
[learner]
hidden = []
learning_rate = 0.002
momentum = 0.0
[rounds]
count = 2000
edges_min = 2
examples_min = 5
interval_s = 0.1
[triage]
norm_ratio_max = 1e6  # what is done here is done by the watch alone
screen_threshold = 1e6
twin_cosine_max = 1.0
[respond.rollback]
mode = "act"
[score]
held_back = 0.0
held_back_subjects = ["h-1", "h-2"]
[release]
canary_share = 0.0
hold_rounds = 0
examples_min = 10
models_kept = 1000
"""


@pytest.fixture
def running(site, command, tmp_path):
    hold_back(site, {"h-1": EDGES[0], "h-2": EDGES[1]})
    site.hub.arguments = ["struck_hub", *site.hub.arguments[1:]]
    site.hub.environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    site.start_hub()
    start_edges(site, EDGES)
    start_study(site, command, tmp_path, STUDY)
    return site


def until(site, holds, seconds=300.0):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, site.hub.tail()
        time.sleep(0.1)
    return found


def responses(site):
    with opened(site.home / "hub.sqlite") as store:
        return entries_of(store.load_state("response-book") or b"")


@pytest.mark.timeout(900)
def test_a_step_that_ruins_the_model_is_gone_back_from_and_a_person_undoes_that(running, command):
    site, home = running, ("--home", str(running.home))
    journal = Journal(FolderStorage(site.home / "studies" / "moves").connect)
    until(site, lambda: (last := journal.last()) is not None and last.number >= HEALTHY)
    assert responses(site) == []
    (site.home / "strike").write_text(str(STRUCK))
    rollback = until(site, lambda: next(iter(journal.rollbacks()), None))
    entry = until(site, lambda: next((e for e in responses(site) if e.act == "rollback" and e.state == "done"), None))
    assert (entry.kind, entry.study) == ("model-diverged", "moves")
    assert rollback.who == BY_ITSELF
    assert (site.home / "strike").read_text() == "0"

    good = journal.committed_at(rollback.to_round)[0]
    assert good.model == rollback.to_model
    assert good.number < entry.from_round < rollback.number
    with opened(site.home / "hub.sqlite") as store:
        alert = next(a.body for a in store.alerts(limit=50) if a.alert_id == entry.alert_id)
        scores = {m.number: m.facts["score"]["value"] for m in store.models("moves") if m.facts.get("score")}
    assert alert["response"]["undo"] == f"response:{entry.response_id}"
    assert scores[good.number] > 0.9
    after = until(site, lambda: journal.committed_at(rollback.number + 1))[0]
    assert after.base == good.model

    undone = command("response", "undo", entry.response_id, "--reason", "the step was meant", *home)
    assert undone.returncode == 0, undone.stderr
    assert [e.state for e in responses(site) if e.response_id == entry.response_id] == ["undone"]
    again = journal.rollbacks()[1]
    assert again.to_round == entry.from_round
    after = until(site, lambda: journal.committed_at(again.number + 1))[0]
    assert after.base == again.to_model
    audited = command("audit", "show", "--limit", "1000", "--json", *home)
    assert audited.returncode == 0, audited.stderr
    entries = json.loads(audited.stdout)
    assert [e["what"] for e in entries if e["facts"].get("response") == entry.response_id] == ["response", "response undone"]
