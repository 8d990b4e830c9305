"""What of a home goes into a backup, by name; everything else stays, and is said to.

A list of what goes, and none of what does not: a new secret in a home is left out without anybody's thinking of it. Copies are
taken in an order in which nothing that was acknowledged is lost between two of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from wardround.backup.archive import LeftOut, Source
from wardround.backup.keys import is_secret
from wardround.backup.snapshots import copy_database, hold, hold_all

EDGE_FILES = ("edge.toml", "devices.toml", "names.toml", "identity/ca.pem", "identity/roster.json", "audit/authorities.pem")
EDGE_DATABASES = ("consent.sqlite", "erasures.sqlite")
EDGE_LEDGERS = ("patients.ledger", "dp-sgd/*.ledger")  # learn/privacy/patient_budget.py, edge_budget.py
LOG = "audit/audit.log"
AGAIN = (
    "staging/",
    "ready.json",
    "lock",
    "gate.lock",
    ".lock",
    "flower/",
    "spool/ballast",
    "identity/.lock",
    "identity/roster.lock",
)

REASONS = {  # of what is left out at either home: why, and what a restored one needs instead
    "pki/": ("a key of this hub", "put the authority's key back with --ca-key, or let every edge join again"),
    "identity/": ("a key of this edge", "join again: `wardround hub invite NAME`, then `wardround edge join -`"),
    "pseudonym.key": ("the key of pseudonyms", "bring it back: `wardround edge key import FILE`"),
    "keys/": ("wrapped keys of values that are sealed at rest", "put the newest copy of keys/ back, kept apart from backups"),
    "nodes/": ("keys of this hub towards its nodes", "make new ones: `wardround node key`, then add its line on each node"),
    "webhook.key": ("the key that signs webhooks", "give receivers the new webhook.key, made at the first start"),
    "mosquitto/": ("secrets of the broker", ""),
    "outbox.sqlite": ("alerts on their way out; open ones are sent again", ""),
    "learn/masks/": ("secrets of a masked round; the round begins anew", ""),
}

_OTHERS = tuple(REASONS)


@dataclass
class Gathered:
    """What goes, what stays, and what the manifest says beside it."""

    sources: list[Source] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    secrets: list[Path] = field(default_factory=list)
    lake: dict[str, int] = field(default_factory=dict)
    inbox_number: int = -1


def gather_edge(home: Path, *, stage: Path) -> Gathered:
    """An edge's home, running or not."""
    found = Gathered()
    hold_all(home / "learn", stage / "learn", is_written_once)
    copy(home, stage, names_of(home, "spool/*.sqlite"))  # before the local store: a message is durable in it when it is here
    copy(home, stage, EDGE_DATABASES)
    copy(home, stage, [n for n in names_of(home, "**/*.sqlite") if not (stage / n).exists() and not n.startswith(_OTHERS)])
    put_plain(home, stage, EDGE_FILES)
    for pattern in EDGE_LEDGERS:
        for name in names_of(home, pattern):
            put_lines(home, stage, name)
    finish(home, stage, found, skip=())
    return found


# -- how


def names_of(home: Path, pattern: str) -> list[str]:
    return sorted(p.relative_to(home).as_posix() for p in home.glob(pattern) if p.is_file() and not p.is_symlink())


def copy(home: Path, stage: Path, names: Iterable[str], clean: Callable[[sqlite3.Connection], None] | None = None) -> None:
    for name in names:
        if (home / name).exists():
            copy_database(home / name, stage / name, clean)


def put_plain(home: Path, stage: Path, names: Iterable[str]) -> None:
    """Small files that are replaced whole, and the audit log, which grows by whole lines; heads of others' logs beside it."""
    for name in (*names, "audit/hub-heads.json"):
        if (home / name).is_file():
            hold(home / name, stage / name)
    if (home / LOG).exists():
        put_lines(home, stage, LOG)


def put_lines(home: Path, stage: Path, name: str) -> None:
    """A file that grows by whole lines: those that are there now."""
    data = (home / name).read_bytes()
    (stage / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    (stage / name).write_bytes(data[: data.rfind(b"\n") + 1])


def is_written_once(name: str, below: int = 0) -> bool:
    """Whether a file of updates and models is: no database, nothing that still grows, no secret of a masked round.

    Args:
        below: so many folders of its name are names of studies.
    """
    growing = name.endswith((".partial", ".sqlite", "-wal", "-shm", ".lock"))
    return not growing and not {"masks", "partial"} & set(name.split("/")[below:-1])


def finish(home: Path, stage: Path, found: Gathered, *, skip: tuple[str, ...]) -> None:
    """Every copy is a source; what has none is left out, with a reason."""
    found.sources += [Source(p.relative_to(stage).as_posix(), p) for p in sorted(stage.rglob("*")) if p.is_file()]
    taken = {source.name for source in found.sources}
    said: set[str] = set()
    for path in sorted(p for p in home.rglob("*") if p.is_file()):
        name = path.relative_to(home).as_posix()
        if name in taken or name.startswith(skip) or name.endswith(("-wal", "-shm", ".partial")):
            continue
        if is_secret(path):
            found.secrets.append(path)
        if name.startswith(AGAIN):
            continue
        reason = next((r for r in REASONS if name.startswith(r)), "")
        if reason not in said or not reason:
            why, do = REASONS.get(
                reason, ("a secret" if is_secret(path) else "not a part that backups know", "put it back by hand")
            )
            found.left_out.append(LeftOut(reason or name, why, do))
            said.add(reason)
