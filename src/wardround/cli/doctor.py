"""`wardround doctor`: is this machine fit, and what to do where it is not."""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wardround.cli import doctor_home
from wardround.clock import utc
from wardround.errors import SettingsError, TrustError, WardroundError
from wardround.records import Check
from wardround.settings import HubSettings
from wardround.trust.at_rest import Sealer, open_seal
from wardround.trust.certificates import describe, loose_keys
from wardround.trust.homes import open_to

DISK_BYTES_MIN = 2_000_000_000
OVERDUE = 1 / 4  # of its life left: it should have been renewed at a third
EARLIEST_S = 1_760_000_000  # a clock before this release was made is wrong: certificates would not hold


def examine(home: Path | None) -> Iterator[Check]:
    """Look at the machine, and at a hub's or an edge's home if one is given."""
    yield _python()
    yield Check("TLS 1.3", ssl.HAS_TLSv1_3, ssl.OPENSSL_VERSION, "install a Python built with OpenSSL 1.1.1 or newer")
    yield _clock()
    yield doctor_home.clock_synchronised()
    yield _disk(home or Path.cwd())
    for module, what in (("dask", "hub"), ("nicegui", "console"), ("wfdb", "WFDB records"), ("jax", "training")):
        present = importlib.util.find_spec(module) is not None
        extra = "hub" if what in ("hub", "console") else "files" if module == "wfdb" else ""
        yield Check(what, present or None, "installed" if present else "not installed", f"pip install 'wardround[{extra}]'")
    yield doctor_home.podman()
    if home is None:
        settings = HubSettings()
        for key, listen in (("grpc", settings.grpc), ("enrolment", settings.enrolment), ("console", settings.console)):
            yield _port(key, listen.host, listen.port)
    else:
        yield from _certificates(home)
        yield _at_rest(home)
        yield from doctor_home.databases(home)
        for name, checks in (("hub.toml", doctor_home.hub_checks), ("edge.toml", doctor_home.edge_checks)):
            if (home / name).exists():
                yield from _settled(name, checks(home))


def doctor(
    home: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="A hub's or edge's home to look at as well.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Check this machine: Python, TLS, clock, disk, ports, Podman; a home: certificates, databases, its hub; say what to do."""
    checks = list(examine(home))
    show("wardround doctor", checks, as_json=as_json)


def show(title: str, checks: Sequence[Check], *, as_json: bool) -> None:
    """Print what was looked at; exits with 1 when something is not as it must be."""
    if as_json:
        typer.echo(json.dumps([asdict(c) for c in checks], indent=2))
    else:
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for heading in ("", "what", "found", "what to do"):
            table.add_column(heading)
        marks = {True: "[green]ok[/]", False: "[bold red]no[/]", None: "[dim]-[/]"}
        for check in checks:
            table.add_row(marks[check.good], check.what, escape(check.found), "" if check.good else check.remedy)
        Console().print(table)
    if any(c.good is False for c in checks):
        raise typer.Exit(1)


def _settled(name: str, checks: Iterator[Check]) -> Iterator[Check]:
    """The checks of a home; that its settings do not hold is one of them."""
    try:
        yield from checks
    except SettingsError as error:
        yield Check(name, False, str(error), error.remedy)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def _clock() -> Check:
    now = time.time()
    return Check("clock", now > EARLIEST_S, f"{utc(round(now * 1e6)):%Y-%m-%d %H:%M:%S} UTC", "set the clock; use NTP")


def _disk(where: Path) -> Check:
    free = shutil.disk_usage(where).free
    return Check("disk", free > DISK_BYTES_MIN, f"{free / 1e9:.1f} GB free at {where}", "free at least 2 GB")


def _port(key: str, host: str, port: int) -> Check:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return Check(f"port {key}", None, f"{host}:{port} {error.strerror}", f"free if a hub runs here; else set `{key}.port`")
    return Check(f"port {key}", True, f"{host}:{port} is free")


def _at_rest(home: Path) -> Check:
    """Whether a home is encrypted, and its keys open."""
    what = "encryption at rest"
    try:
        seal = open_seal(home)
    except WardroundError as error:
        return Check(what, False, str(error), error.remedy)
    if not isinstance(seal, Sealer):
        return Check(what, None, "off", "at_rest.kek in its settings turns it on (docs/security.md); or encrypt the disk")
    facts = seal.keys.facts()
    seal.keys.close()
    found = f"{sum(facts.by_version.values())} data keys, wrapped by version {facts.version} of {facts.source}"
    return Check(what, not facts.rotating, found, f"a rotation is not through: wardround keys rotate --home {home}")


def _certificates(home: Path) -> Iterator[Check]:
    for name in ("pki/hub.pem", "identity/edge.pem", "identity/listener.pem"):
        path = home / name
        if not path.exists():
            continue
        try:
            facts = describe(path.read_bytes())
        except TrustError as error:
            yield Check(str(path), False, str(error), error.remedy)
            continue
        left_us = facts.not_after_us - round(time.time() * 1e6)
        found = (
            f"{facts.role} {facts.name}, ends {utc(facts.not_after_us):%Y-%m-%d %H:%M} UTC, {left_us / 86_400e6:.1f} days left"
        )
        overdue = left_us < facts.life_us * OVERDUE
        if left_us > 0 and overdue:
            found += "; its renewal is overdue"
        remedy = "see that the hub can be reached" if left_us > 0 else "ask for a new token and join again: the data stays"
        yield Check("certificate", left_us > 0 and not overdue, found, remedy)
    loose = loose_keys(home)
    for path, mode in loose:
        yield Check("key file", False, f"{path.name} has mode {mode:o}", f"chmod 600 {path}")
    if not loose:
        yield Check("key files", True, "nobody else may read them")
    shut = not open_to(home)
    found = (
        "not everybody here may look into it" if shut else "everybody on this machine may read what patients' devices measured"
    )
    yield Check("home", shut, found, f"chmod 700 {home}")
