"""A Flower app as a folder: what its pyproject.toml says, and the digest that hub and edges compare before anything is run.

Keys as Flower 1.42 reads them: [tool.flwr.app.components] serverapp and clientapp, "module:attribute"; [tool.flwr.app.config],
whose tables become keys joined by dots.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from wardround.errors import StudyError

ConfigValue: TypeAlias = bool | int | float | str
FILES_MAX = 2_000
SKIPPED = {"__pycache__", ".venv", "venv", ".git", "build", "dist"}


@dataclass(frozen=True, slots=True)
class FlowerApp:
    """An app that stands in a folder of its own."""

    folder: Path
    name: str
    serverapp: str
    clientapp: str
    config: Mapping[str, ConfigValue]
    digest: str  # of every Python file and pyproject.toml, by path


def open_app(folder: Path) -> FlowerApp:
    """Read an app; none of its code runs.

    Raises:
        StudyError: it is not a folder with a Flower app.
    """
    path = folder / "pyproject.toml"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        app, name = data["tool"]["flwr"]["app"], data["project"]["name"]
        components = app["components"]
        serverapp, clientapp = components.get("serverapp", ""), components.get("clientapp", "")
    except FileNotFoundError as exc:
        raise StudyError(f"{folder} holds no pyproject.toml", remedy="name the folder that `flwr new` made") from exc
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise StudyError(f"{path} cannot be read: {exc}", remedy="correct that file") from exc
    except (KeyError, TypeError, AttributeError) as exc:
        raise StudyError(
            f"{path} describes no Flower app: {exc} is missing",
            remedy="it needs [project] name and [tool.flwr.app.components] with serverapp and clientapp",
        ) from exc
    if not all(isinstance(v, str) and v.count(":") == 1 for v in (serverapp, clientapp)):
        raise StudyError(f"{path}: components are named `module:attribute`", remedy="correct [tool.flwr.app.components]")
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise StudyError(f"{path}: project.name is {name!r}", remedy="use letters, digits, - and _")
    return FlowerApp(folder.resolve(), name, serverapp, clientapp, flat(app.get("config", {})), app_digest(folder))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, ConfigValue]:
    """Tables in tables as keys joined by dots.

    Raises:
        StudyError: a value is neither a text, a number nor a truth value.
    """
    found: dict[str, ConfigValue] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float | str):
            found[prefix + key] = value
        else:
            raise StudyError(
                f"config key `{prefix}{key}` is a {type(value).__name__}", remedy="use a text, a number, true or false"
            )
    return found


def overridden(config: Mapping[str, ConfigValue], given: Sequence[str]) -> dict[str, ConfigValue]:
    """The app's config with `key=value` pairs in place of its own, each read as TOML, as `flwr run --run-config` does.

    Raises:
        StudyError: a pair cannot be read, the app has no such key, or its value is of another type.
    """
    result = dict(config)
    for text in given:
        try:
            pairs = flat(tomllib.loads("\n".join(_pairs(text))))
        except tomllib.TOMLDecodeError as exc:
            raise StudyError(f"`{text}` is not key=value: {exc}", remedy="write texts in quotes: 'name=\"x\"'") from exc
        for key, value in pairs.items():
            if key not in config:
                raise StudyError(f"the app has no config key `{key}`", remedy=f"its keys are: {', '.join(sorted(config))}")
            own = config[key]
            fits = type(value) is type(own) or (isinstance(own, float) and type(value) is int)
            if not fits:
                raise StudyError(
                    f"config key `{key}` is a {type(own).__name__}, and {value!r} is not", remedy="give a value of that type"
                )
            result[key] = float(value) if isinstance(own, float) else value
    return result


def app_digest(folder: Path) -> str:
    """Short name of an app's source: pyproject.toml and every Python file in the folder and below.

    Raises:
        StudyError: there are too many.
    """
    files = [folder / "pyproject.toml"]
    for path in sorted(folder.rglob("*.py")):
        if not SKIPPED & set(path.relative_to(folder).parts):
            files.append(path)
        if len(files) > FILES_MAX:
            raise StudyError(f"{folder.name} holds more than {FILES_MAX} Python files", remedy="give the app a folder of its own")
    hash_ = hashlib.sha256()
    for path in files:
        text = path.read_bytes().replace(b"\r\n", b"\n")  # the same text, checked out on another system
        hash_.update(f"{path.relative_to(folder).as_posix()}\0{len(text)}\0".encode() + text)
    return hash_.hexdigest()[:32]


def _pairs(text: str) -> list[str]:
    """`a=1 b="x y"` as lines of TOML."""
    lines, quoted, line = [], "", ""
    for letter in text:
        if letter in "\"'" and quoted in ("", letter):
            quoted = "" if quoted else letter
        if letter == " " and not quoted:
            lines.append(line)
            line = ""
        else:
            line += letter
    return [found for found in [*lines, line] if found]
