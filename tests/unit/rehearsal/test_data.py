"""Simulated people, recordings and tables become examples of edges, with held-back subjects apart."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from wardround.collect.signals import load_signals
from wardround.demo.motion import LAYING, WALKING, simulate_motion
from wardround.errors import StudyError, WardroundError
from wardround.learn.study import ScoreSettings
from wardround.process.transforms import TASKS
from wardround.rehearsal.data import observations_of, recorded_population, simulated_population

ACTIVITY, BEATS = TASKS["activity"], TASKS["ventricular-beats"]


def quiet(_what, _done, _total):
    """Nobody listens."""


def table(path, task, n, **columns):
    rng = np.random.default_rng(len(path.name))
    frame = {name: rng.normal(size=n) for name in task.feature_names}
    write = pl.DataFrame(frame | columns)
    if path.suffix == ".csv":
        write.write_csv(path)
    else:
        write.write_parquet(path)


def recorded(folder, task=BEATS, score=None, edges=None):
    score = score or ScoreSettings(held_back=0.0)
    return recorded_population(folder, task, score, edges=edges, alpha=0.5, seed=1, heard=quiet)


def test_simulated_motion_has_every_activity_and_gravity_where_it_belongs():
    recording = simulate_motion("p", "d", seed=1, duration_s=120.0)
    made = ACTIVITY.examples(observations_of(recording, "p", load_signals(), ACTIVITY))
    assert set(made.labels) == set(range(6))
    up = made.features[:, ACTIVITY.feature_names.index("gravity angle x")]
    assert up[made.labels == WALKING - 1].min() > 0.8
    assert np.abs(up[made.labels == LAYING - 1]).max() < 0.5


@pytest.mark.parametrize("task", [ACTIVITY, BEATS], ids=lambda t: t.name)
def test_simulated_patients_are_split_and_some_held_back(task, monkeypatch):
    monkeypatch.setattr("wardround.rehearsal.data.PATIENTS_MIN", 5)
    monkeypatch.setattr("wardround.rehearsal.data.PATIENT_S", (60.0, 60.0))
    score = ScoreSettings(held_back=0.3)
    found = simulated_population(task, score, edges=4, alpha=1.0, seed=2, heard=quiet)
    assert len(found.edges) == 4
    assert found.simulated
    training = {str(s) for e in found.edges.values() for s in e.subjects}
    held = {str(s) for s in found.held_back.subjects}
    assert training
    assert held
    assert not training & held


def test_a_table_is_an_edge_and_a_class_may_be_a_name_or_a_number(tmp_path):
    table(tmp_path / "ward-a.parquet", BEATS, 3, label=["other", "ventricular", None])
    table(tmp_path / "ward-b.csv", BEATS, 2, label=[0, 1])
    found = recorded(tmp_path)
    assert {n: list(e.labels) for n, e in found.edges.items()} == {"ward-a": [0, 1], "ward-b": [0, 1]}
    assert not found.simulated


def test_columns_name_edges_and_subjects_and_the_study_says_who_is_held_back(tmp_path):
    columns = {"label": [0, 1, 0, 1], "edge": ["a", "a", "b", "b"], "subject": ["p", "q", "r", "s"]}
    table(tmp_path / "all.parquet", BEATS, 4, **columns)
    found = recorded(tmp_path, score=ScoreSettings(held_back=0.0, held_back_subjects=("q",)))
    assert {n: list(e.subjects) for n, e in found.edges.items()} == {"a": ["p"], "b": ["r", "s"]}
    assert list(found.held_back.subjects) == ["q"]


def test_tables_are_split_over_as_many_edges_as_are_asked_for(tmp_path):
    table(tmp_path / "all.parquet", BEATS, 50, label=[0, 1] * 25)
    found = recorded(tmp_path, edges=7)
    assert len(found.edges) == 7
    assert sum(len(e) for e in found.edges.values()) == 50


def test_what_a_folder_lacks_is_said(tmp_path):
    with pytest.raises(WardroundError, match="holds no recordings"):
        recorded(tmp_path)
    table(tmp_path / "a.parquet", BEATS, 2, other=[0, 1])
    with pytest.raises(StudyError, match="no column `label`"):
        recorded(tmp_path)
    table(tmp_path / "a.parquet", BEATS, 2, label=["other", "fast"])
    with pytest.raises(StudyError, match="'fast' is none of the task"):
        recorded(tmp_path)
    table(tmp_path / "a.parquet", BEATS, 2, label=pl.Series([None, None], dtype=pl.Int64))
    with pytest.raises(StudyError, match="labelled"):
        recorded(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"no table")
    with pytest.raises(StudyError, match="cannot be read"):
        recorded(tmp_path)
    with pytest.raises(StudyError, match="not a folder"):
        recorded(tmp_path / "none")


def test_a_feature_that_is_no_number_is_said(tmp_path):
    table(tmp_path / "a.csv", BEATS, 2, label=[0, 1], **{BEATS.feature_names[0]: ["fast", "slow"]})
    with pytest.raises(StudyError, match=r"a\.csv cannot be read"):
        recorded(tmp_path)


def test_more_edges_than_patients_can_be_simulated_for_are_refused_at_once():
    with pytest.raises(StudyError, match="more than 1000") as refused:
        simulated_population(BEATS, ScoreSettings(), edges=10**6, alpha=0.5, seed=1, heard=quiet)
    assert "at most" in refused.value.remedy
