"""An archive into an empty folder: what may have changed since it was made is not believed, and what it lacks is said.

The home is made beside its place and moved there when all of it is right. What a restored home must not do is done here:

- A hub's copies of consents are dropped. Edges send theirs when they attach; until then nothing of their subjects is used, so
  that what was withdrawn or erased after the backup is not used for a moment.
- Numbers that others remember go on beyond what they can have seen: batches of the inbox (the lake knows the last it had) and
  wishes (an edge takes each number once).
- A ledger of privacy may lack what was released after the backup, and a budget must not come back: it is closed, so that its
  study releases nothing more, unless somebody says that the hub has not run since.
- An edge's lanes are closed: new observations begin in new ones, as the hub may have had others under the same sequences. Its
  devices go on after their newest receipts (gateway.py).
"""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec

from wardround.backup.archive import Manifest, read_manifest, unpack
from wardround.backup.home import EDGE_LEDGERS
from wardround.clock import Clock
from wardround.errors import SettingsError, StorageFull
from wardround.trust.restored import RESTORED, Restored

WISHES_JUMP = 1 << 32  # more wishes than there ever were since the backup
ERASURES_JUMP = 1_000
LEDGER = "privacy.ledger"  # as learn/privacy/ledger.py has it, which refuses one that ends with such a line
CLOSED = b'{"closed": "restored from a backup: what was released since is not known"}\n'


def check_empty(home: Path) -> None:
    """Raises SettingsError: there is something at this place."""
    if home.is_symlink() or (home.exists() and (not home.is_dir() or any(home.iterdir()))):
        raise SettingsError(f"{home} is not empty", remedy="restore into a folder that is empty or not there yet")


def restore(archive: Path, home: Path, clock: Clock, then: Callable[[Path], None], *, nothing_since: bool = False) -> Manifest:
    """Make a home of an archive, whole or not at all.

    Args:
        then: what is still to be done to the home before it takes its place: gives it keys.
        nothing_since: the hub or edge has not run after the backup.

    Raises:
        SettingsError: there is something at this place.
        ArchiveBroken: the archive does not hold.
        StorageFull: the disk refused, or is too small.
    """
    check_empty(home)
    wanted = sum(item.size for item in read_manifest(archive).items)
    home.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(home.parent).free) < wanted:
        raise StorageFull(f"{home.parent} has {free} bytes free, and {wanted} are needed", remedy="restore onto another disk")
    beside = home.with_name(f".{home.name}.restoring-{secrets.token_hex(4)}")
    try:
        beside.mkdir(mode=0o700)
        manifest = unpack(archive, beside)
        if manifest.role == "hub":
            _as_hub(beside, manifest)
            if not nothing_since:
                _close_ledgers(beside, f"studies/*/{LEDGER}")
        else:
            _as_edge(beside)
            if not nothing_since:
                _close_ledgers(beside, *EDGE_LEDGERS)
        mark = Restored(
            role=manifest.role, made_us=manifest.made_us, restored_us=clock.now_us(), pseudonym_key=manifest.pseudonym_key
        )
        (beside / RESTORED).write_bytes(msgspec.json.encode(mark))
        then(beside)
        if home.exists():
            home.rmdir()
        beside.rename(home)
    except OSError as exc:
        raise StorageFull(f"{home} cannot be written: {exc}", remedy="restore onto another disk") from exc
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest


def needs(manifest: Manifest, *, authority_given: bool, nothing_since: bool = False) -> list[str]:
    """What a restored home needs before it is whole again, each with what to do."""
    found = [f"{x.name}: {x.why}. {x.do}" for x in manifest.left_out if x.do and x.name != "pki/"]
    if manifest.role == "hub" and not authority_given:
        edges = ", ".join(manifest.edges) or "none"
        found.insert(0, f"authority: a new one was made. Let every edge join again ({edges}): `wardround hub invite NAME`")
    closed = [i.name.split("/")[1] for i in manifest.items if i.name.endswith(f"/{LEDGER}")] if not nothing_since else []
    if closed:
        how = "restore with --nothing-since if the hub has not run after the backup, or start other studies"
        found.append(f"privacy budgets of {', '.join(closed)}: what they spent after the backup is not known. {how}")
    if manifest.role == "edge" and not nothing_since and any(Path(i.name).suffix == ".ledger" for i in manifest.items):
        how = "restore with --nothing-since if the edge has not run after the backup; else it trains in no study with noise"
        found.append(f"privacy ledgers: what this edge spent after the backup is not known. {how}")
    return found


def _as_hub(home: Path, manifest: Manifest) -> None:
    for file in sorted((home / "inbox").glob("*.sqlite")):
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('restored', '1')")
            _go_on(db, "batches", manifest.inbox_number)
    for name, table, jump in (("consent", "wishes", WISHES_JUMP), ("erasures", "erasures", ERASURES_JUMP)):
        if not (home / f"{name}.sqlite").exists():
            continue
        with closing(sqlite3.connect(home / f"{name}.sqlite")) as db, db:
            last = db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()[0]
            _go_on(db, table, last + jump)
    if (home / "consent.sqlite").exists():
        with closing(sqlite3.connect(home / "consent.sqlite")) as db, db:
            db.execute("DELETE FROM choices")


def _close_ledgers(home: Path, *patterns: str) -> None:
    for path in (path for pattern in patterns for path in home.glob(pattern)):
        data = path.read_bytes()
        path.write_bytes(data[: data.rfind(b"\n") + 1] + CLOSED)


def _as_edge(home: Path) -> None:
    """Also where nothing had been spooled, or a spool was only looked at: devices go on beyond the backup there as well."""
    (home / "spool").mkdir(exist_ok=True)
    with closing(sqlite3.connect(home / "spool" / "spool.sqlite")) as db, db:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'lanes'").fetchone():
            db.execute("UPDATE lanes SET live = 0")
        db.execute("CREATE TABLE IF NOT EXISTS restored (one INTEGER PRIMARY KEY)")


def _go_on(db: sqlite3.Connection, table: str, number: int) -> None:
    """The next row of a table has a higher number than this, and than any that was there."""
    last = db.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()[0]
    db.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
    db.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, max(last, number)))
