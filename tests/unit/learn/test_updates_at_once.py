"""Updates that arrive at the same time: they count together, once each, for one write of the journal; and none harms another."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.unit.learn.test_coordinator import Hub

from wardround.errors import StorageFull
from wardround.learn.blobs import FolderBlobs, MemoryBlobs
from wardround.records import EdgeId

OVER_SELECTED = """
name = "s"
task = "activity"
[rounds]
count = 5
edges_min = 2
edges_max = 2
over_selection = 2.0
deadline_s = 10.0
examples_min = 1
"""
WAIT_S = 10.0


def until(true):
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


def sent(hub, edge):
    """An upload whose bytes are at the hub."""
    _, done = hub.made(edge)
    upload = hub.announce(edge, done.data, examples=done.examples)
    hub.coordinator.append(EdgeId(edge), upload, 0, done.data)
    return EdgeId(edge), upload


def together(hub, *uploads):
    """The answers (or the errors) of uploads that have all been checked before the first one counts."""

    def answer(upload):
        try:
            return hub.coordinator.finish(*upload)
        except StorageFull as error:
            return error

    gate, synced, sync = threading.Event(), [], hub.blobs.sync

    def sync_and_wait(partial):
        sync(partial)
        synced.append(partial)
        gate.wait(WAIT_S)

    hub.blobs.sync = sync_and_wait
    try:
        with ThreadPoolExecutor(len(uploads)) as pool:
            answers = [pool.submit(answer, upload) for upload in uploads]
            until(lambda: len(synced) == len(uploads))
            with hub.coordinator._lock:
                gate.set()
                until(lambda: len(hub.coordinator._arrivals._arrived) == len(uploads))
            return [future.result(WAIT_S) for future in answers]
    finally:
        hub.blobs.sync = sync


@pytest.fixture(params=["memory", "folder"])
def make_hub(request, tmp_path):
    def make(*edges, text=""):
        hub = Hub(None if request.param == "memory" else tmp_path, text=text)
        hub.attach(*edges)
        hub.round(*edges)  # the statistics
        return hub

    return make


def test_updates_that_arrive_together_are_one_write_of_the_journal(make_hub):
    hub = make_hub("a", "b", "c", "d")
    statements = []
    hub.coordinator._journal._db.set_trace_callback(statements.append)
    answers = together(hub, *(sent(hub, edge) for edge in "abcd"))
    assert [answer.accepted for answer in answers] == [True] * 4
    with_rows = [s for s in statements if s.startswith("INSERT OR IGNORE INTO accepted")]
    before_commit = statements[: next(i for i, s in enumerate(statements) if "INTO committed" in s)]
    assert len(with_rows) == 4
    assert before_commit.count("COMMIT") == 1
    assert set(hub.coordinator.committed()[-1].folded) == {"a", "b", "c", "d"}


def test_of_more_than_are_wanted_the_rest_is_late_and_not_recorded(make_hub):
    hub = make_hub("a", "b", "c", "d", text=OVER_SELECTED)
    answers = together(hub, *(sent(hub, edge) for edge in "abcd"))
    assert sorted((answer.accepted, answer.reason) for answer in answers) == [(False, "late")] * 2 + [(True, "")] * 2
    done = hub.coordinator.committed()[-1]
    assert set(hub.coordinator._journal.accepted(1)) == set(done.folded)
    assert len(done.folded) == 2


def test_one_update_that_is_sent_twice_at_once_counts_once(make_hub):
    hub = make_hub("a", "b")
    upload = sent(hub, "a")
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: hub.coordinator.finish(*upload), range(2)))
    assert [answer.accepted for answer in answers] == [True, True]
    assert set(hub.coordinator._journal.accepted(1)) == {"a"}
    assert hub.kinds().count("accepted") == 3  # two of the statistics


def test_when_the_disk_refuses_each_edge_hears_it_and_may_try_again(make_hub):
    hub = make_hub("a", "b")
    name = hub.blobs.name

    def refuse(_files):
        raise StorageFull("the disk is full")

    hub.blobs.name = refuse
    uploads = [sent(hub, edge) for edge in "ab"]
    assert [str(answer) for answer in together(hub, *uploads)] == ["the disk is full"] * 2
    assert hub.coordinator._journal.accepted(1) == {}
    hub.blobs.name = name
    assert [hub.coordinator.finish(*upload).accepted for upload in uploads] == [True, True]


def test_an_update_is_synced_before_it_has_its_name_and_named_before_it_is_recorded(make_hub):
    hub = make_hub("a", "b")
    order = []
    sync, name, accept = hub.blobs.sync, hub.blobs.name, hub.coordinator._journal.accept
    hub.blobs.sync = lambda partial: (order.append("sync"), sync(partial))
    hub.blobs.name = lambda files: (order.append("name"), name(files))
    hub.coordinator._journal.accept = lambda *given: (order.append("record"), accept(*given))
    hub.coordinator._on_event = lambda event: order.append(event.kind)
    assert hub.coordinator.finish(*sent(hub, "a")).accepted
    assert order == ["sync", "name", "record", "accepted"]


def test_an_upload_that_begins_anew_waits_for_the_same_edges_older_call(tmp_path):
    """A call that broke off may still run in its thread: the next one must not take the bytes away that it is about to count."""
    hub = Hub(tmp_path)
    hub.attach("a", "b")
    hub.round("a", "b")
    edge, upload = sent(hub, "a")
    checked, gate, sync = threading.Event(), threading.Event(), hub.blobs.sync

    def slow(partial):
        checked.set()
        gate.wait(WAIT_S)
        sync(partial)

    hub.blobs.sync = slow
    with ThreadPoolExecutor(2) as pool:
        older = pool.submit(hub.coordinator.finish, edge, upload)
        checked.wait(WAIT_S)
        newer = pool.submit(hub.coordinator.begin, edge, upload, 0)
        time.sleep(0.05)
        begun_too_soon = newer.done()
        gate.set()
        assert older.result(WAIT_S).accepted
        newer.result(WAIT_S)
    assert not begun_too_soon
    assert hub.blobs.size("updates/1/a.safetensors") == upload.size


@pytest.mark.parametrize("blobs", [FolderBlobs, MemoryBlobs])
def test_files_that_were_synced_have_their_names_together(tmp_path, blobs):
    held = blobs(tmp_path) if blobs is FolderBlobs else blobs()
    for name in "ab":
        held.append(f"partial/1/{name}", 0, name.encode())
        held.sync(f"partial/1/{name}")
    held.name({"partial/1/a": "updates/1/a", "partial/1/b": "updates/2/b"})
    assert (held.read("updates/1/a"), held.read("updates/2/b"), held.size("partial/1/a")) == (b"a", b"b", 0)


def test_memory_loses_what_was_named_without_a_sync():
    held = MemoryBlobs()
    held.append("partial/a", 0, b"one")
    held.sync("partial/a")
    held.append("partial/a", 3, b"two")
    held.name({"partial/a": "updates/a"})
    assert held.read("updates/a") == b"one"
