"""A drill as it is played: a sample of its faults, seen and named, with nobody else set aside; and how its runs are looked at."""

from __future__ import annotations

import json
from dataclasses import replace

import msgspec
import pytest
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.drill.catalogue import FAULTS, chosen
from wardround.drill.course import Course, synthetic_plan
from wardround.drill.faults import Fault
from wardround.drill.fleet_faults import ServerStep
from wardround.drill.meddling import Meddling
from wardround.drill.outcome import Drilled, alarms, look_at
from wardround.drill.page import markdown
from wardround.drill.run import Run, Sighting
from wardround.settings import PauseResponse, RespondSettings, RollbackResponse

SAMPLE = "label-flip,scaling,sybil,nan,dead-sensor,participation"


def test_a_sample_of_faults_is_seen_at_once_named_and_put_right():
    course = Course(synthetic_plan(72), chosen(SAMPLE), [7], from_round=56)
    for _ in course.run():
        pass
    facts = course.done.facts()
    assert course.done.missed == []
    assert facts["totals"]["named"] == facts["totals"]["struck"] == sum(len(o.struck) for o in course.done.outcomes)
    assert facts["totals"]["innocent_aside"] == facts["totals"]["others_named"] == 0
    assert facts["totals"]["delay_median"] <= 2
    rows = {row["fault"]: row for row in facts["faults"]}
    assert "triage-not-finite" in rows["nan"]["by"]
    assert "input-dead" in rows["dead-sensor"]["by"]
    assert "twins-peer" in rows["sybil"]["by"]
    assert "participation-low" in rows["participation"]["by"]
    for name in ("label-flip", "scaling", "sybil", "nan"):
        assert rows[name]["score_worse_by"] < 0.01


def test_a_study_whose_hub_oversteps_goes_back_and_is_paused_and_keeps_its_score():
    course = Course(synthetic_plan(120), chosen("server-step"), [7], from_round=60)
    for run in course.run():
        last = run
    (found,) = course.done.outcomes
    assert found.done == ("rollback", "pause")
    assert last.rounds < 75  # of 120: a pause ends it
    assert found.apart < 0.01
    assert course.done.row(FAULTS["server-step"])["done"] == {"rollback": 1, "pause": 1}


class OverstepsTwice(ServerStep):
    """The setting is put right after two rounds: by then the study has gone back, and goes on."""

    name = "oversteps-twice"


def test_a_rollback_that_helps_is_followed_by_nothing(monkeypatch):
    factor = Meddling.step_factor
    monkeypatch.setattr(Meddling, "step_factor", lambda self, n: factor(self, n) if n < 62 else 1.0)
    course = Course(synthetic_plan(80), [OverstepsTwice()], [7], from_round=60)
    for run in course.run():
        last = run
    (found,) = course.done.outcomes
    assert found.done == ("rollback",)
    assert last.rounds == 80
    assert found.apart < 0.01


def test_an_operator_who_turns_responses_off_gets_none():
    plan = synthetic_plan(70)
    off = RespondSettings(rollback=RollbackResponse(mode="off"), pause=PauseResponse(mode="off"))
    quiet = replace(plan, study=lambda seed: msgspec.structs.replace(plan.study(seed), respond=off))
    course = Course(quiet, chosen("server-step"), [7], from_round=60)
    for _ in course.run():
        pass
    assert course.done.outcomes[0].detected
    assert course.done.outcomes[0].done == ()


class Unseen(Fault):
    """Nothing happens here, so that nothing can be seen: a drill of which this is a part has to fail."""

    name, title, share, seen_by = "unseen", "nothing", 0.1, "nobody"


def test_the_command_says_what_was_not_seen_and_ends_with_1(monkeypatch):
    monkeypatch.setattr("wardround.drill.catalogue.FAULTS", {"unseen": Unseen(), "nan": FAULTS["nan"]})
    asked = ["drill", "--seeds", "0", "--from-round", "4", "--rounds", "10"]
    missed = CliRunner().invoke(app, [*asked, "--fault", "unseen", "--json"])
    assert missed.exit_code == 1
    assert json.loads(missed.stdout)["totals"]["detected"] == 0
    seen = CliRunner().invoke(app, [*asked, "--fault", "nan"], env={"COLUMNS": "160"})
    assert seen.exit_code == 0
    assert "1/1" in seen.stdout
    assert "triage-not-finite" in seen.stdout


def test_the_table_of_a_page_has_the_figures_of_the_command():
    asked = ["drill", "--seeds", "0", "--from-round", "4", "--rounds", "10", "--fault", "nan"]
    said = CliRunner().invoke(app, [*asked, "--markdown"]).stdout.splitlines()
    assert said[0].startswith("| fault | seen | after |")
    assert said[2].startswith("| `nan` | 1/1 | ")
    assert {line.count("|") for line in said[:3]} == {11}
    assert said[-1].startswith("1 of 1 runs detected")
    quiet = Drilled(10, [])
    quiet.add_healthy(a_run("", ()))
    assert markdown(quiet.facts()) == "20 healthy rounds: 0 false alarms, 0 in 1,000"


class Ruin(Fault):
    """Every update is NaN, of every edge: from then on no round has a model, which is what an operator is told."""

    name, title, share, seen_by = "ruin", "nothing counts any more", 0.0, "rounds that are given up"

    def edges(self, names, seed):
        return frozenset()

    def updates(self, scene, updates):
        return FAULTS["nan"].updates(replace(scene, struck=frozenset(updates)), updates)


def test_a_fault_that_ends_the_study_is_a_run_that_ends_and_was_seen():
    course = Course(synthetic_plan(10), [Ruin()], [0], from_round=4)
    for _ in course.run():
        pass
    (found,) = course.done.outcomes
    assert (found.detected, found.delay) == (True, 0)
    assert found.by == ("round-abandoned",)
    assert found.score is not None


class OverstepsFar(ServerStep):
    """Two rounds after the setting went wrong the model is so far off that no update is finite: no round comes to an end."""

    name = "oversteps-far"

    def updates(self, scene, updates):
        everybody = replace(scene, struck=frozenset(updates))
        return FAULTS["nan"].updates(everybody, updates) if scene.since >= 2 else {}


def test_a_diverged_model_of_which_no_round_comes_to_an_end_is_gone_back_from_and_paused():
    course = Course(synthetic_plan(54), [OverstepsFar()], [7], from_round=45)
    for run in course.run():
        last = run
    (found,) = course.done.outcomes
    assert found.done == ("rollback", "pause")
    assert (last.rounds, last.sightings[-1].detector) == (47, "round-abandoned")
    assert found.apart < 0.01


def test_the_list_teaches_every_fault():
    shown = CliRunner().invoke(app, ["drill", "--list"])
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in FAULTS)
    rows = json.loads(CliRunner().invoke(app, ["drill", "--list", "--json"]).stdout)
    assert [row["fault"] for row in rows] == list(FAULTS)


@pytest.mark.parametrize(
    "asked", [["--fault", "x"], ["--seeds", "a"], ["--rounds", "30"], ["--data", "."]], ids=["fault", "seeds", "rounds", "data"]
)
def test_what_cannot_be_drilled_is_refused_with_a_remedy(asked):
    assert CliRunner().invoke(app, ["drill", *asked]).exception is not None


def a_run(fault="label-flip", struck=("e1",), sightings=(), aside=(), scores=()):
    run = Run(fault, 0, 10, 20, ("e1", "e2", "e3"), frozenset(struck))
    run.sightings, run.aside, run.scores = list(sightings), dict(aside), dict(scores)
    return run


def test_a_run_is_looked_at_with_the_knowledge_of_who_was_struck():
    sightings = [
        Sighting(4, "e3", "input-drift"),
        Sighting(12, "e1", "own-history-drift"),
        Sighting(12, "e2", "edge-loss"),
        Sighting(13, "", "model-diverged"),
        Sighting(13, "e3", "edge-loss"),
    ]
    run = a_run(sightings=sightings, aside={"e1": 12, "e2": 13, "e3": 4}, scores={"e1": 0.1, "e2": 0.8, "e3": 0.9})
    calm = a_run("", (), scores={"e1": 0.9, "e2": 0.8, "e3": 0.8})
    found = look_at(run, calm)
    assert (found.detected, found.delay, found.named) == (True, 2, ("e1",))
    assert found.others_named == ("e2",)  # e3's is explained by the model's
    assert found.innocent_aside == ("e2",)  # e3 was set aside before the fault
    assert found.false_alarms == 1
    assert found.apart == pytest.approx(-0.05)


def test_a_fault_of_the_hub_is_seen_by_what_is_said_of_the_study():
    nobody = a_run("server-step", (), [Sighting(12, "e1", "edge-loss")])
    assert not look_at(nobody, a_run("", ())).detected
    common = [Sighting(12, "", "federation-shift loss"), Sighting(12, "e1", "federation-shift loss")]
    study = look_at(a_run("server-step", (), common), a_run("", ()))
    assert (study.delay, study.others_named) == (2, ())  # it names the study, and the edges at which it shows


def test_an_alarm_is_one_until_it_has_been_quiet_for_thirty_rounds():
    said = [Sighting(n, "e1", "edge-loss") for n in (1, 2, 20, 31, 32)] + [Sighting(2, "e1", "input-drift")]
    assert [(s.number, s.detector) for s in alarms(said)] == [(1, "edge-loss"), (31, "edge-loss"), (2, "input-drift")]
    done = Drilled(10, [])
    done.add_healthy(a_run("", (), said))
    assert done.per_1000 == 150.0
