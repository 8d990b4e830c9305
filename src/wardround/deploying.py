"""How a hub or an edge is run by systemd or Podman: units and a pod, filled from its own settings file.

Pure: templates of deploy/templates in, texts out. Everything rendered drops all rights that the program does not need.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wardround.errors import SettingsError
from wardround.settings import EdgeSettings, HubSettings, LogSettings, load_settings
from wardround.store.opening import elsewhere

RESTART_S = 5
MEMORY_GB = {"hub": 8, "edge": 4}
LOOPBACK = ("127.0.0.1", "::1", "localhost")
SAFE = set(string.ascii_letters + string.digits + "/._-+@,:=")


@dataclass(frozen=True, slots=True)
class Listener:
    """A listener of the program: the key of its settings, where it listens."""

    key: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """Files by name, and what a person should know before using them."""

    files: Mapping[str, str]
    notes: tuple[str, ...]


def render(home: Path, templates: Path, *, python: str, user: str, image: str, version: str) -> Rendered:
    """The units and the pod of the hub or edge in this home.

    Args:
        python: the interpreter that has Wardround, for the systemd unit.
        user: whom the systemd unit runs as; containers run as user 10001.

    Raises:
        SettingsError: there is no hub or edge in this home, or a value could not stand in a unit.
    """
    home = home.resolve()
    hub = (home / "hub.toml").exists()
    role = "hub" if hub else "edge"
    if hub:
        settings = load_settings(home / "hub.toml", HubSettings)
        name, kek = settings.name, settings.at_rest.kek
        listeners = _hub_listeners(settings)
        writes = [
            str(home),
            *([settings.backup.folder] if settings.backup.folder else []),
            *_lake(settings),
            *_log(home, settings.log),
        ]
        standby = elsewhere(home / "hub.sqlite") is not None
    else:
        edge = load_settings(home / "edge.toml", EdgeSettings)
        name, kek = edge.name, edge.at_rest.kek
        listeners = _edge_listeners(edge)
        writes, standby = [str(home), *_log(home, edge.log)], False
    listeners = [listener for listener in listeners if listener.port]
    _check(home, name, python, user, image, *writes)
    unit = f"wardround-{role}" if hub else f"wardround-edge-{name}"
    arguments = [role, "run", *(["--standby"] if standby else [])]
    values = {
        "title": f"The {role} {name} of Wardround",
        "role": role,
        "name": name,
        "unit": unit,
        "settings": f"{home}/{role}.toml",
        "docs": f"{templates.parent}",
        "home": str(home),
        "python": python,
        "user": user,
        "image": image,
        "version": version,
        "command": " ".join(arguments),
        "restart_s": str(RESTART_S),
        "credential": _credential(kek),
        "protect_home": "read-only"
        if any(p.is_relative_to(h) for p in (home, Path(python)) for h in ("/home", "/root"))
        else "yes",
        "writes": " ".join(writes),
        "memory": f"{MEMORY_GB[role]}g",
        "memory_kube": f"{MEMORY_GB[role]}Gi",
        "publish": "\n".join(f"PublishPort={x.port}:{x.port}" for x in listeners),
        "ports": ", ".join(f"{{containerPort: {x.port}, hostPort: {x.port}}}" for x in listeners),
        "args": ", ".join(json.dumps(a) for a in [*arguments, "--home", "/home/wardround"]),
    }
    files = {
        f"{unit}.service": _filled(templates / "service", values),
        f"{unit}.container": _filled(templates / "container", values),
        f"{unit}.kube.yaml": _filled(templates / "kube.yaml", values),
    }
    return Rendered(files, tuple(_notes(role, home, listeners, kek, writes)))


def _hub_listeners(settings: HubSettings) -> list[Listener]:
    parts = {"grpc": settings.grpc, "enrolment": settings.enrolment, "console": settings.console, "metrics": settings.metrics}
    return [Listener(key, part.host, part.port) for key, part in parts.items()]


def _edge_listeners(settings: EdgeSettings) -> list[Listener]:
    mqtt, https, relay = settings.mqtt, settings.https, settings.relay
    all_ = [
        Listener("mqtt", mqtt.host, mqtt.port),
        Listener("https", https.host, https.port),
        Listener("relay", relay.host, relay.port),
    ]
    return [listener for listener in all_ if listener.host]


def _lake(settings: HubSettings) -> list[str]:
    lake = settings.processing.lake
    return [lake] if lake and "://" not in lake else []


def _log(home: Path, log: LogSettings) -> list[str]:
    folder = (home / log.file).parent.resolve()
    return [str(folder)] if log.file and not folder.is_relative_to(home) else []


def _credential(kek: str) -> str:
    kind, _, name = kek.partition(":")
    return f"LoadCredentialEncrypted={name}" if kind == "credential" else ""


def _notes(role: str, home: Path, listeners: list[Listener], kek: str, writes: list[str]) -> list[str]:
    notes = [
        f"{x.key}.host is {x.host}: nobody reaches port {x.port} in a container; set it to 0.0.0.0 in {role}.toml for those"
        for x in listeners
        if x.host in LOOPBACK
    ]
    notes.append(f"containers run as user 10001: `chown -R 10001:10001 {home}` once; the systemd unit's user must own it instead")
    if kek:
        notes.append(f"at_rest.kek is {kek.partition(':')[0]}:...: containers need that file or program mounted as well")
    if len(writes) > 1:
        notes.append(f"containers need these mounted as well: {', '.join(writes[1:])}")
    return notes


def _filled(template: Path, values: Mapping[str, str]) -> str:
    return string.Template(template.read_text(encoding="utf-8")).substitute(values)


def _check(home: Path, name: str, *words: str) -> None:
    """Units have a grammar of their own: what could end a line or begin a new word is refused, not quoted."""
    for word in (str(home), name, *words):
        if not word or set(word) - SAFE:
            raise SettingsError(
                f"{word!r} cannot stand in a unit", remedy="use letters, digits and /._-+@,:= alone, and no spaces"
            )
