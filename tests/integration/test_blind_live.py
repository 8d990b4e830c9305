"""A blind study over the real hub and edges, which pin a roster: its model is that of the same study in the clear."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from motion import recording
from wardround.clock import SystemClock
from wardround.collect.storage import FolderStorage
from wardround.learn.blobs import FolderBlobs
from wardround.learn.journal import Journal, model_name
from wardround.learn.models import decode_model
from wardround.store import StudyRecord
from wardround.trust.certificates import new_key
from wardround.trust.roster import HUB_ROSTER, LastingKey, PinnedRoster, Roster, read_entry, roster_key, sign_roster

EDGES = ("edge-1", "edge-2", "edge-3")
STUDY = """\
name = "{mode}-one"
task = "activity"
[learner]
hidden = []
[rounds]
count = 3
edges_min = 3
examples_min = 5
[score]
held_back = 0.0
[privacy]
mode = "{mode}"
"""


@pytest.mark.timeout(360)
def test_a_blind_study_and_a_clear_one_make_the_same_models(site, command, tmp_path):
    site.start_hub()
    secret, file, entries = new_key(), tmp_path / "roster.json", []
    key = roster_key(secret)
    programs = [site.edge(name) for name in EDGES]
    for i, name in enumerate(EDGES):
        site.keep(name, recording(f"p-{i}", name, i))
        identity = site.folder / name / "identity"
        PinnedRoster(identity).pin(key)
        entries.append(read_entry(LastingKey(identity).entry(name)))
    file.write_bytes(sign_roster(Roster(1, dict(entries)), secret))
    given = command("hub", "roster", str(file), "--home", str(site.home))
    assert given.returncode == 0, given.stderr
    for program in programs:
        program.start()
        program.wait_ready(150)
    store = site.store()
    for mode in ("clear", "blind"):  # one after the other: an edge trains one order at a time
        path = tmp_path / f"{mode}.toml"
        path.write_text(STUDY.format(mode=mode))
        started = command("study", "start", str(path), "--home", str(site.home))
        assert started.returncode == 0, started.stderr
        end = time.monotonic() + 60
        while {s.name: s.state for s in store.studies()}.get(f"{mode}-one") != "finished":
            assert time.monotonic() < end, ([(s.name, s.state, s.detail) for s in store.studies()], site.hub.tail())
            time.sleep(0.1)
    # then the hub lies: it shows a roster that it has signed itself, and the edges say so where its keeper cannot erase it
    (site.home / HUB_ROSTER).write_bytes(sign_roster(Roster(2, dict(entries)), new_key()))
    text, now_us = STUDY.format(mode="blind").replace("blind-one", "lied-to"), SystemClock().now_us()
    store.put_study(StudyRecord("lied-to", text, "requested", "", now_us, now_us))
    for name in EDGES:
        end = time.monotonic() + 60
        while b"the hub broke the rules of a masked round" not in (site.folder / name / "audit" / "audit.log").read_bytes():
            assert time.monotonic() < end, site.hub.tail()
            time.sleep(0.1)
        assert "signed by another key" in (site.folder / name / "audit" / "audit.log").read_text()
    assert not store.rounds("lied-to")
    store.close()
    models = {}
    for mode in ("clear", "blind"):
        folder = site.home / "studies" / f"{mode}-one"
        committed = Journal(FolderStorage(folder).connect).committed()
        assert [len(c.folded) for c in committed] == [3, 3, 3, 3]
        models[mode] = [decode_model(FolderBlobs(folder).read(model_name(c.model))) for c in committed]
    for one, other in zip(models["clear"], models["blind"], strict=True):
        for name in one:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-4, atol=1e-4)
    accepted = Journal(FolderStorage(site.home / "studies" / "blind-one").connect).accepted(3)
    assert {(a.examples, tuple(a.metrics)) for a in accepted.values()} == {(1, ())}
    for name in EDGES:  # they have seen the roster, and went by it
        pinned = json.loads((site.folder / name / "identity" / "roster.json").read_text())
        assert pinned == {"key": key, "number": 1}
        # and looked at their own updates, where the hub could not
        assert {p.name for p in (site.folder / name / "learn" / "watch").iterdir()} == {"blind-one.watch"}
