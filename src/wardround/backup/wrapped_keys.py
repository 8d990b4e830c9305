"""The wrapped data keys of values that are sealed at rest: copied to another place than the data, and put back.

They lie in no archive: with the key-encryption key (KEK) they would open what is in it, and of the erased as well
(docs/security.md, "Encryption at rest").
"""

from __future__ import annotations

from pathlib import Path

from wardround.backup.snapshots import copy_database
from wardround.errors import SettingsError
from wardround.trust.at_rest import KEYS

WRAPPED_KEYS = KEYS  # in a home


def check_wrapped_keys(home: Path, out: Path | None, archive: Path) -> None:
    """Whether the wrapped keys of a home may be copied there.

    Raises:
        SettingsError: there are none, the place is taken, or it is where the data go.
    """
    if out is None:
        return
    if not (home / KEYS).exists():
        raise SettingsError(f"{home} has no keys of sealed values", remedy="leave --wrapped-keys out")
    if out.exists() or not out.parent.is_dir():
        raise SettingsError(f"{out} is there already, or its folder is not", remedy="give a new file in a folder that there is")
    if out.parent.resolve() == (archive if archive.is_dir() else archive.parent).resolve():
        raise SettingsError(f"{out} would lie beside the data that the keys open", remedy="give another place, best another disk")


def copy_wrapped_keys(file: Path, to: Path) -> None:
    """A copy (0600) as the keys stand now.

    Raises:
        StorageFull: it cannot be read or written.
    """
    copy_database(file, to)
