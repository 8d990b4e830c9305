"""What an open page reads: a slow read keeps no page waiting, one at a time, the last picture stays when a read fails."""

from __future__ import annotations

import threading
import time

from wardround.console import reading as module
from wardround.console.looking import Held
from wardround.console.reading import Reading
from wardround.errors import NotAllowed, StorageFull


def until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        threading.Event().wait(0.005)


def test_a_slow_read_keeps_no_page_waiting(monkeypatch):
    monkeypatch.setattr(module, "FIRST_S", 0.01)
    go, began, pages, held = threading.Event(), [], Reading(again_s=0.0), Held()

    def slow():
        began.append(1)
        go.wait(60)
        return "read"

    try:
        assert pages.look(held, slow).value is None
        page = pages.look(held, slow)  # the first is still on its way
        assert not page.done
        assert len(began) <= 1
    finally:
        go.set()
    until(lambda: page.done)
    assert page.value == "read"


def test_the_last_picture_stays_when_a_read_fails_and_goes_when_it_is_refused():
    pages, held, what = Reading(again_s=0.0), Held(), ["one"]

    def read():
        if isinstance(what[0], Exception):
            raise what[0]
        return what[0]

    page = pages.look(held, read)
    until(lambda: page.value == "one")
    what[0] = StorageFull("no room", remedy="make some")
    until(lambda: pages.look(held, read).failed)
    assert page.value == "one"
    what[0] = NotAllowed("no", remedy="ask")
    until(lambda: pages.look(held, read).refused is not None)
    assert page.value is None


def test_a_moment_that_has_passed_is_read_once():
    pages, held, reads = Reading(again_s=0.0), Held(), []
    for _ in range(3):
        page = pages.look(held, lambda: reads.append(1), once=True)
        until(lambda: page.done)  # noqa: B023
    assert reads == [1]
