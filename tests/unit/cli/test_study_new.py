"""`wardround study new`: what it writes holds, for every task and for any signals of the code table."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.cli.study_new import SIGNALS_MAX
from wardround.collect.signals import load_signals
from wardround.errors import StudyError
from wardround.learn.study import parse_study
from wardround.learn.study_checks import check
from wardround.process.transforms import TASKS

KEYS = sorted(load_signals().rows)


def written(*words):
    done = CliRunner().invoke(app, ["study", "new", *words], catch_exceptions=False)
    assert done.exit_code == 0
    study = parse_study(done.output, where="test")
    check(study, TASKS, signals=load_signals().names())
    return study, done.output


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(KEYS), min_size=1, max_size=20, unique=True))
def test_a_study_of_any_signals_holds(chosen):
    study, text = written("--signals", ",".join(chosen), "--name", "mine")
    codes = {load_signals().resolve(key).code for key in chosen}
    if study.kind == "statistics":
        assert list(study.statistics.signals) == chosen
        assert all(load_signals().resolve(key).title in text for key in chosen)
        assert not any(codes <= task.signals - {task.label_code} for task in TASKS.values())
    else:
        assert codes <= TASKS[study.task].signals


def test_signals_are_named_as_people_name_them_each_once():
    study, text = written("--signals", " heart_rate, spo2,loinc:8867-4,mdc:147842")
    assert study.statistics.signals == ("heart-rate", "spo2")
    assert "# Heart rate (ECG), /min, 20 to 300" in text
    assert "ventricular-beats: ecg-avf" in text  # what a model would need


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_task_is_found_by_what_its_devices_measure(task):
    measured = sorted(TASKS[task].signals - {TASKS[task].label_code})
    assert written(task)[0].task == task
    assert written("--signals", ",".join(measured))[0].task == task
    assert written(task, "--signals", measured[0])[0].task == task


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--signals", "hart-rate"], "no signal 'hart-rate'"),
        (["activity", "--signals", "accel-x,spo2"], "does not learn from spo2"),
        (["walking"], "no task 'walking'"),
        ([], "neither a task nor signals"),
        (["--signals", " , "], "neither a task nor signals"),
        (["--signals", ",".join(["spo2"] * (SIGNALS_MAX + 1))], f"{SIGNALS_MAX + 1} signals"),
    ],
)
def test_what_cannot_be_written_says_what_to_do(words, says):
    done = CliRunner().invoke(app, ["study", "new", *words])
    assert isinstance(done.exception, StudyError)
    assert says in str(done.exception)
    assert done.exception.remedy
