"""A hub whose disk is full ends, and says so in words: it is started again by its unit until there is room, and loses nothing."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator

from wardround.errors import StorageFull, WardroundError

FULL = (errno.ENOSPC, errno.EDQUOT)
REMEDY = "free it: until there is room the hub cannot run; edges keep what they have, and watch their patients themselves"


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Around what a hub does.

    Raises:
        StorageFull: in the place of an error that says that the disk is full.
    """
    try:
        yield
    except WardroundError:
        raise
    except Exception as error:
        if not any(map(_is_full, _chain(error))):
            raise
        raise StorageFull("the hub's disk is full", remedy=REMEDY) from error


def _is_full(error: BaseException) -> bool:
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or "disk is full" in str(error)
    return isinstance(error, OSError) and error.errno in FULL


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__
