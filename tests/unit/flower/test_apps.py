"""Flower apps as folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from wardround.errors import StudyError
from wardround.flower.apps import app_digest, flat, open_app, overridden

APPS = Path(__file__).parents[2] / "flower_apps"


def test_an_app_is_read_without_running_it():
    app = open_app(APPS / "ward-numpy")
    assert (app.name, app.clientapp) == ("ward-numpy", "ward_numpy.client_app:app")
    assert app.config["learning-rate"] == 0.1


def test_the_digest_is_of_the_source_and_of_nothing_that_python_leaves(tmp_path):
    copy = shutil.copytree(APPS / "ward-numpy", tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    assert app_digest(copy) == app_digest(APPS / "ward-numpy")
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "x.py").write_text("1")
    assert app_digest(copy) == app_digest(APPS / "ward-numpy")
    (copy / "ward_numpy" / "task.py").write_text("other")
    assert app_digest(copy) != app_digest(APPS / "ward-numpy")


def test_tables_become_keys_with_dots():
    assert flat({"a": {"b": {"c": 1}}, "d": True}) == {"a.b.c": 1, "d": True}


def test_overrides_are_read_as_flower_reads_them():
    config = {"rounds": 3, "rate": 0.1, "name": "x", "fast": False}
    assert overridden(config, ["rounds=5 rate=1", 'name="a b"', "fast=true"]) == {
        "rounds": 5,
        "rate": 1.0,
        "name": "a b",
        "fast": True,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [("round=5", "no config key `round`"), ("rounds='a'", "is a int"), ("rounds", "not key=value"), ("fast=1", "is a bool")],
)
def test_an_override_that_does_not_fit_is_named(text, words):
    with pytest.raises(StudyError, match=words):
        overridden({"rounds": 3, "fast": False}, [text])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "holds no pyproject.toml"),
        ("x =", "cannot be read"),
        ("[project]\nname = 'a'", "describes no Flower app"),
        ("[project]\nname = 'a'\n[tool.flwr.app.components]\nserverapp = 'x'\nclientapp = 'y:z'", "module:attribute"),
        ("[project]\nname = '../a'\n[tool.flwr.app.components]\nserverapp = 'x:y'\nclientapp = 'y:z'", "project.name"),
    ],
)
def test_a_folder_without_an_app_is_said_to_be_one(tmp_path, text, words):
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(StudyError, match=words):
        open_app(tmp_path)
