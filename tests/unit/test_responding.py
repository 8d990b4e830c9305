"""Responses carried out over real parts: done once whatever is killed, seen on the alert, undone by a person, recorded before."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from responding_under_test import EDGES, STUDY, Hub
from wardround.errors import StudyError, WardroundError
from wardround.learn.messages import RoundEvent
from wardround.store import Request
from wardround.trust.audit import AuditBroken
from wardround.watch.respond import Act
from wardround.watch.respond import State as Stands


@pytest.fixture
def hub(tmp_path):
    made = Hub(tmp_path)
    for _ in range(3):  # the statistics and two models
        made.round()
    yield made
    made.close()


def test_an_edge_is_set_aside_scored_all_the_while_and_counts_again_by_undo(hub):
    hub.alert("edge-loss", "edge-1")
    hub.responding.look()
    said = hub.newest("edge-loss", "edge-1").response
    assert (said.what, said.until) == ("set edge-1 aside in s from round 3, weight 0", "until round 5")
    assert hub.told[0][0] == "edge-1"
    assert hub.audit[0][:3] == ("change", "response", "Wardround")
    hub.round()
    assert hub.coordinator.committed()[-1].aside == ("edge-1",)
    assert "edge-1" not in hub.coordinator.committed()[-1].folded
    assert hub.responding.undo("R-0001", "anna", "the cable") == "edge-1 counts again, from its next update on"
    undone = hub.newest("edge-loss", "edge-1").response
    assert (undone.undone_by, undone.reason) == ("anna", "the cable")
    hub.responding.look()
    assert not hub.coordinator.quarantined()  # it does not set it aside again
    with pytest.raises(WardroundError, match="R-0001 is undone"):
        hub.responding.undo("R-0001", "anna", "")


def test_a_quarantine_of_the_screen_is_not_undone_with_ours(hub):
    hub.alert("edge-loss", "edge-1")
    hub.responding.look()
    hub.coordinator.quarantine("edge-1", 30, "twins-peer")
    with pytest.raises(WardroundError, match="set aside for something else meanwhile: twins-peer"):
        hub.responding.undo("R-0001", "anna", "")
    assert hub.coordinator.set_aside("edge-1") == (32, "twins-peer")


def test_a_study_goes_back_and_forth_again(hub):
    before = hub.coordinator.committed()[-1]
    hub.alert("model-diverged")
    hub.responding.look()
    assert hub.coordinator.rollbacks()[-1].to_round == 1
    assert hub.newest("model-diverged").response.person_too
    hub.sync()
    hub.responding.undo("R-0001", "anna", "it was the test set")
    assert hub.coordinator.committed()[-1].model == before.model
    assert [r.to_round for r in hub.coordinator.rollbacks()] == [1, 2]


def test_a_study_that_still_diverges_after_it_went_back_is_paused(tmp_path):
    hub = Hub(tmp_path, text=STUDY.replace('"stop-it"', '"model-diverged"'))
    for _ in range(3):
        hub.round()
    hub.watch_rounds(120)
    hub.alert("model-diverged")
    hub.responding.look()
    hub.sync()
    hub.responding.look()
    assert [e.act for e in hub.entries()] == [Act.ROLLBACK]
    assert not hub.coordinator.paused
    hub.watch_rounds(4, first=120, loss=5.0)
    hub.responding.look()
    assert [e.act for e in hub.entries()] == [Act.PAUSE, Act.ROLLBACK]
    assert hub.coordinator.paused
    assert hub.newest("model-diverged").response.what == "paused s"
    hub.close()


def gone_back_in_vain(tmp_path):
    """A hub whose study has gone back, and whose next model has diverged as well."""
    hub = Hub(tmp_path, text=STUDY.replace('"stop-it"', '"model-diverged"'))
    for _ in range(3):
        hub.round()
    hub.watch_rounds(120, first=-117)  # of which the newest is round 2
    hub.alert("model-diverged")
    hub.responding.look()
    hub.round()
    hub.watch_rounds(2, first=3, loss=5.0)
    hub.responding.look()
    assert [e.act for e in hub.entries()] == [Act.ROLLBACK]
    return hub


def no_update_counts(hub, number):
    hub.running.watched.heard(RoundEvent("opened", "s", number, 0, participants=EDGES))
    for edge in EDGES:
        hub.running.watched.heard(RoundEvent("refused", "s", number, 0, edge=edge, reason="norm"))
    hub.running.watched.heard(RoundEvent("abandoned", "s", number, 0, reason="too few edges can deliver"))
    hub.running.watched.look()
    hub.responding.look()


def test_a_study_that_makes_no_model_any_more_after_it_went_back_is_paused_at_the_last_good_one(tmp_path):
    hub = gone_back_in_vain(tmp_path)
    no_update_counts(hub, 5)
    assert not hub.coordinator.paused
    no_update_counts(hub, 5)
    assert hub.coordinator.paused
    assert [e.act for e in hub.entries()] == [Act.PAUSE, Act.ROLLBACK]
    assert [r.to_round for r in hub.coordinator.rollbacks()] == [1, 1]
    assert hub.newest("model-diverged").response.what == "paused s and went back to the model of round 1"
    assert hub.responding.undo("R-0002", "anna", "the setting is right again") == "rounds go on"
    assert not hub.coordinator.paused
    assert len(hub.coordinator.rollbacks()) == 2  # they go on from the good one
    hub.close()


def test_a_pause_holds_where_the_model_to_go_back_to_is_gone(tmp_path):
    hub = gone_back_in_vain(tmp_path)
    hub.running.releases.roll_back = refuse_to_go_back
    no_update_counts(hub, 5)
    no_update_counts(hub, 5)
    assert hub.coordinator.paused
    assert [e.state for e in hub.entries()] == [Stands.DONE, Stands.DONE]
    assert "it could not go back: that model is not kept any more" in hub.entries()[0].answer
    assert hub.newest("model-diverged").response.what == "paused s but could not go back to the model of round 1"
    hub.close()


def refuse_to_go_back(_asked):
    raise StudyError("that model is not kept any more", remedy="choose a newer one")


def test_a_study_in_which_edges_are_being_set_aside_is_paused_when_that_has_come_to_its_end(tmp_path):
    hub = Hub(tmp_path, text=STUDY.replace('"stop-it"', '"model-diverged"'))
    for _ in range(3):
        hub.round()
    hub.watch_rounds(120)
    hub.alert("model-diverged")
    hub.responding.look()
    hub.watch_rounds(4, first=120, loss=5.0, aside={123: "edge-1"})
    hub.running.newest = SimpleNamespace(number=123)
    hub.responding.look()
    assert not hub.coordinator.paused
    hub.watch_rounds(4, first=124, loss=5.0, aside=dict.fromkeys(range(124, 128), "edge-1"))
    hub.running.newest = SimpleNamespace(number=127)
    hub.responding.look()
    assert hub.coordinator.paused
    hub.close()


def test_a_study_is_paused_also_across_a_restart_and_resumed(hub, tmp_path):
    hub.alert("stop-it")
    hub.responding.look()
    assert hub.coordinator.paused
    assert hub.store.studies()[0].state == "paused"
    opened = len(hub.coordinator.committed())
    hub.coordinator.tick()
    hub.clock.advance(5.0)
    hub.coordinator.tick()
    assert hub.responding.before_undo("R-0001").words == "Resume s"
    hub.close()
    again = Hub(tmp_path)
    assert again.coordinator.paused
    again.responding.look()
    assert len(again.coordinator.committed()) == opened
    again.responding.undo("R-0001", "anna", "")
    assert not again.coordinator.paused
    again.round()
    assert len(again.coordinator.committed()) == opened + 1
    again.close()


def test_a_finished_study_is_given_more_rounds_and_they_are_taken_back(hub, tmp_path):
    hub.round()
    hub.round()
    assert hub.coordinator.finished
    hub.studies.finished("s")
    hub.alert("federation-shift")
    hub.responding.look()
    assert (hub.coordinator.rounds_in_all, hub.coordinator.finished) == (6, False)
    assert hub.store.studies()[0].state == "running"
    hub.round()
    hub.close()
    again = Hub(tmp_path)
    assert again.coordinator.rounds_in_all == 6
    again.responding.undo("R-0001", "anna", "")
    assert (again.coordinator.rounds_in_all, again.coordinator.finished) == (4, True)
    assert again.store.studies()[0].state == "finished"
    assert len(again.coordinator.committed()) == 6  # what is over stays
    again.close()


def test_detectors_learn_anew_and_have_their_thresholds_back(hub, tmp_path):
    hub.watch_rounds(60)
    before = hub.running.watched.state()
    assert hub.running.watched.calibration().rounds > 0
    hub.alert("unusual")
    hub.responding.look()
    assert hub.running.watched.calibration().rounds_seen == 0
    hub.watch_rounds(3)
    hub.close()
    again = Hub(tmp_path)
    again.responding.undo("R-0001", "anna", "")
    assert again.running.watched.state() == before
    again.close()


def test_a_study_that_nothing_watches_has_nothing_to_learn_anew(hub):
    hub.running.watched = None
    hub.alert("unusual")
    hub.responding.look()
    words = hub.newest("unusual").response.what
    assert words.startswith("a new calibration failed: no detector watches the training of this study")


def test_what_cannot_be_recorded_is_not_done(hub):
    def refuse(*_, **__):
        raise AuditBroken(Path("audit.log"), "the disk is full")

    hub.responding._record, kept = refuse, hub.responding._record
    hub.alert("edge-loss", "edge-1")
    hub.responding.look()
    hub.responding.look()
    assert not hub.coordinator.quarantined()
    assert [e.state for e in hub.entries()] == [Stands.PLANNED]
    hub.responding._record = kept
    hub.responding.look()
    assert list(hub.coordinator.quarantined()) == ["edge-1"]
    assert len(hub.entries()) == 1


def test_what_another_alert_explains_or_somebody_has_taken_is_left_alone(hub):
    hub.watch.acknowledge(hub.alert("edge-loss", "edge-1").alert_id, "anna")
    hub.alert("update-poisoned", "edge-2")
    hub.alert("edge-loss", "edge-2")
    hub.watch.tick()
    assert hub.newest("edge-loss", "edge-2").inhibited_by
    hub.responding.look()
    assert not hub.entries()


def test_a_dry_run_by_default_and_on_request(tmp_path):
    hub = Hub(tmp_path, text=STUDY.replace('mode = "act", kinds = ["edge-loss"]', 'kinds = ["edge-loss"]'))
    hub.round()
    hub.alert("edge-loss", "edge-1")
    hub.responding.look()
    assert not hub.coordinator.quarantined()
    assert "would set edge-1 aside" in hub.newest("edge-loss", "edge-1").response.what
    hub.store.put_request(Request("q1", "responses", "dry-run", {"kind": "edge-loss", "study": "s", "edge": "edge-2"}, "anna", 1))
    hub.store.put_request(Request("q2", "responses", "dry-run", {"kind": "stop-it", "study": "s"}, "anna", 2))
    hub.store.put_request(Request("q3", "responses", "undo", {"response": "R-0001"}, "anna", 3))
    hub.store.put_request(Request("q4", "responses", "explode", {}, "anna", 4))
    hub.responding.look()
    answers = {q: hub.store.request(q) for q in ("q1", "q2", "q3", "q4")}
    assert answers["q1"].answer == "no quarantine: 1 of 4 edges are set aside, and 1 may be at most"
    assert answers["q2"].answer == "would pause s (pause, mode act)"
    assert (answers["q3"].state, answers["q4"].state) == ("refused", "refused")
    assert len(hub.entries()) == 1
    hub.close()


@pytest.mark.parametrize(
    ("point", "kind", "edge", "act"),
    [
        ("before", "model-diverged", "", Act.ROLLBACK),
        ("middle", "model-diverged", "", Act.ROLLBACK),
        ("after", "model-diverged", "", Act.ROLLBACK),
        ("after", "edge-loss", "edge-1", Act.QUARANTINE),
        ("after", "federation-shift", "", Act.RETRAIN),
        ("after", "unusual", "", Act.RECALIBRATE),
    ],
)
def test_a_hub_that_is_killed_in_the_middle_ends_a_response_once(tmp_path, point, kind, edge, act):
    program = Path(__file__).parents[1] / "responding_under_test.py"
    killed = subprocess.run(
        [sys.executable, str(program), str(tmp_path), point, kind, edge], timeout=60, check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    hub = Hub(tmp_path)
    assert [(e.act, e.state) for e in hub.entries()] == [(act, Stands.PLANNED)]
    for request in hub.store.study_requests():  # as the hub does when it opens a study
        hub.studies._answer(request)
    for _ in range(3):
        hub.responding.look()
        hub.sync()
    assert [(e.act, e.state) for e in hub.entries()] == [(act, Stands.DONE)]
    assert hub.newest(kind, edge).response.undo == "response:R-0001"
    assert len(hub.coordinator.rollbacks()) == (act is Act.ROLLBACK)
    assert hub.coordinator.rounds_in_all == (6 if act is Act.RETRAIN else 4)
    assert list(hub.coordinator.quarantined()) == (["edge-1"] if act is Act.QUARANTINE else [])
    hub.responding.undo("R-0001", "anna", "")
    assert not hub.coordinator.quarantined()
    hub.close()
