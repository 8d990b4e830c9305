"""A rehearsal as a person meets it: the command, what it prints and writes, and what it says when it cannot."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.errors import StudyError
from wardround.learn.faults import Faults, parse_faults
from wardround.learn.models import decode_model
from wardround.learn.study_example import example_study
from wardround.process.transforms import TASKS
from wardround.rehearsal.chart import HEIGHT, svg_chart, text_chart


@pytest.fixture(autouse=True)
def few_patients(monkeypatch):
    monkeypatch.setattr("wardround.rehearsal.data.PATIENTS_MIN", 12)
    monkeypatch.setattr("wardround.rehearsal.data.PATIENT_S", (60.0, 60.0))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(example_study("s", "activity", TASKS))
    return path


def rehearsed(*arguments):
    done = CliRunner().invoke(app, ["study", "rehearse", "--alpha", "10", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_it_learns_and_says_so(file, tmp_path):
    out = tmp_path / "out"
    facts = json.loads(rehearsed(file, "--edges", 6, "--rounds", 3, "--seed", 4, "--json", "--out", out))
    assert [r["number"] for r in facts["rounds"]] == [1, 2, 3]
    assert facts["rounds"][-1]["loss"] < facts["rounds"][0]["loss"]
    assert facts["simulated"]
    assert facts["settings"]["learner"]["seed"] == 4
    assert {p.name for p in out.iterdir()} == {"rehearsal.json", "model.safetensors", "score.svg"}
    assert json.loads((out / "rehearsal.json").read_text()) == facts


def test_people_see_a_table_and_a_curve(file):
    text = rehearsed(file, "--edges", 6, "--rounds", 2)
    assert "simulated patients" in text
    assert "accuracy" in text
    assert "█" in text


def test_with_masks_on_the_scores_are_those_of_the_clear_study(file, tmp_path):
    """Rounding moves no probability by as much as a hundredth of a percent, and no score by more than an example on the fence."""
    clear = json.loads(rehearsed(file, "--edges", 6, "--rounds", 4, "--json", "--out", tmp_path / "clear"))
    file.write_text(file.read_text() + '\n[privacy]\nmode = "blind"\n')
    blind = json.loads(rehearsed(file, "--edges", 6, "--rounds", 4, "--json", "--out", tmp_path / "blind"))
    assert clear["screen"]
    assert not blind["screen"]
    for masked, plain in zip(blind["rounds"], clear["rounds"], strict=True):
        assert abs(masked["score"] - plain["score"]) <= 1.001 / blind["held_back_examples"]
    models = [decode_model((tmp_path / mode / "model.safetensors").read_bytes()) for mode in ("clear", "blind")]
    assert 0 < max(float(abs(models[0][n] - models[1][n]).max()) for n in models[0]) < 1e-4


def test_edges_that_are_away_are_counted(file):
    facts = json.loads(rehearsed(file, "--edges", 8, "--rounds", 3, "--faults", "absent=0.5", "--json"))
    assert sum(r["lost"] for r in facts["rounds"]) > 0
    assert all(r["participants"] + r["lost"] == facts["edges_usable"] for r in facts["rounds"] if r["participants"])


def test_flipped_labels_spoil_the_model(file):
    good, bad = (
        json.loads(rehearsed(file, "--edges", 6, "--rounds", 3, "--faults", f"label-flip={share}", "--json"))["score"]
        for share in (0.0, 1.0)
    )
    assert bad < good


def test_too_few_edges_for_the_quorum_are_refused(file):
    with pytest.raises(StudyError, match=r"rounds\.edges_min is 3"):
        rehearsed(file, "--edges", 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [("away=0.1", "no fault 'away'"), ("absent=2", "no share"), ("absent", "no share"), ("absent=x", "no share")],
)
def test_a_fault_that_is_none_is_refused(text, said):
    with pytest.raises(StudyError, match=said):
        parse_faults(text)


def test_faults_are_read():
    assert parse_faults(" absent=0.1, label-flip=0.2 ") == Faults(absent=0.1, label_flip=0.2)
    assert not parse_faults("")


def test_a_long_run_fits_a_terminal_and_a_flat_one_is_drawn():
    numbers = list(range(1, 501))
    lines = text_chart(numbers, [n / 500 for n in numbers])
    assert len(lines) == HEIGHT + 1
    assert max(map(len, lines)) <= 80
    assert text_chart([1], [0.5])
    assert 'points="48.0' in svg_chart("a < b", "accuracy", [1, 2], [0.5, 0.5])
    assert "a &lt; b" in svg_chart("a < b", "accuracy", [1, 2], [0.1, 0.5])
