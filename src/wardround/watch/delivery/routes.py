"""The ways to people that hub.toml names."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from wardround.errors import SettingsError
from wardround.settings import NotifySettings
from wardround.watch.delivery.messages import Origin
from wardround.watch.delivery.outbox import Route
from wardround.watch.delivery.sinks import Alertmanager, Apprise, Mail, Sink, Webhook

REFRESH_S = 60.0  # Alertmanager forgets what is not sent again in five minutes
ADDRESS = re.compile(r"[^@\s<>,;]+@[^@\s<>,;]+")
WEBHOOK_KEY = "webhook.key"


def routes(entries: Sequence[NotifySettings], home: Path, origin: Origin, write: Callable[[Path, bytes], None]) -> list[Route]:
    """A route for each entry; `write(path, data)` makes a file that is ours alone: the key that webhooks are signed with.

    Raises:
        SettingsError: an entry cannot work; says which and why.
    """
    found: list[Route] = []
    for number, entry in enumerate(entries, 1):
        name = entry.name or (entry.kind if entry.kind not in {r.name for r in found} else f"{entry.kind}-{number}")
        if name in {r.name for r in found}:
            raise SettingsError(f"two notify entries are called {name!r}", remedy="give each a name of its own")
        sink = _sink(entry, f"notify {name!r}", home, origin, write)
        refresh_s = entry.refresh_s or (REFRESH_S if entry.kind == "alertmanager" else 0.0)
        found.append(Route(name, sink, entry.priority_min, entry.level, entry.group_s, refresh_s))
    return found


def _sink(entry: NotifySettings, where: str, home: Path, origin: Origin, write: Callable[[Path, bytes], None]) -> Sink:
    url = entry.url or (_secret(home / entry.url_file, f"{where}: url_file") if entry.url_file else "")
    if not url:
        raise SettingsError(f"{where} has no address", remedy="set url, or url_file where the address is a secret")
    if entry.kind == "apprise":
        return Apprise(url, origin)
    parts = urlsplit(url)
    if parts.password:
        raise SettingsError(f"{where}: a password stands in the address", remedy="put it in a file and name that: password_file")
    schemes = ("smtp", "smtps", "smtp+plain") if entry.kind == "smtp" else ("http", "https")
    if parts.scheme not in schemes or not parts.hostname:
        raise SettingsError(
            f"{where}: {parts.scheme or 'this'} is no address of a {entry.kind}", remedy=f"{schemes[0]}://host..."
        )
    if entry.kind == "alertmanager":
        return Alertmanager(url, origin)
    if entry.kind == "webhook":
        key = home / WEBHOOK_KEY
        if not key.exists():
            write(key, secrets.token_hex(32).encode())
        return Webhook(url, key.read_bytes(), origin)
    if not entry.to or not all(ADDRESS.fullmatch(a) for a in (entry.sender, *entry.to)):
        raise SettingsError(f"{where}: sender and to must be mail addresses", remedy='sender = "wardround@site.example"')
    password = _secret(home / entry.password_file, f"{where}: password_file") if entry.password_file else ""
    return Mail(url, entry.sender, entry.to, password, origin)


def _secret(path: Path, where: str) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except OSError as exc:
        raise SettingsError(f"{where}: {path} cannot be read: {exc.strerror}", remedy="make that file, chmod 600") from exc
    if mode & 0o077:
        raise SettingsError(f"{where}: {path} can be read by others", remedy=f"chmod 600 {path}")
    return text
