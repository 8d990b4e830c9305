"""A read model that pages share: built once in a while whoever asks, anew with what it is made of, at once with news."""

from __future__ import annotations

import asyncio

import pytest

from wardround.clock import ManualClock
from wardround.console import shared
from wardround.console.shared import Changes, Shared


def test_it_is_built_once_in_a_while_whoever_asks_and_anew_when_it_is_forgotten():
    clock, built = ManualClock(), []
    model = Shared(lambda: built.append(1) or len(built), clock, keep_s=1.0)
    assert [model(), model()] == [1, 1]
    clock.advance(0.9)
    assert model() == 1
    clock.advance(0.2)
    assert model() == 2
    model.forget()
    assert model() == 3


def test_it_is_built_anew_as_soon_as_what_it_is_made_of_is_another():
    clock, built, of = ManualClock(), [], [1]
    model = Shared(lambda: built.append(1) or len(built), clock, keep_s=100.0, of=lambda: of[0])
    assert [model(), model()] == [1, 1]
    of[0] = 2
    assert [model(), model()] == [2, 2]


@pytest.mark.parametrize("told", ["before", "while it waits"])
def test_news_ends_a_wait_that_would_last_for_ever(told):
    async def played():
        changes = Changes()
        waiting = asyncio.create_task(changes.wait(10**6))
        if told == "before":
            changes.tell()
        else:
            await asyncio.sleep(2 * shared.LOOK_S)
            await asyncio.to_thread(changes.tell)
        await asyncio.wait_for(waiting, 50)
        return changes

    asyncio.run(played())


def test_news_is_told_once(monkeypatch):
    monkeypatch.setattr(shared, "APART_S", 0.0)
    monkeypatch.setattr(shared, "LOOK_S", 0.001)

    async def played():
        changes = Changes()
        changes.tell()
        await asyncio.wait_for(changes.wait(10**6), 50)
        again = asyncio.create_task(changes.wait(10**6))
        await asyncio.sleep(0.02)
        assert not again.done()  # it would wait for days
        again.cancel()

    asyncio.run(played())


def test_without_news_a_wait_ends_by_itself():
    asyncio.run(asyncio.wait_for(Changes().wait(0.2), 50))
