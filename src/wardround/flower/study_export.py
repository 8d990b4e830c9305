"""A study as a Flower app: the folder that `flwr run` takes."""

from __future__ import annotations

from pathlib import Path

from wardround.errors import StudyError
from wardround.flower.study_host import checked

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = "The Wardround study {name}"
license = "Apache-2.0"
dependencies = ["flwr>=1.42.0,<1.43"]

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "wardround"

[tool.flwr.app.components]
serverapp = "wardround_study.server_app:app"
clientapp = "wardround_study.client_app:app"

[tool.flwr.app.config]
wardround-python = {python!r}
out = {out!r}
"""
PACKAGE = Path(__file__).with_name("study_app")
FRAMES = Path(__file__).with_name("frames.py")


def export_study(text: str, folder: Path, python: str) -> str:
    """Write the app of a study; its name.

    Args:
        text: of study.toml.
        python: the interpreter with Wardround at the federation's machines.

    Raises:
        StudyError, SettingsError: the study cannot run on a Flower federation, or the folder is there already.
    """
    study = checked(text)
    package = folder / "wardround_study"
    try:
        package.mkdir(parents=True)
        files = {path.name: path.read_text(encoding="utf-8") for path in [*sorted(PACKAGE.glob("*.py")), FRAMES]}
        for name, content in (files | {"study.py": f'"""The study."""\n\nSTUDY = {text!r}\n'}).items():
            (package / name).write_text(content, encoding="utf-8")
        out = str((folder / "result").resolve())
        (folder / "pyproject.toml").write_text(PYPROJECT.format(name=study.name, python=python, out=out), encoding="utf-8")
    except OSError as exc:
        raise StudyError(f"{folder} cannot be written: {exc.strerror}", remedy="name a folder that is not there yet") from exc
    return study.name
