"""A disk that others have filled to its last byte: what the hub has is forgotten later, and nothing ends."""

from __future__ import annotations

import sqlite3

import pytest

from wardround.clock import ManualClock
from wardround.collect.forwarder import Forwarder
from wardround.collect.intake import ForwardReceipt
from wardround.collect.lanes import Priority
from wardround.collect.local_store import LocalStore
from wardround.collect.spool import DeviceMark, Spool
from wardround.collect.storage import FolderStorage
from wardround.errors import StorageFull
from wardround.settings import SpoolSettings

ROWS = [(Priority.VITAL, data) for data in (b"one", b"two", b"three")]


class FullDisk(FolderStorage):
    """Where what has `no_room` is refused, as on a disk without a free page."""

    no_room: tuple[str, ...] = ()  # how they begin

    def connect(self, name):
        storage = self

        class Connection(sqlite3.Connection):
            def execute(self, sql, *parameters):
                if sql.startswith(storage.no_room):
                    raise sqlite3.OperationalError("database or disk is full")
                return super().execute(sql, *parameters)

        path = self._folder / f"{name}.sqlite"
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Connection)


@pytest.fixture
def disk(tmp_path):
    return FullDisk(tmp_path)


@pytest.fixture
def spool(disk):
    made = Spool(disk, SpoolSettings(disk_reserve_bytes=0, ballast_bytes=0))
    made.commit(ROWS, [])
    yield made
    made.close()


def boot_of(spool):
    return next(lane.boot for lane in spool.lanes() if lane.priority is Priority.VITAL)


def test_what_cannot_be_forgotten_is_refused_by_name_and_stays(disk, spool):
    disk.no_room = ("COMMIT", "VACUUM")
    with pytest.raises(StorageFull, match="forget"):
        spool.acknowledge(boot_of(spool), 2)
    assert [row.seq for row in spool.read_after(boot_of(spool), 0)] == [1, 2, 3]
    disk.no_room = ()
    spool.commit(ROWS[:1], [DeviceMark("d", "x", 1)])  # no transaction was left open
    spool.acknowledge(boot_of(spool), 2)
    assert [row.seq for row in spool.read_after(boot_of(spool), 0)] == [3, 4]


def test_what_may_no_longer_leave_is_refused_by_name_and_stays(disk, spool):
    disk.no_room = ("COMMIT", "VACUUM")
    with pytest.raises(StorageFull, match="may no longer leave"):
        spool.drop(lambda data: data == b"two")
    disk.no_room = ()
    assert spool.drop(lambda data: data == b"two") == 1


def test_a_file_that_cannot_be_written_anew_stays_as_it_is(disk):
    spool = Spool(disk, SpoolSettings(disk_reserve_bytes=0, ballast_bytes=0, file_bytes_max=1))
    spool.commit(ROWS, [])
    disk.no_room = ("VACUUM",)
    spool.acknowledge(boot_of(spool), 3)
    assert spool.facts().observations == 0
    spool.close()


def test_a_receipt_that_the_disk_refused_is_settled_once_there_is_room_though_the_hub_says_nothing_more(disk, spool):
    clock = ManualClock()
    forwarder = Forwarder(spool, lambda: (0, []), lambda _row: True, clock=clock)
    assert forwarder.next_batch().observations == (b"one", b"two", b"three")
    disk.no_room = ("COMMIT", "VACUUM")
    forwarder.receipted(ForwardReceipt(boot_of(spool), 3, ()))  # does not raise: the link goes on
    assert forwarder.next_batch() is None
    disk.no_room = ()
    clock.advance(1.0)
    assert forwarder.next_batch() is None
    assert spool.facts().observations == 0


def test_what_a_full_disk_cannot_remove_from_the_local_store_is_refused_by_name(disk):
    local = LocalStore(disk)
    disk.no_room = ("DELETE",)
    for remove in (lambda: local.prune(1), lambda: local.forget("p-1"), lambda: local.forget("p-1", "wr:x")):
        with pytest.raises(StorageFull, match="local store's disk"):
            remove()
    disk.no_room = ()
    assert local.prune(1) == 0
    local.close()
