"""The page of attacks is made by the command, and has what the code has; the command says what it found, and stops a pipeline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wardround.attacks import inversion
from wardround.attacks.course import Bench, Plan, broken, limits
from wardround.attacks.page import NOT_BUILT, stops, write
from wardround.attacks.poisoning import ATTACKERS, chosen_attackers
from wardround.attacks.target import every_mode
from wardround.cli.main import app
from wardround.errors import StudyError
from wardround.learn.privacy.modes import MODES
from wardround.learn.study_example import example_study
from wardround.process.transforms import TASKS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "attacks.md"
pytestmark = pytest.mark.timeout(240)  # of networks that are compiled
SMALL = Plan(seeds=(0,), models=6, trials=1, search=0, attackers=chosen_attackers("overweight"), rules=("fedavg", "krum"))


@pytest.fixture(scope="module")
def bench(wards):
    """Of the inversions those that need no network of their own to be compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inversion, "CASES", tuple(c for c in inversion.CASES if not c.whole and c.rows != 16))
        made = Bench(wards, SMALL)
        steps = list(made.run())
        assert len(steps) == made.steps
    return made


def test_a_bench_tries_every_mode_that_the_code_has_and_writes_a_column_for_each(bench, tmp_path):
    assert set(bench.modes) | set(bench.refused) == set(every_mode()) >= set(MODES)
    facts = bench.facts()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    head, _, *rows = stops(facts)
    assert head.strip("| ").split(" | ") == ["attack", *every_mode()]
    for row in rows[:8]:
        cells = dict(zip(every_mode(), row.strip("| ").split(" | ")[1:], strict=True))
        for mode in bench.modes:
            assert any(c.isdigit() for c in cells[mode])
        assert all(cells[m] == NOT_BUILT for m in every_mode() if m not in MODES)
    untried = stops({**facts, "membership": [], "poisoning": []})
    assert len(untried) == len(stops(facts)) - 5  # rows of what nobody has tried are left out
    page = tmp_path / "attacks.md"
    page.write_text("# Attacks\n\nWords stay.\n")
    write(page, facts, "the command")
    once = page.read_text()
    assert "Words stay." in once
    write(page, facts, "the command")
    assert page.read_text() == once
    write(page, {**facts, "study": "other"}, "the command")
    assert page.read_text().count("| attack | clear |") == 2


def test_what_is_lost_is_measured_from_the_study_that_nobody_attacks_and_nobody_defends(bench):
    rows = {(r["mode"], r["rule"], r["screened"]): r for r in bench.facts()["poisoning"]}
    base = rows["clear", "fedavg", False]["score"]["value"]
    for key in (("clear", "fedavg", False), ("clear", "krum", True)):
        (attack,) = rows[key]["attacks"]
        attacked = next(r.score for r in bench.poisoning if r.attack and (r.mode, r.defence.rule, r.defence.screened) == key)
        assert attack["drop"]["value"] == pytest.approx(base - attacked)
    assert ("blind", "krum", False) not in rows


def test_limits_stop_a_pipeline_and_what_was_not_measured_is_no_pass():
    allowed = limits("auc=0.6, read=0.1")
    assert broken({"clear": {"auc": 0.55, "read": 0.05}}, allowed) == []
    assert broken({"clear": {"auc": 0.7, "read": 0.05}}, allowed) == ["clear: auc is 0.7, above 0.6"]
    assert broken({"clear": {"auc": 0.5}}, allowed) == ["clear: read was not measured"]
    assert broken({"clear": {"auc": float("nan"), "read": 0.0}}, allowed) == ["clear: auc is nan, above 0.6"]
    for wrong in ("acu=0.6", "auc", "auc=much"):
        with pytest.raises(StudyError, match="is no limit"):
            limits(wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"kinds": ("gossip",)},
        {"modes": ("secret",)},
        {"models": 7},
        {"trials": 0},
        {"search": 10**6},
        {"shares": (0.9,)},
        {"seeds": ()},
    ],
)
def test_a_plan_that_cannot_be_carried_out_or_would_not_end_is_refused(change, wards):
    with pytest.raises(StudyError):
        Bench(wards, replace(SMALL, **change))


def test_the_command_prints_tables_and_its_exit_code_says_whether_limits_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("wardround.rehearsal.data.PATIENTS_MIN", 12)
    monkeypatch.setattr("wardround.rehearsal.data.PATIENT_S", (60.0, 60.0))
    file = tmp_path / "study.toml"
    file.write_text(example_study("s", "activity", TASKS))
    fixed = [
        "study",
        "attack",
        str(file),
        "--edges",
        "6",
        "--rounds",
        "2",
        "--alpha",
        "10",
        "--only",
        "poisoning",
        "--rules",
        "fedavg",
    ]
    fixed += ["--attackers", "overweight", "--seeds", "0", "--modes", "clear"]
    passed = CliRunner().invoke(app, [*fixed, "--fail-above", "drop=2", "--write", str(tmp_path / "page.md")])
    assert passed.exit_code == 0, passed.output
    assert "simulated" in passed.stdout
    page = (tmp_path / "page.md").read_text()
    assert "overweight" in page
    assert "study attack study.toml --edges 6 --rounds 2 --alpha 10.0 --only poisoning --modes clear --seeds 0" in page
    assert str(tmp_path) not in page
    failed = CliRunner().invoke(app, [*fixed, "--fail-above", "drop=-2", "--json"])
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["worst"]["clear"].keys() == {"drop"}


def test_the_page_in_the_docs_has_the_modes_and_attackers_of_the_code():
    text = PAGE.read_text(encoding="utf-8")
    heads = [line for line in text.splitlines() if line.startswith("| attack | clear")]
    assert heads
    for head in heads:
        assert set(MODES) <= set(head.strip("| ").split(" | "))
    for name in ATTACKERS:
        assert f"`{name}`" in text
