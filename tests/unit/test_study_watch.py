"""The watch of a live study: from the coordinator's events to alerts, over restarts of the hub."""

from __future__ import annotations

import tomllib

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.clock import ManualClock
from wardround.learn.messages import Reported, RoundEvent
from wardround.learn.study import LearnerSettings, Study, parse_study
from wardround.row_counts import RowCounts, encode_rows, input_counts
from wardround.store import StudyRecord, open_store
from wardround.study_watch import QUEUE_MAX, SAVE_S, StudyWatch, configuration
from wardround.watch.detectors.screens import Screens
from wardround.watch.detectors.seen import EdgeSeen, RoundSeen
from wardround.watch.metrics import Facts, Metrics
from wardround.watch.watcher import Watch

TEXT = 'name = "s"\ntask = "activity"\n'
NAMES = ("rate", "spread")
EDGES = ("ward-a", "ward-b", "ward-c", "ward-d", "ward-e")


class Hub:
    """What a hub has of it; `start` again is a restart."""

    def __init__(self, home):
        self.store, self.clock, self.rng = open_store(home / "hub.sqlite"), ManualClock(), np.random.default_rng(0)
        self.changes, self.book = [], b""
        self.start()

    def start(self, text=TEXT):
        self.watch = Watch(clock=self.clock, heartbeat_s=1.0, signal_title=str, on_change=self.changes.append, saved=self.book)
        self.screens = Screens("s")
        self.watched = StudyWatch(
            parse_study(text, where="test"),
            NAMES,
            screens=self.screens,
            store=self.store,
            clock=self.clock,
            tell=self.watch.trained,
            is_well=self.watch.is_well,
        )

    def restart(self, text=TEXT):
        self.book = self.watch.save()
        self.start(text)

    def play(self, numbers, dead="", rows=None):
        for number in numbers:
            said = {}
            for edge in EDGES:
                x = self.rng.normal(size=(64, 2))
                if edge == dead:
                    x[:, 1] = 0.3
                counts = encode_rows(RowCounts(input_counts(x, np.zeros(2), np.ones(2)))) if rows is None else rows
                metrics = {"loss_before": 0.5 + 0.02 * self.rng.normal(), "duration_s": 1.0}
                said[edge] = Reported(64, metrics, False, float(np.exp(0.1 * self.rng.normal())), counts)
            self.screens.step_norm = float(np.exp(0.05 * self.rng.normal()))
            self.watched.committed(RoundEvent("committed", "s", number, self.clock.now_us(), reported=said, participants=EDGES))
            assert self.watched.look()
            self.clock.advance(1.0)

    def open(self):
        return {(a.finding.kind, a.finding.edge) for a in self.watch.open_alerts()}


@pytest.fixture
def hub(tmp_path):
    hub = Hub(tmp_path)
    yield hub
    hub.store.close()


def test_a_dead_feature_becomes_an_alert_that_says_why_and_is_over_once_it_lives(hub):
    hub.play(range(60))
    assert hub.open() == set()
    hub.play(range(60, 66), dead="ward-c")
    assert ("input-dead", "ward-c") in hub.open()
    alert = next(a for a in hub.watch.open_alerts() if a.finding.kind == "input-dead")
    finding = alert.finding
    assert "spread at ward-c" in finding.title
    assert finding.causes
    assert finding.impact
    assert finding.action
    assert finding.evidence
    assert finding.evidence[-1][1] > finding.threshold
    drift = next(a for a in hub.watch.open_alerts() if a.finding.kind == "input-drift")
    hub.watch.tick()
    drift = next(a for a in hub.watch.alerts() if a.alert_id == drift.alert_id)
    assert drift.inhibited_by == alert.alert_id  # one cause
    raised = len(hub.changes)
    hub.play(range(66, 70), dead="ward-c")
    assert len(hub.changes) == raised  # it lasts: nobody is told every round
    hub.play(range(70, 110))
    assert hub.open() == set()


def test_what_is_open_and_what_is_calibrated_survive_a_restart(hub):
    hub.play(range(50))
    hub.play(range(50, 54), dead="ward-c")
    before = hub.open()
    assert before
    hub.restart()
    assert 54 - SAVE_S < hub.watched.calibration().rounds_seen <= 54  # what came since is lost with the kill
    hub.play(range(54, 56), dead="ward-c")
    assert hub.open() == before
    hub.play(range(56, 100))
    assert hub.open() == set()


def test_where_no_edge_says_anything_of_itself_nothing_is_kept_of_it(hub):
    hub.play(range(12))
    hub.watched.close()
    assert hub.store.load_state("model-watch/s")
    assert hub.store.load_state("own-reports/s") is None


def test_an_alert_whose_cause_a_kill_lost_is_over(hub):
    hub.play(range(50))
    hub.play(range(50, 54), dead="ward-c")
    hub.store.save_state("model-watch/s", b"")
    hub.restart()
    hub.play(range(54, 56))
    assert hub.open() == set()


def test_another_configuration_is_calibrated_anew(hub):
    hub.play(range(30))
    hub.watched.close()
    hub.restart(TEXT + "[learner]\nlearning_rate = 0.5\n")
    assert hub.watched.calibration().rounds_seen == 0
    hub.restart()
    assert hub.watched.calibration().rounds_seen == 30


def test_what_has_no_part_in_thresholds_and_what_nobody_has_set_calibrates_nothing_anew():
    def digest(text="", kind=Study):
        return configuration(msgspec.convert(tomllib.loads(TEXT + text), kind), NAMES)

    newer = msgspec.defstruct("Newer", [("a_newer_setting", int, 5)], bases=(Study,), frozen=True, kw_only=True)
    assert digest(kind=newer) == digest()
    for same in (
        '[respond.pause]\nmode = "act"\n',
        "[release]\nhold_rounds = 9\n",
        "[watch]\nfalse_alarms_per_1000 = 1.0\n",
        f"[learner]\nlearning_rate = {LearnerSettings().learning_rate}\n",
    ):
        assert digest(same) == digest()
    others = ("[learner]\nlearning_rate = 0.5\n", "[learner.dp_sgd]\nnoise = 3.0\n", "[rounds]\nedges_max = 7\n")
    assert len({digest(), *map(digest, others)}) == 4
    assert configuration(parse_study(TEXT, where="test"), ("rate",)) != digest()


def test_rounds_while_another_alert_of_the_study_is_open_are_not_healthy(hub):
    hub.play(range(40))
    healthy = hub.watched.calibration().rounds
    assert healthy > 0
    hub.watch.round_abandoned("s", 40, "too few edges")
    hub.play(range(40, 50))
    assert hub.watched.calibration().rounds == healthy
    hub.watch.round_committed("s")
    hub.play(range(50, 52))
    assert hub.watched.calibration().rounds == healthy + 2


def attempt(hub, number, *, refused=(), delivered=(), failed=()):
    def said(kind, **facts):
        hub.watched.heard(RoundEvent(kind, "s", number, hub.clock.now_us(), **facts))

    said("opened", participants=EDGES)
    for edge in delivered:
        said("accepted", edge=edge)
    for edge in refused:
        said("refused", edge=edge, reason="norm")
    for edge in failed:
        said("failed", edge=edge, reason="not finite")
    said("abandoned", reason="too few edges can deliver")
    hub.watched.look()
    return hub.watched.abandoned_attempts()


def diverge(hub, numbers, loss=9.0):
    for number in numbers:
        hub.watched._waiting.append(RoundSeen(number=number, edges={e: EdgeSeen(examples=9, loss=loss) for e in EDGES}))
    hub.watched.look()


def test_attempts_that_come_to_nothing_as_updates_cannot_count_show_that_a_diverged_model_still_is(hub):
    hub.play(range(60))
    diverge(hub, range(60, 63))
    assert hub.watched.shown()["model-diverged"] == 62
    assert attempt(hub, 63, refused=EDGES[:3], delivered=EDGES[3:4], failed=EDGES[4:]) == 1
    assert hub.watched.shown()["model-diverged"] == 63
    assert attempt(hub, 63, refused=EDGES[:3]) == 2  # e of the first attempt counts on
    assert attempt(hub, 63, refused=EDGES[:3]) == 3
    hub.watched.heard(RoundEvent("rolled-back", "s", 63, 0))
    hub.watched.look()
    assert hub.watched.abandoned_attempts() == 0
    assert attempt(hub, 64, refused=EDGES) == 1
    assert hub.watched.shown()["model-diverged"] == 64
    diverge(hub, [64])
    assert hub.watched.abandoned_attempts() == 0


def test_attempts_for_which_edges_were_missing_or_one_alone_was_in_the_way_show_nothing(hub):
    hub.play(range(60))
    diverge(hub, range(60, 63))
    assert attempt(hub, 63) == 0  # nobody came
    assert attempt(hub, 63, refused=EDGES[:1]) == 0  # too few came for a quorum, whatever they sent
    assert attempt(hub, 63, refused=EDGES[:1], delivered=EDGES[1:3]) == 0
    assert attempt(hub, 0, refused=EDGES) == 0  # statistics have no model
    hub.watched.heard(RoundEvent("refused", "s", 63, 0, edge="ward-z", reason="participant"))
    assert attempt(hub, 64, refused=["ward-x", "ward-y", "ward-z"]) == 0  # nobody had asked them
    assert hub.watched.shown()["model-diverged"] == 62


def test_attempts_that_come_to_nothing_without_a_divergence_before_accuse_no_model(hub):
    hub.play(range(60))
    assert attempt(hub, 60, refused=EDGES) == 1
    assert not hub.watched.shown()
    hub.play(range(60, 62))
    assert hub.open() == set()


def test_a_round_in_which_every_update_is_set_aside_shows_it_too_and_moves_no_step(hub):
    hub.play(range(60))
    diverge(hub, range(60, 63))
    said = {edge: Reported(9, {"loss_before": 9.0}, True, 1.0, b"") for edge in EDGES}
    hub.screens.step_norm = 1e6
    for number in range(63, 70):
        hub.watched.committed(RoundEvent("committed", "s", number, 0, reported=said, participants=EDGES))
        hub.watched.look()
        assert hub.watched.shown()["model-diverged"] == number
    assert hub.watched.scores()["step", ""][0] < 3.0


def test_counts_that_cannot_be_read_leave_the_rest_of_the_round(hub):
    hub.play(range(30), rows=b"nonsense")
    assert {sign for sign, _ in hub.watched.scores()} == {"participation", "duration"}
    other = encode_rows(RowCounts(np.ones((7, 9), np.uint32)))  # of another study's features
    hub.play(range(30, 50), rows=other)
    assert "inputs" not in {sign for sign, _ in hub.watched.scores()}


def test_a_round_that_trains_nothing_is_not_looked_at_and_few_can_wait(hub):
    hub.watched.committed(RoundEvent("committed", "s", 0, 0))
    assert not hub.watched.look()
    said = {"ward-a": Reported(1, {}, False)}
    for number in range(1, QUEUE_MAX + 10):
        hub.watched.committed(RoundEvent("committed", "s", number, 0, reported=said))
    assert hub.watched.look()
    assert hub.watched.calibration().rounds_seen == QUEUE_MAX


def test_people_see_thresholds_and_prometheus_sees_scores_beside_them(hub, tmp_path):
    hub.store.put_study(StudyRecord("s", TEXT, "running", "", 0, 0))
    (tmp_path / "hub.toml").write_text("")
    runner = CliRunner()
    nothing = runner.invoke(app, ["study", "calibrate", "s", "--home", str(tmp_path)])
    assert "no round that was watched yet" in str(nothing.exception)
    hub.play(range(30))
    hub.clock.advance(SAVE_S)
    hub.play([30])
    shown = runner.invoke(app, ["study", "calibrate", "s", "--home", str(tmp_path)], env={"COLUMNS": "200"})
    assert "not calibrated yet: 21 of 70 healthy rounds" in shown.output
    facts = msgspec.json.decode(runner.invoke(app, ["study", "calibrate", "s", "--json", "--home", str(tmp_path)]).output)
    assert {t["sign"]: t["value"] for t in facts["thresholds"]}["inputs"] == 1.0
    metrics = Metrics(Facts)
    metrics.watched("s", hub.watched.scores(), hub.watched.calibration())
    found = {f.name: f for f in metrics.collect()}
    scored = {tuple(s.labels.values()) for s in found["wardround_training_score"].samples}
    assert ("s", "ward-a", "duration") in scored
    assert ("s", "", "participation") in scored
    limits = {s.labels["sign"]: s.value for s in found["wardround_training_score_threshold"].samples}
    assert limits["duration"] == 3.6
    assert found["wardround_calibration_healthy_rounds"].samples[0].value == 21


def test_what_comes_next_is_the_new_usual_when_asked(hub):
    hub.play(range(50))
    hub.play(range(50, 54), dead="ward-c")
    assert hub.open()
    hub.watched.calibrate_again()
    assert hub.open() == set()
    hub.play(range(54, 110), dead="ward-c")
    assert hub.open() == set()
