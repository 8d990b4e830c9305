"""What edges say of themselves, at the hub: one alert that names the edge, over restarts, and one where many say it at once."""

from __future__ import annotations

import pytest
from tests.unit.test_study_watch import EDGES, Hub

from wardround.learn.messages import RoundEvent
from wardround.learn.own_report import OwnReport, Screen
from wardround.watch.detectors.told import KIND
from wardround.watch.metrics import Facts, Metrics
from wardround.watch.model_watch import COMMON, QUIET_ROUNDS

FOUND = Screen("own-norm", 9, 4)
INPUTS = Screen("inputs", 6, 4)
WELL = (Screen("own-norm", 1, 4), Screen("loss", 2, 5))


@pytest.fixture
def hub(tmp_path):
    hub = Hub(tmp_path)
    yield hub
    hub.store.close()


def say(hub, number, found=None, *, attempt=1, ends="committed"):
    """An attempt at a round in which edges report: `found` by edge, (screen, sits out)."""
    for edge in EDGES:
        screen, out = (found or {}).get(edge, (None, False))
        screens = (*WELL[1:], screen) if screen is not None else WELL
        report = OwnReport("s", number, attempt, screens, screen.name if out else "")
        hub.watched.told(RoundEvent("own-report", "s", number, 0, edge=edge, own_report=report))
    if ends == "committed":
        hub.watched.committed(RoundEvent("committed", "s", number, 0))
    elif ends == "abandoned":
        hub.watched.over()
    hub.watched.look()
    hub.clock.advance(10.0)


def test_an_edge_that_finds_itself_out_is_named_and_the_alert_ends_with_the_fault(hub):
    say(hub, 1)
    assert hub.open() == set()
    for number in (2, 3):
        say(hub, number, {"ward-c": (FOUND, True)})
    assert hub.open() == {(KIND, "ward-c")}
    finding = hub.watch.open_alerts()[0].finding
    assert "far longer than usual (own-norm, 2.25 times its limit)" in finding.detail
    assert "sits its rounds out by itself" in finding.impact
    assert finding.priority == "medium"
    assert "what the edge says of itself" in finding.action
    for number in range(4, 4 + QUIET_ROUNDS):
        say(hub, number)
    assert hub.open() == set()


def test_what_inputs_show_is_told_though_the_edge_goes_on(hub):
    say(hub, 2, {"ward-a": (INPUTS, False)})
    finding = hub.watch.open_alerts()[0].finding
    assert (finding.kind, finding.edge, finding.priority) == (KIND, "ward-a", "low")
    assert "its update counts" in finding.impact
    assert finding.causes[0].startswith("a sensor")


def test_a_round_that_comes_to_nothing_tells_all_the_same(hub):
    """Where so many sit out that no round ends, nobody would hear of it else."""
    say(hub, 2, {"ward-c": (FOUND, True)}, ends="abandoned")
    assert hub.open() == {(KIND, "ward-c")}
    say(hub, 2, {"ward-c": (FOUND, True)}, attempt=2, ends="not yet")
    say(hub, 2, {"ward-c": (FOUND, True)}, attempt=3, ends="not yet")  # the attempt before is over
    assert hub.open() == {(KIND, "ward-c")}


def test_what_many_find_at_once_is_one_alert(hub):
    for number in (2, 3):
        say(hub, number, dict.fromkeys(EDGES[:4], (FOUND, True)))
    assert hub.open() == {(COMMON, "")}
    finding = hub.watch.open_alerts()[0].finding
    assert finding.signal == KIND
    assert "something wrong with themselves" in finding.title


def test_an_alert_survives_a_restart_of_the_hub_and_ends_after_it(hub):
    say(hub, 2, {"ward-c": (FOUND, True)})
    hub.restart()
    assert hub.open() == {(KIND, "ward-c")}
    say(hub, 3, {"ward-c": (FOUND, True)})
    assert hub.open() == {(KIND, "ward-c")}
    for number in range(4, 4 + QUIET_ROUNDS):
        say(hub, number)
    assert hub.open() == set()


def test_what_the_hub_itself_sees_of_the_study_stands_beside_it(hub):
    hub.play(range(1, 40))
    say(hub, 40, {"ward-c": (FOUND, True)})
    hub.play(range(41, 44))
    assert hub.open() == {(KIND, "ward-c")}


def test_scores_stand_beside_their_thresholds_for_prometheus(hub):
    say(hub, 2, {"ward-c": (FOUND, True)})
    metrics = Metrics(Facts)
    metrics.said("s", hub.watched.own_scores())
    found = {
        (m.name, s.labels["edge"], s.labels["screen"]): s.value
        for m in metrics.collect()
        if m.name.startswith("wardround_own_screen")
        for s in m.samples
    }
    assert len(found) == 2 * 2 * len(EDGES)
    score, limit = (found[f"wardround_own_screen_{what}", "ward-c", "own-norm"] for what in ("score", "threshold"))
    assert score == pytest.approx(2.25 * limit)
    assert all(
        value <= found["wardround_own_screen_threshold", edge, screen]
        for (name, edge, screen), value in found.items()
        if name.endswith("score") and edge != "ward-c"
    )
