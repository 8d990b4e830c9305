"""What the hub runs with, for whoever runs it: settings are of the file as it was at the start, and a file is no news until then.

What can hold a secret by mistake (an address with a token in it, a command's arguments) is shown in part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from wardround.clock import Clock
from wardround.console.settings_model import SettingRow, SettingsView
from wardround.console.shared import Shared
from wardround.errors import SettingsError
from wardround.settings import HubSettings, load_settings
from wardround.trust.roles import Act

KEEP_S = 5.0
HIDDEN = "..."
SECRET = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)
HOSTED = ("http", "https", "smtp", "smtps")  # schemes by which a host is a host; Apprise's have tokens there (discord://ID/TOKEN)
DOCUMENT = Path(__file__).with_suffix(
    ".md"
)  # the section of hub.toml in docs/settings.md, which is not installed; a test compares


class HubSettingsDesk:
    """Of one hub. May be called from any thread."""

    def __init__(self, home: Path, settings: HubSettings, clock: Clock, *, check: Callable[[str, Act], None]) -> None:
        """`settings` are those that the hub has read at its start, which is now."""
        self._path, self._settings, self._clock, self._check = home / "hub.toml", settings, clock, check
        self._started_us = clock.now_us()
        self._words = meanings()
        self._view = Shared(self._build, clock, keep_s=KEEP_S)

    def view(self, who: str) -> SettingsView:
        """The newest read model.

        Raises:
            NotAllowed: their role does not cover the fleet.
        """
        self._check(who, Act.EDGES)
        return self._view()

    def _build(self) -> SettingsView:
        wrong = remedy = ""
        now = self._settings
        try:
            now = load_settings(self._path, HubSettings)
        except SettingsError as error:
            wrong, remedy = str(error), error.remedy
        runs, file, default = (dict(_flat(msgspec.to_builtins(s))) for s in (self._settings, now, HubSettings()))
        rows = tuple(
            SettingRow(
                key,
                shown(value),
                shown(default[key]),
                self._words.get(key, ""),
                shown(file[key]) if file[key] != value else None,
            )
            for key, value in runs.items()
        )
        return SettingsView(str(self._path), self._started_us, rows, wrong, remedy)


def meanings() -> Mapping[str, str]:
    """What each key of hub.toml means, as docs/settings.md says it."""
    found: dict[str, str] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            keys, _, meaning = line.strip("| ").split(" | ", 2)
            found |= dict.fromkeys(re.findall(r"`([^`]+)`", keys), meaning)
    return found


def shown(value: object) -> str:
    """A value as a file says it, without what may be a secret."""
    return msgspec.json.encode(_safe(value)).decode()


def _safe(value: object) -> object:
    if isinstance(value, dict):
        return {name: _safe_entry(name, part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_safe(part) for part in value]
    if not isinstance(value, str):
        return value
    if value.startswith("command:"):
        return f"{value.split(' ', 1)[0]} {HIDDEN}" if " " in value else value
    if "://" in value:
        return _address(value)
    return value


def _safe_entry(name: str, value: object) -> object:
    """Of a table, such as one of [[notify]]."""
    if SECRET.search(name) and value:
        return HIDDEN
    return _way(value) if name == "url" and isinstance(value, str) else _safe(value)


def _way(value: str) -> str:
    """Of a way to people: who knows all of such an address may send there, so of it only where it leads."""
    try:
        parts = urlsplit(value)
        if parts.scheme not in HOSTED:
            return f"{parts.scheme}://{HIDDEN}" if parts.scheme else value and HIDDEN
        return _host(parts) + (f"/{HIDDEN}" if parts.path.strip("/") or parts.query else "")
    except ValueError:
        return HIDDEN


def _address(value: str) -> str:
    """Scheme and host; of a path its beginning alone."""
    try:
        parts = urlsplit(value)
        where = _host(parts)
    except ValueError:
        return HIDDEN
    first, _, rest = parts.path.lstrip("/").partition("/")
    return where + (f"/{first}" if first else "") + (f"/{HIDDEN}" if rest or parts.query else "")


def _host(parts: SplitResult) -> str:
    """Raises ValueError: its port is none."""
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"


def _flat(data: Mapping[str, Any], prefix: str = "", kind: type[Any] = HubSettings) -> Iterator[tuple[str, object]]:
    """Keys with dots, as docs/settings.md has them: a table of the reader's own, such as roles, is one value."""
    for field in msgspec.structs.fields(kind):
        value, inner = data[field.name], field.type
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from _flat(value, f"{prefix}{field.name}.", inner)
        else:
            yield prefix + field.name, value
