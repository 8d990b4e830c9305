"""Settings are checked at the door, and each one is documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from wardround.errors import SettingsError
from wardround.learn.study import Study
from wardround.settings import EdgeSettings, HubSettings, Settings, load_settings, parse_settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
SHOWN = Path(__file__).parents[2] / "src" / "wardround" / "desks" / "settings.md"


def keys(kind: type[Settings], prefix: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, Settings):
            yield from keys(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


@pytest.mark.parametrize(("kind", "section"), [(HubSettings, "hub.toml"), (EdgeSettings, "edge.toml"), (Study, "study.toml")])
def test_every_setting_is_documented_and_nothing_else_is(kind: type[Settings], section: str) -> None:
    text = DOCUMENT.read_text().split(f"## `{section}`")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(documented) == sorted(keys(kind))


def test_the_console_says_of_a_setting_what_the_document_says() -> None:
    section = DOCUMENT.read_text().partition("## `hub.toml`\n")[2].partition("\n## ")[0]
    copied = "copy the section of hub.toml in docs/settings.md to src/wardround/desks/settings.md"
    assert SHOWN.read_text() == section.strip() + "\n", copied


def test_documented_defaults_are_the_defaults() -> None:
    text = DOCUMENT.read_text()
    for kind, required in (
        (HubSettings, {}),
        (EdgeSettings, {"name": "a", "hub_host": "b", "hub_port": 1}),
        (Study, {"name": "a", "task": "b"}),
    ):
        defaults = msgspec.to_builtins(kind(**required))
        for key, value in ((k, v) for k, v in _flat(defaults) if k not in required):
            row = next(line for line in text.splitlines() if line.startswith("| `") and f"`{key}`" in line.split("|")[1])
            assert msgspec.json.encode(value).decode() in row, f"{key}: {row}"


def _flat(data: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_a_table_with_one_key_keeps_the_defaults_of_the_others() -> None:
    text = "".join(f"[{name}]\nhost = '0.0.0.0'\n" for name in ("grpc", "enrolment", "console"))
    settings = parse_settings(text, HubSettings, where="hub.toml")
    assert (settings.grpc.port, settings.enrolment.port, settings.console.port) == (7443, 7444, 7480)


def test_an_unknown_key_names_the_nearest_one() -> None:
    with pytest.raises(SettingsError, match=r"unknown key `spool.byte_max`") as caught:
        parse_settings('name="a"\nhub_host="h"\nhub_port=1\n[spool]\nbyte_max=1\n', EdgeSettings, where="edge.toml")
    assert "bytes_max" in caught.value.remedy


def test_a_wrong_type_names_its_key() -> None:
    with pytest.raises(SettingsError, match=r"hub_port"):
        parse_settings('name="a"\nhub_host="h"\nhub_port="one"\n', EdgeSettings, where="edge.toml")


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist") as caught:
        load_settings(tmp_path / "hub.toml", HubSettings)
    assert caught.value.remedy


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "hub.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="UTF-8"):
        load_settings(tmp_path / "hub.toml", HubSettings)
