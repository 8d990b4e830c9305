"""What of a hub's home goes into a backup, and in which order."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

from wardround.backup.archive import LeftOut, Source
from wardround.backup.home import Gathered, copy, finish, is_written_once, names_of, put_plain
from wardround.backup.snapshots import hold_all
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.store.copying import take_out
from wardround.store.opening import elsewhere

HUB_FILES = ("hub.toml", "roster.json", "pki/ca.pem", "pki/issuing.pem", "pki/earlier.pem", "audit/authorities.pem")
HUB_DATABASES = ("hub.sqlite", "consent.sqlite", "erasures.sqlite", "exports.sqlite")
NOBODY = "!"  # no hash: nobody signs in with it


def gather_hub(home: Path, lake: Lake, *, own_lake: bool, stage: Path, still: AbstractContextManager[object]) -> Gathered:
    """A hub's home. Nothing else may change the lake meanwhile but appends: no job, no upkeep, no erasure.

    Args:
        own_lake: whether the lake lies in the home; another one is named with its versions, and stays where it is.
        stage: an empty folder for copies.
        still: nothing moves from the inbox to the lake while it is held.
    """
    found = Gathered()
    studies = stage / "studies"
    hold_all(home / "studies", studies, _is_of_a_study)  # before the journals, which may name what goes meanwhile
    with still:
        copy(home, stage, names_of(home, "inbox/*.sqlite"))
        bronze = lake.snapshot(BRONZE)
        found.inbox_number = max([-1, *(lake.transaction_version(BRONZE, app) for app in _inbox_apps(stage))])
    for journal in names_of(home, "studies/*/*.sqlite"):
        copy(home, stage, [journal])
    hold_all(home / "studies", studies, _is_of_a_study)  # and after them, which may name what came
    if elsewhere(home / "hub.sqlite") is None:
        copy(home, stage, ["hub.sqlite"], _without_secrets)
    else:
        with tempfile.TemporaryDirectory(dir=stage) as folder:
            take_out(home / "hub.sqlite", Path(folder) / "hub.sqlite")
            copy(Path(folder), stage, ["hub.sqlite"], _without_secrets)
    copy(home, stage, [name for name in HUB_DATABASES if name != "hub.sqlite"])
    for table in lake.tables():
        snapshot = bronze if table == BRONZE else lake.snapshot(table)
        found.lake[table] = snapshot.version
        if own_lake:
            found.sources += [Source(f"lake/{table}/{name}", path) for name, path in snapshot.files]
    if not own_lake:
        found.left_out.append(LeftOut("lake", f"the lake is at {lake.uri}", "keep its versions there, or back it up there"))
    put_plain(home, stage, HUB_FILES)
    finish(home, stage, found, skip=("lake/", "backups/"))
    found.left_out.append(
        LeftOut(
            "passwords",
            "of people who sign in, their second factors, and tokens of the API",
            "new ones: `wardround hub password NAME`",
        )
    )
    return found


def _without_secrets(db: sqlite3.Connection) -> None:
    """Hashes of passwords could be guessed at leisure; tokens are for quarters of an hour."""
    db.execute("UPDATE people SET password_hash = ?", (NOBODY,))
    db.execute("DELETE FROM tokens")
    db.execute("DELETE FROM api_tokens")
    db.execute("DELETE FROM second_factors")


def _is_of_a_study(name: str) -> bool:
    return is_written_once(name, below=1)


def _inbox_apps(stage: Path) -> Iterator[str]:
    for file in sorted((stage / "inbox").glob("*.sqlite")):
        with closing(sqlite3.connect(file)) as db:
            yield from (f"inbox-{value}" for (value,) in db.execute("SELECT value FROM facts WHERE key = 'inbox_id'"))
