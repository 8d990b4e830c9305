"""A study with noise at the hub and one with noise at the edges, over the same real hub and edges: both ledgers are
dp-accounting's own, and what commands and journals say is what they say."""

from __future__ import annotations

import json
import time

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from typer.testing import CliRunner

from motion import recording
from programs_under_test import READY_S
from wardround.cli.main import app
from wardround.clock import SystemClock
from wardround.collect.storage import FolderStorage
from wardround.learn.blobs import FolderBlobs
from wardround.learn.journal import Journal, model_name
from wardround.learn.models import decode_model
from wardround.learn.privacy.edge_budget import budgets
from wardround.learn.privacy.ledger import NAME, read_ledger, spent
from wardround.store import StudyRecord

EDGES = ("edge-1", "edge-2")  # few: each is three processes
ROUNDS, DELTA = 2, 1e-3
COMMON = """\
task = "activity"
[learner]
hidden = []
momentum = 0.0
[rounds]
count = 2
edges_min = 2
deadline_s = 180.0
examples_min = 1
[score]
held_back = 0.0
[watch]
row_counts = false
"""
STUDIES = {
    "noisy-hub": '[privacy]\nmode = "clear-dp"\npopulation = 2\nnoise = 5.0\ndelta = 1e-3\ntarget_epsilon = 50.0\n',
    "noisy-edges": "[learner.dp_sgd]\nnoise = 2.0\nclip = 0.5\nepsilon_max = 60.0\ndelta = 1e-3\n",
}


def reckoned(*events):
    """(event, times) by dp-accounting, at DELTA."""
    accountant = PLDAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
    for event, times in events:
        accountant.compose(event, times)
    return accountant.get_epsilon(DELTA)


@pytest.mark.timeout(900)
def test_hub_and_edges_pay_what_dp_accounting_says(site):
    site.start_hub()
    programs = [site.edge(name) for name in EDGES]
    for i, name in enumerate(EDGES):
        site.keep(name, recording(f"p-{i}", name, i))
    for program in programs:
        program.start()
    for program in programs:
        program.wait_ready(READY_S)
    store, now_us = site.store(), SystemClock().now_us()
    for name, more in STUDIES.items():  # one after the other: an edge trains one order at a time
        store.put_study(StudyRecord(name, f'name = "{name}"\n{COMMON}{more}', "requested", "", now_us, now_us))
        end = time.monotonic() + 200
        while {s.name: s.state for s in store.studies()}[name] != "finished":
            assert time.monotonic() < end, ([(s.name, s.state, s.detail) for s in store.studies()], site.hub.tail())
            time.sleep(0.05)
    store.close()

    journals = {name: Journal(FolderStorage(site.home / "studies" / name).connect) for name in STUDIES}
    for name, journal in journals.items():
        assert [len(c.folded) for c in journal.committed()] == [0] + [2] * ROUNDS, name  # the first model is nobody's

    # the hub's: one Gaussian a round, of a sum whose noise is 5 clips
    entries = read_ledger(site.home / "studies" / "noisy-hub" / NAME)
    assert [e.round for e in entries] == [1, 2]
    shown = CliRunner().invoke(app, ["study", "budget", "noisy-hub", "--home", str(site.home), "--json"])
    assert shown.exit_code == 0, shown.output
    said = json.loads(shown.stdout)
    assert said["epsilon"] == pytest.approx(reckoned((GaussianDpEvent(5.0), ROUNDS)), rel=1e-3)  # closed form, and a PLD
    assert said["releases"] == ROUNDS
    assert not (site.home / "studies" / "noisy-edges" / NAME).exists()

    # the edges': each its own, by the rate and the steps that it alone knows
    accepted = journals["noisy-edges"].accepted(ROUNDS)
    assert set(accepted) == set(EDGES)
    for name in EDGES:
        own = budgets(site.folder / name)
        assert set(own) == {"noisy-edges"}
        assert [e.round for e in own["noisy-edges"]] == [1, 2]
        steps = [(PoissonSampledDpEvent(r.rate, GaussianDpEvent(r.noise)), n) for r, n in spent(own["noisy-edges"]).items()]
        metrics = accepted[name].metrics
        assert metrics["dp_epsilon"] == pytest.approx(reckoned(*steps), rel=1e-9)
        assert metrics["dp_delta"] == DELTA
        assert not {"loss_before", "loss_after", "accuracy"} & set(metrics)

    # and the models are noisy: in each study every tensor that trains has moved
    for name, journal in journals.items():
        blobs = FolderBlobs(site.home / "studies" / name)
        first, *_, last = (decode_model(blobs.read(model_name(c.model))) for c in journal.committed())
        assert all((last[t] != first[t]).all() for t in first if not t.startswith("scale.")), name
