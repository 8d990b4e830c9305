"""The error with which a hub ends when its disk is full is words and what to do, and every other error is itself."""

from __future__ import annotations

import errno
import sqlite3

import pytest
import sqlalchemy as sa

from wardround.errors import SettingsError, StorageFull
from wardround.hub.full_disk import REMEDY, in_words
from wardround.store import open_store


def full_sqlite(tmp_path):
    """As SQLite says it, through the store."""
    store = open_store(tmp_path / "hub.sqlite")
    try:
        with store.engine.connect() as db:
            pages = db.exec_driver_sql("PRAGMA page_count").scalar()
            db.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(sa.exc.OperationalError) as refused, db.begin_nested():
                db.exec_driver_sql("INSERT INTO state VALUES ('k', zeroblob(10000000))")
            return refused.value
    finally:
        store.close()


def full_file(_tmp_path):
    error = RuntimeError("the lake")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


def said_of(error):
    with pytest.raises(Exception) as said, in_words():  # noqa: PT011 - which it is, is asked below
        raise error
    return said.value


@pytest.mark.parametrize("made", [full_sqlite, full_file])
def test_a_full_disk_is_said_in_words(made, tmp_path):
    said = said_of(made(tmp_path))
    assert isinstance(said, StorageFull)
    assert (str(said), said.remedy) == ("the hub's disk is full", REMEDY)


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.EACCES, "no"), sqlite3.OperationalError("database is locked"), SettingsError("x")]
)
def test_any_other_error_is_itself(error):
    assert said_of(error) is error
