"""Joint advisory detectors: what several numbers of an edge say at once; a note or a notice, and never anything else."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.clock import ManualClock
from wardround.errors import SettingsError
from wardround.learn.study import parse_study
from wardround.row_counts import INPUT_BINS
from wardround.store import open_store
from wardround.study_watch import StudyWatch
from wardround.watch import advisory as module
from wardround.watch.advisory import HEALTHY_ROUNDS, KIND, Advisory
from wardround.watch.alerts import State
from wardround.watch.detectors.joint import NUMBERS, OwnNumbers
from wardround.watch.detectors.screens import Screens
from wardround.watch.detectors.seen import EdgeSeen, RoundSeen
from wardround.watch.watcher import Watch

pytestmark = pytest.mark.timeout(240)  # the library compiles itself where it is imported first
EDGES = [f"ward-{i}" for i in range(8)]
CALIBRATED = 45 + HEALTHY_ROUNDS + 60  # rounds: what is usual, vectors enough, healthy rounds


def rounds(rng, numbers, moved=0.0, edge="ward-0"):
    for number in numbers:
        seen = {}
        for i, name in enumerate(EDGES):
            noise = rng.normal(size=4) + (moved if name == edge else 0.0)
            inputs = np.zeros((3, INPUT_BINS), np.uint32)
            inputs[:, 2:6] = 60 + np.arange(4) * 4 * noise[3]
            seen[name] = EdgeSeen(
                examples=100 + i,
                loss=(0.4 + 0.02 * i) * float(np.exp(0.05 * noise[0])),
                seconds=(3.0 + i) * float(np.exp(0.2 * noise[1])),
                trained_s=2.0 * float(np.exp(0.2 * noise[2])),
                inputs=inputs,
            )
        yield RoundSeen(number=number, edges=seen, asked=len(EDGES), step_norm=1.0)


def play(advisory, rng, numbers, accused=(), **facts):
    return [a for seen in rounds(rng, numbers, **facts) for a in advisory.round(seen, accused=accused, healthy=True)]


@pytest.fixture(scope="module")
def calibrated():
    """The states of both detectors after rounds of health; to be restored, not to be changed."""
    found = {}
    for names in (("ecod",), ("half-space-trees",)):
        own = Advisory(names, budget_per_1000=2.0)
        assert play(own, np.random.default_rng(0), range(CALIBRATED)) == []
        assert own.calibrated
        found[names] = own.state()
    return found


def taken_up(calibrated, name):
    own = Advisory((name,), budget_per_1000=2.0)
    assert own.restore(calibrated[name,])
    return own


@pytest.mark.parametrize("name", ["ecod", "half-space-trees"])
def test_several_numbers_that_move_together_are_named_and_are_over_when_they_are_back(calibrated, name):
    own, rng = taken_up(calibrated, name), np.random.default_rng(1)
    said = play(own, rng, range(CALIBRATED, CALIBRATED + 25), moved=2.5)
    assert {a.edge for a in said} == {"ward-0"}
    assert len(said) == 1  # it lasts, and is said once
    assert own.standing() == {"ward-0"}
    (score, limit) = said[0].by[name]
    assert score > limit
    assert {n for n, _ in said[0].numbers} <= set(NUMBERS)
    assert said[0].evidence[-1][1] > 1.0
    play(own, rng, range(CALIBRATED + 25, CALIBRATED + 60))
    assert own.standing() == set()


@pytest.mark.parametrize("name", ["ecod", "half-space-trees"])
def test_a_restart_makes_no_difference(calibrated, name):
    one, numbers = taken_up(calibrated, name), range(CALIBRATED, CALIBRATED + 13)
    play(one, np.random.default_rng(2), numbers)
    other = Advisory((name,), budget_per_1000=2.0)
    assert other.restore(one.state())
    after = range(CALIBRATED + 13, CALIBRATED + 30)
    first, second = (play(own, np.random.default_rng(3), after, moved=2.5) for own in (one, other))
    assert first == second
    assert first
    assert one.state() == other.state()
    assert not Advisory(("ecod", "half-space-trees"), budget_per_1000=2.0).restore(one.state())
    assert not other.restore(b"nonsense")
    assert not other.calibrated


def test_until_it_is_calibrated_nothing_is_said():
    own = Advisory(("half-space-trees",), budget_per_1000=2.0)
    rng = np.random.default_rng(0)
    play(own, rng, range(80))
    assert own._detectors
    assert play(own, rng, range(80, 100), moved=8.0) == []


def test_an_edge_of_which_something_else_is_known_teaches_nothing(calibrated):
    own, rng = taken_up(calibrated, "ecod"), np.random.default_rng(4)
    play(own, rng, range(CALIBRATED, CALIBRATED + 80), accused=("ward-0",), moved=2.5)
    last = own._numbers.vectors(next(rounds(rng, [CALIBRATED + 80], moved=2.5)))
    assert np.mean(last["ward-0"]) > 3.0  # it has not become its usual
    assert max(abs(np.mean(last[e])) for e in EDGES[1:]) < 3.0


def test_what_an_edge_does_not_say_is_nothing_unusual():
    own = OwnNumbers()
    for number in range(60):
        seen = RoundSeen(number=number, edges={"a": EdgeSeen(loss=0.5 + 0.01 * (number % 3)), "b": EdgeSeen()})
        found = own.vectors(seen)
        own.learn(seen, ())
    assert list(found) == ["a"]
    assert found["a"][1:] == [0.0] * (len(NUMBERS) - 1)


def test_a_study_that_wants_what_is_not_there_is_refused_in_words(monkeypatch):
    with pytest.raises(SettingsError, match="advisory"):
        parse_study('name = "s"\ntask = "activity"\n[watch]\nadvisory = ["crystal-ball"]\n', where="test")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match="needs pyod") as refused:
        Advisory(("ecod",), budget_per_1000=2.0)
    assert "wardround[advisory]" in refused.value.remedy


@pytest.mark.parametrize("response", ["quarantine", "rollback", "pause", "retrain", "recalibrate"])
def test_no_response_may_be_about_advice(response):
    text = f'name = "s"\ntask = "activity"\n[respond.{response}]\nkinds = ["{KIND}"]\n'
    with pytest.raises(SettingsError, match="nothing is done about it"):
        parse_study(text, where="test")


@pytest.fixture
def hub(tmp_path, calibrated):
    """The watch of a hub, and of a study whose joint detectors are calibrated."""
    store, clock, changes = open_store(tmp_path / "hub.sqlite"), ManualClock(), []
    store.save_state("advisory/s", calibrated["ecod",])
    watch = Watch(clock=clock, heartbeat_s=1.0, signal_title=str, on_change=changes.extend)
    study = parse_study('name = "s"\ntask = "activity"\n[watch]\nadvisory = ["ecod"]\n', where="test")

    def watched():
        own = StudyWatch(
            study, ("a", "b", "c"), screens=Screens("s"), store=store, clock=clock, tell=watch.trained, is_well=watch.is_well,
            advise=watch.advised,
        )  # fmt: skip
        assert own._advisory is not None
        return own

    yield watch, watched, changes
    store.close()


def look(watched, rng, numbers, **facts):
    for seen in rounds(rng, numbers, **facts):
        watched._waiting.append(seen)
        watched.look()


def test_of_an_edge_that_nothing_else_is_known_of_there_is_a_notice_of_low_priority_that_changes_nothing(hub):
    watch, opened, _ = hub
    watched, rng = opened(), np.random.default_rng(5)
    look(watched, rng, range(CALIBRATED, CALIBRATED + 20), moved=2.5)
    (alert,) = [a for a in watch.open_alerts() if a.finding.kind == KIND]
    assert (alert.finding.edge, alert.finding.priority, alert.response) == ("ward-0", "low", None)
    assert "in own deviations" in alert.finding.detail
    assert watch.is_well("s")  # advice does not stop the calibration of the others
    watched.close()
    again = opened()  # a restart keeps it
    look(again, rng, range(CALIBRATED + 20, CALIBRATED + 22), moved=2.5)
    assert watch.alert(alert.alert_id).state is State.FIRING
    again.calibrate_again()
    assert watch.alert(alert.alert_id).state is State.RESOLVED


def test_of_an_edge_with_an_alert_it_is_a_note_beside_the_evidence_and_nobody_is_told(hub):
    watch, opened, _ = hub
    watch.edge_quarantined("s", "ward-0", 1, reason="own-history-norm", score=9.0, threshold=6.0, until_round=999)
    (alert,) = watch.open_alerts()
    look(opened(), np.random.default_rng(5), range(CALIBRATED, CALIBRATED + 20), moved=2.5)
    (now,) = [a for a in watch.open_alerts() if a.finding.edge == "ward-0" and a.finding.kind == "update-poisoned"]
    assert "Unusual together by ECOD" in now.notes[0]
    assert now.changed_us == alert.changed_us  # a message of the same state has the same id: it is not sent again
    assert not [a for a in watch.alerts() if a.finding.kind == KIND]
