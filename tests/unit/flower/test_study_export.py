"""A study as a Flower app, without Flower: what is written, and what is refused."""

from __future__ import annotations

import ast

import pytest

from wardround.errors import StudyError
from wardround.flower.apps import open_app
from wardround.flower.study_export import export_study

STUDY = 'name = "ward"\ntask = "activity"\n'


def test_the_app_holds_the_study_and_is_one_that_flower_can_read(tmp_path):
    folder = tmp_path / "a folder with 'quotes'"
    assert export_study(STUDY, folder, "/opt/w/bin/python") == "ward"
    app = open_app(folder)
    assert app.clientapp == "wardround_study.client_app:app"
    assert app.config == {"wardround-python": "/opt/w/bin/python", "out": str(folder / "result")}
    trees = {path.name: ast.parse(path.read_text()) for path in (folder / "wardround_study").glob("*.py")}
    assert set(trees) == {"__init__.py", "client_app.py", "server_app.py", "frames.py", "study.py"}
    assert trees["study.py"].body[1].value.value == STUDY
    imported = {n.module for t in trees.values() for n in ast.walk(t) if isinstance(n, ast.ImportFrom) and n.level == 0}
    assert not {m for m in imported if m and m.startswith("wardround")}  # it must run where Wardround is not


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "wardround_study").mkdir()
    with pytest.raises(StudyError, match="cannot be written"):
        export_study(STUDY, tmp_path, "python3")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('[strategy]\nname = "fltrust"\n', "hub's own lake"),
        ('[relay.children]\nedge-1 = ["edge-2"]\n', "do not reach each other"),
        ("[learner.dp_sgd]\nnoise = 1.0\n[watch]\nrow_counts = false\n", "no ledger"),
    ],
)
def test_what_needs_a_hub_of_ours_is_refused(tmp_path, more, words):
    with pytest.raises(StudyError, match=words):
        export_study(STUDY + more, tmp_path / "app", "python3")
