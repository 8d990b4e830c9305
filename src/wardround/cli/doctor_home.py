"""What `wardround doctor --home` looks at in a home: databases, ports, the hub, limits of the machine; Podman, the clock."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from wardround.errors import WardroundError
from wardround.records import Check
from wardround.settings import EdgeSettings, HubSettings, load_settings

CHECKED_BYTES_MAX = 200_000_000  # a larger file takes a disk minutes to read
PODMAN_S, CONNECT_S = 20.0, 5.0
PODMAN_MIN = 4
HUB_MB, EDGE_MB = 500, 0.4  # bench/hub_memory.py, with some room
OPEN_FILES = 500  # beside one for each edge
STA_UNSYNC = 0x0040  # adjtimex(2)
_TIMEX_BYTES, _STATUS_AT = 512, 40  # room for the structure, and its status, where a long has eight bytes


def clock_synchronised() -> Check:
    """Whether the kernel says that something keeps its clock: observations and certificates live by it."""
    what, remedy = "clock kept", "`timedatectl set-ntp true`, or see that chrony runs; in a container ask the machine"
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None or ctypes.sizeof(ctypes.c_long) != 8:
        return Check(what, None, "this system does not say", remedy)
    room = ctypes.create_string_buffer(_TIMEX_BYTES)
    if adjtimex(room) < 0:
        return Check(what, None, "this system does not say", remedy)
    status = int.from_bytes(room.raw[_STATUS_AT : _STATUS_AT + 4], "little")
    return Check(what, None if status & STA_UNSYNC else True, "not by anything" if status & STA_UNSYNC else "yes", remedy)


def podman() -> Check:
    """Whether nodes could be used from here."""
    what, remedy = "Podman", f"only for nodes (docs/operations.md): install Podman {PODMAN_MIN} or newer"
    if (path := shutil.which("podman")) is None:
        return Check(what, None, "not installed", remedy)
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=PODMAN_S, check=False)  # noqa: S603 - what is installed
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(what, None, f"does not answer: {error}", remedy)
    version = done.stdout.strip().rpartition(" ")[2]
    number = version.partition(".")[0]
    return Check(what, (number.isdigit() and int(number) >= PODMAN_MIN) or None, version or done.stderr.strip()[:200], remedy)


def databases(home: Path) -> Iterator[Check]:
    """Every SQLite file of a home: whether it can be read, and is whole. Nothing is changed."""
    files = sorted(p for p in home.glob("**/*.sqlite") if not p.is_symlink())
    wrong = []
    skipped = 0
    for path in files:
        if path.stat().st_size > CHECKED_BYTES_MAX:
            skipped += 1
        elif problem := _problem(path):
            wrong.append(f"{path.relative_to(home)}: {problem}")
    found = f"{len(files) - skipped} are whole" + (f", {skipped} are too large to look at here" if skipped else "")
    remedy = "stop the program and restore a backup (docs/operations.md), or ask the disk's own log"
    yield Check("database files", not wrong, "; ".join(wrong) or found, remedy)


def _problem(path: Path) -> str:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=CONNECT_S)) as db:
            (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if said == "ok" else str(said)


def records(home: Path) -> Check:
    """A hub's records, in SQLite or PostgreSQL: whether they open, and of which schema they are."""
    from wardround.store.opening import elsewhere, newest, open_engine, revision_of, shown  # noqa: PLC0415

    path = home / "hub.sqlite"
    try:
        if not path.exists() and elsewhere(path) is None:  # to open it would make it
            return Check("records", False, f"{path} is not there", "restore a backup, or make a hub: wardround hub init")
        engine = open_engine(home / "hub.sqlite")
        try:
            schema, where = revision_of(engine), shown(engine)
        finally:
            engine.dispose()
    except WardroundError as error:
        return Check("records", False, str(error), error.remedy)
    if schema > newest():
        found = f"{where}: schema {schema}, and this program knows {newest()}"
        return Check("records", False, found, f"run that version, or with it: wardround store migrate --to {newest()}")
    later = "" if schema == newest() else f", which becomes {newest()} at the next start"
    return Check("records", True, f"{where}: schema {schema}{later}")


def hub_checks(home: Path) -> Iterator[Check]:
    """What only a hub's home has."""
    settings = load_settings(home / "hub.toml", HubSettings)
    known = records(home)
    yield known
    places = (("grpc", settings.grpc), ("enrolment", settings.enrolment), ("console", settings.console))
    yield from ports([(name, one.host, one.port) for name, one in places], running=_held(home))
    edges = _edges(home) if known.good else 0
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = edges + OPEN_FILES
    yield Check(
        "open files", soft >= needed or soft == resource.RLIM_INFINITY, f"{soft:,} allowed, {needed:,} for {edges:,} edges",
        "LimitNOFILE= in its unit, or `ulimit -n`; `wardround deploy render` writes it",
    )  # fmt: skip
    have, wanted = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6, HUB_MB + EDGE_MB * edges
    yield Check("memory", have >= wanted, f"{have:,.0f} MB, {wanted:,.0f} for {edges:,} edges, without its workers", "add memory")


def edge_checks(home: Path) -> Iterator[Check]:
    """What only an edge's home has: the way to its hub."""
    settings = load_settings(home / "edge.toml", EdgeSettings)
    place, began = f"{settings.hub_host}:{settings.hub_port}", time.monotonic()
    try:
        socket.create_connection((settings.hub_host, settings.hub_port), CONNECT_S).close()
    except OSError as error:
        remedy = "see that the hub runs, and that the network and its firewall let this through; what is measured waits here"
        yield Check("hub", False, f"{place} does not answer: {error.strerror or error}", remedy)
    else:
        yield Check("hub", True, f"{place} answers within {(time.monotonic() - began) * 1e3:.0f} ms")
    yield from ports([("mqtt", settings.mqtt.host, settings.mqtt.port)], running=(home / "ready.json").exists())


def ports(wanted: list[tuple[str, str, int]], *, running: bool) -> Iterator[Check]:
    """Whether each may be listened on: free, or taken while this home's own program runs."""
    for name, host, port in wanted:
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as error:
            found = f"{host}:{port} {error.strerror}" + (", by this home's own program or another" if running else "")
            yield Check(f"port {name}", None if running else False, found, f"end what listens there, or set `{name}.port`")
        else:
            yield Check(f"port {name}", True, f"{host}:{port} is free")


def _held(home: Path) -> bool:
    from wardround.processing import held  # noqa: PLC0415

    return held(home)


def _edges(home: Path) -> int:
    """How many may come in; 0 where the records cannot be read, which is said elsewhere."""
    from wardround.store import opened  # noqa: PLC0415
    from wardround.store.opening import newest, open_engine, revision_of  # noqa: PLC0415

    try:
        engine = open_engine(home / "hub.sqlite")
        current = revision_of(engine) == newest()
        engine.dispose()
        if not current:  # to open a store would bring it to the newest schema
            return 0
        with opened(home / "hub.sqlite") as store:
            return sum(edge.revoked_us is None for edge in store.edges())
    except WardroundError:
        return 0
