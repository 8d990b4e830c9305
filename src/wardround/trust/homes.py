"""A home is its owner's alone: what patients' devices measured, who may sign in and how lies in files below it, of which most say
nothing of who may read them."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path


def make_private(home: Path) -> None:
    """Make a home, or shut an empty folder for others; one that has something in it was somebody's choice and stays."""
    try:
        home.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        if home.is_dir() and not any(home.iterdir()):
            with contextlib.suppress(PermissionError):  # another's folder, such as a volume's: it is theirs to shut
                home.chmod(0o700)


def open_to(home: Path) -> int:
    """What everybody on this machine may do in a home: bits of its mode; 0: nothing. A group's are its owner's choice."""
    return home.stat().st_mode & stat.S_IRWXO
