"""The spool and the forwarder: in order, once, and what is damaged is said."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.collect.forwarder import Forwarder
from wardround.collect.inbox import Inbox
from wardround.collect.intake import ForwardReceipt
from wardround.collect.spool import DeviceMark, Spool
from wardround.collect.storage import FolderStorage, MemoryStorage
from wardround.settings import SpoolSettings


@pytest.fixture(params=["memory", "folder"])
def storage(request, tmp_path):
    return MemoryStorage() if request.param == "memory" else FolderStorage(tmp_path)


def test_what_is_committed_is_there_after_a_restart_in_order(storage):
    spool = Spool(storage, SpoolSettings(disk_reserve_bytes=0))
    spool.commit([b"a", b"b"], [DeviceMark("d", "x", 2)])
    boot = spool.boot
    spool.close()
    again = Spool(storage, SpoolSettings(disk_reserve_bytes=0))
    assert again.boot == boot
    assert [(r.seq, r.data) for r in again.read_after(0)] == [(1, b"a"), (2, b"b")]
    assert again.mark("d", "x") == DeviceMark("d", "x", 2)
    again.acknowledge(1)
    assert [r.seq for r in again.read_after(0)] == [2]
    again.commit([b"c"], [])
    assert [r.seq for r in again.read_after(0)] == [2, 3]  # a number is never used again


def test_an_acknowledgement_beyond_what_was_sent_is_our_own_mistake(storage):
    spool = Spool(storage, SpoolSettings(disk_reserve_bytes=0))
    with pytest.raises(ValueError, match="acknowledged 5"):
        spool.acknowledge(5)


def test_a_damaged_row_is_a_gap_with_its_reason_and_the_rest_goes_on():
    storage = MemoryStorage()
    spool = Spool(storage, SpoolSettings())
    spool.commit([b"one", b"two", b"three"], [])
    storage.connect("spool").execute("UPDATE waiting SET data = X'00' WHERE seq = 2")
    forwarder = Forwarder(spool, lambda: (0, []))
    first = forwarder.next_batch()
    second = forwarder.next_batch()
    assert first.observations == (b"one",)
    assert second.observations == (b"three",)
    assert [(g.first_seq, g.last_seq, g.reason) for g in second.gaps] == [(2, 2, "corrupt")]


def test_after_a_new_connection_everything_unacknowledged_is_sent_again():
    spool = Spool(MemoryStorage(), SpoolSettings())
    spool.commit([b"one", b"two"], [])
    forwarder = Forwarder(spool, lambda: (0, []))
    assert forwarder.next_batch().observations == (b"one", b"two")
    assert forwarder.next_batch() is None
    forwarder.reset()
    assert forwarder.next_batch().observations == (b"one", b"two")
    forwarder.receipted(ForwardReceipt(spool.boot, 2))
    forwarder.receipted(ForwardReceipt("another life", 99))  # says nothing about this one
    assert spool.facts().observations == 0


@settings(max_examples=100, deadline=None)
@given(st.permutations(range(1, 30)))
def test_a_mark_is_what_has_come_without_a_hole(order):
    mark, had = DeviceMark("d", "b"), set()
    for seq in order:
        mark = mark.with_seq(seq)
        had.add(seq)
        hole = next(n for n in range(1, 32) if n not in had)
        assert mark.contiguous == hole - 1
        assert all(mark.has(n) == (n in had) for n in range(1, 31))


def test_the_inbox_remembers_what_it_has_had_after_the_rows_are_gone():
    storage = MemoryStorage()
    inbox = Inbox(storage)
    inbox.put("e", "b", 2, [(1, b"a"), (2, b"b")], [], 0)
    inbox.retire(inbox.pending(10)[-1].number)
    assert inbox.waiting() == 0
    assert Inbox(storage).watermark("e", "b") == 2
