"""A live drill over memory links: seen and named by a hub's own parts, and nothing of it outside its sandbox."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor, wait

import msgspec
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from live_drills_under_test import EDGES, TURN_S, Asked, Edges, LiveHub, hub_signer
from wardround.cli import drill_live
from wardround.cli.drill_live import RunningHub
from wardround.cli.main import app
from wardround.drill.catalogue import chosen
from wardround.drill.live import LiveCourse, Options
from wardround.errors import StudyError
from wardround.live_drills.plan import Plan
from wardround.processing import only_one
from wardround.records import is_sandbox

SAMPLE = "scaling,nan,sybil"


@pytest.fixture
def hub(tmp_path):
    signer, authority = hub_signer(tmp_path / "pki")
    made = LiveHub(tmp_path, Edges(authority), signer)
    yield made
    made.close()


def course(hub, faults=SAMPLE, **more):
    options = Options(rounds=16, from_round=10, **more)
    return LiveCourse(Asked(hub), chosen(faults) if faults else [], [3], options, "t")


@pytest.mark.timeout(600)
def test_faults_ordered_to_edges_are_seen_and_named_and_nothing_stays(hub):
    own = course(hub)
    for _ in own.run():
        pass
    facts = own.done.facts()
    assert own.done.missed == []
    assert facts["totals"]["named"] == facts["totals"]["struck"] == 4
    assert facts["totals"]["innocent_aside"] == 0
    rows = {row["fault"]: row for row in facts["faults"]}
    assert rows["nan"]["by"] == ["triage-not-finite"]
    assert (rows["scaling"]["struck_aside"], rows["sybil"]["struck_aside"]) == (1, 2)
    assert all(row["score_worse_by"] is not None for row in facts["faults"])
    assert hub.out == []  # nobody is told unless somebody asks for that
    assert hub.watch.open_alerts() == []
    alerts = hub.watch.alerts()
    assert alerts
    assert all(a.finding.title.startswith("DRILL: ") and is_sandbox(a.finding.study) for a in alerts)
    assert all(not a.response.undo for a in alerts if a.response is not None)
    assert list((hub.home / "drills").iterdir()) == []
    assert hub.store.studies() == []
    assert [hub.store.models(shown.study) for shown in own.shown] == [[]] * 4
    assert {what for what, _, _ in hub.log} == {"drill started", "drill over"}
    assert {what for _, what, _ in hub.edges.log} == {"takes part in a drill"}


@pytest.mark.timeout(600)
def test_people_are_told_where_that_is_asked_for_and_the_folder_stays_where_that_is(hub):
    own = course(hub, "scaling", deliver=True, keep=True)
    for _ in own.run():
        pass
    assert {a.finding.title.split(":")[0] for a in hub.out} == {"DRILL"}
    kept = {str(hub.home / "drills" / f"drill.{name}-3-t") for name in ("healthy", "scaling")}
    assert {shown.folder for shown in own.shown} == kept
    hub.drills.close()
    hub.start()  # what is kept stays
    assert {str(f) for f in (hub.home / "drills").iterdir()} == kept


def plan(hub, **changes):
    own = course(hub, "nan")
    own.edges = EDGES
    made = own.plan(chosen("nan")[0], 3)
    study = msgspec.structs.replace(made.study, **changes.pop("study", {}))
    return msgspec.to_builtins(msgspec.structs.replace(made, study=study, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"study": {"name": "activity"}}, "a drill is not called"),
        ({"study": {"name": "drill./etc"}}, "a drill is not called"),
        ({"edges": EDGES[:2], "struck": EDGES[:1]}, "2 edges take part"),
        ({"edges": (*EDGES, "home-1")}, "not for drills: home-1"),
        ({"struck": EDGES}, "some are not"),
        ({"struck": ("home-1",)}, "some are not"),
        ({"slower_s": 600.0}, "beyond what is allowed"),
        ({"minutes": 1e9}, "no end"),
    ],
    ids=["study", "path", "few", "stranger", "all", "other", "slow", "long"],
)
def test_a_hub_refuses_what_is_no_drill(hub, changes, words):
    answered = hub.ask("start", plan(hub, **changes))
    assert answered.state == "refused"
    assert words in answered.answer
    assert hub.drills.taking == {}
    assert hub.log == []


def test_an_edge_takes_part_only_where_its_own_settings_allow_it(tmp_path):
    signer, authority = hub_signer(tmp_path / "pki")
    hub = LiveHub(tmp_path, Edges(authority, allow=frozenset(EDGES[:3])), signer)
    assert Asked(hub).edges() == list(EDGES[:3])
    assert "not for drills" in hub.ask("start", plan(hub)).answer
    hub.close()


def test_one_drill_at_a_time_and_it_can_be_stopped(hub):
    assert hub.ask("stop").state == "refused"
    started = hub.ask("start", plan(hub))
    assert started.state == "done"
    assert "one drill at a time" in hub.ask("start", plan(hub)).answer
    hub.play(3)
    assert hub.shown().state == "running"
    assert hub.ask("stop").state == "done"
    assert (hub.shown().state, hub.shown().why) == ("stopped", "by kim")
    assert hub.shown().abandoned == []
    assert hub.drills.taking == {}


def test_the_command_waits_for_a_drill_as_long_as_its_hub_runs_and_it_may_last(hub, monkeypatch):
    running = RunningHub(hub.home)
    with ThreadPoolExecutor(1) as pool, only_one(hub.home):
        asked = pool.submit(running.start, msgspec.convert(plan(hub), Plan))
        while not wait([asked], timeout=TURN_S).done:  # it gives up by itself
            hub.drills.look()
        name = asked.result()
        assert running.wait(name).state == "running"
    with pytest.raises(StudyError, match="its hub has ended"):
        running.wait(name)
    with only_one(hub.home):
        assert running.wait(name).state == "running"
        monkeypatch.setattr(drill_live, "GRACE_S", -3_600.0)
        with pytest.raises(StudyError, match="should have ended"):
            running.wait(name)
        assert hub.ask("stop").state == "done"
        assert running.wait(name).state == "stopped"


@pytest.mark.timeout(300)
def test_the_command_asks_a_running_hub_and_says_what_it_has_shown(hub):
    options = ("--fault", "nan", "--seeds", "3", "--from-round", "4", "--rounds", "10", "--strike", EDGES[2])
    with capture_logs(), ThreadPoolExecutor(1) as pool, only_one(hub.home):  # the hub's lines are not the command's
        asked = pool.submit(CliRunner().invoke, app, ["drill", "--live", *options, "--json", "--home", str(hub.home)])
        while not wait([asked], timeout=TURN_S).done:
            hub.play()
        done = asked.result()
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["study"] == f"live at {hub.home}: {len(EDGES)} edges, a sandbox of synthetic wards"
    assert [(row["fault"], row["named"], row["struck"]) for row in facts["faults"]] == [("nan", 1, 1)]
    assert (facts["live"]["edges"], facts["live"]["not_live"]) == (list(EDGES), {})
    assert [own["drill"].rpartition("-")[0] for own in facts["live"]["drills"]] == ["drill.healthy-3", "drill.nan-3"]


def test_a_hub_that_was_killed_in_a_drill_has_nothing_of_it_left(hub):
    hub.ask("start", plan(hub, from_round=1))
    for _ in range(60):
        hub.play(1)
        if hub.watch.open_alerts():
            break
    assert hub.watch.open_alerts()
    hub.drills.close = lambda: None  # a kill closes nothing
    abandoned = hub.drills
    hub.start()
    assert hub.shown().state == "failed"
    assert hub.watch.open_alerts() == []
    assert list((hub.home / "drills").iterdir()) == []
    abandoned._open.coordinator.stop()


def test_what_came_and_went_in_a_drill_is_over_when_the_drill_is(hub):
    """An alert that flaps is held for half an hour: in a drill nothing comes back."""
    for number in range(6):
        hub.watch.round_abandoned("drill.x", number, "half of them are away")
        hub.clock.advance(1.0)
        hub.watch.round_committed("drill.x")
    assert [a.finding.study for a in hub.watch.open_alerts()] == ["drill.x"]
    hub.watch.drill_over("drill.x")
    assert hub.watch.open_alerts() == []
