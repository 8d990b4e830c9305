"""A backup of a home, from the first copy to the archive, and how many are kept."""

from __future__ import annotations

import re
from pathlib import Path

from wardround import __version__
from wardround.backup.archive import Manifest, write_archive
from wardround.backup.home import Gathered
from wardround.backup.keys import needles_of
from wardround.clock import Clock, utc
from wardround.errors import SettingsError

SUFFIX = ".wrb"


def check_place(home: Path, out: Path) -> None:
    """Whether an archive may be written there.

    Raises:
        SettingsError: it would lie in the home, where an erasure must find everything, or would write over a file.
    """
    if out.resolve().is_relative_to(home.resolve()):
        raise SettingsError(f"{out} is in the home itself", remedy="keep backups on another disk, and encrypt that")
    if out.exists():
        raise SettingsError(f"{out} is there already", remedy="give the backup another name")
    if not out.parent.is_dir():
        raise SettingsError(f"{out.parent} is no folder", remedy="make it, for the owner of the home alone")


def archive_name(role: str, name: str, now_us: int) -> str:
    """What a backup is called where many are kept: they sort by age."""
    return f"{role}-{name}-{utc(now_us):%Y%m%dT%H%M%SZ}{SUFFIX}"


def keep_newest(folder: Path, role: str, name: str, keep: int) -> list[str]:
    """Remove the oldest backups of one home beyond `keep`; their names. What is called otherwise is left alone."""
    ours = re.compile(rf"{role}-{re.escape(name)}-\d{{8}}T\d{{6}}Z{re.escape(SUFFIX)}")
    found = sorted(p for p in folder.iterdir() if ours.fullmatch(p.name))
    gone = found[: max(0, len(found) - keep)]
    for path in gone:
        path.unlink(missing_ok=True)
    return [path.name for path in gone]


def make(out: Path, gathered: Gathered, *, role: str, name: str, clock: Clock, **facts: object) -> Manifest:
    """Write the archive of what was gathered. `facts` are further fields of the manifest.

    Raises:
        TrustError: a file holds a key.
        StorageFull: the disk refused.
    """
    manifest = Manifest(
        role=role,
        name=name,
        software=__version__,
        made_us=clock.now_us(),
        left_out=tuple(gathered.left_out),
        lake=gathered.lake,
        inbox_number=gathered.inbox_number,
        **facts,  # type: ignore[arg-type]  # fields of the manifest
    )
    return write_archive(out, gathered.sources, manifest, needles_of(gathered.secrets))
