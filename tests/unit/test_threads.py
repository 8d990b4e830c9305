"""Work in threads whose callers are cancelled: it is waited for, however often they are."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from wardround.threads import ended, pairs, to_its_end


def test_what_it_gives_and_what_it_raises_come_to_the_caller():
    assert asyncio.run(to_its_end(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(to_its_end(divmod, 7, 0))


@pytest.mark.parametrize("fails", [False, True])
def test_a_caller_that_is_cancelled_again_and_again_leaves_when_the_thread_has_ended(fails):
    begun, go_on, said = threading.Event(), threading.Event(), []

    def work():
        begun.set()
        assert go_on.wait(50)
        said.append("the thread")
        if fails:
            raise OSError("the disk is away")

    async def play():
        caller = asyncio.create_task(to_its_end(work))
        caller.add_done_callback(lambda _task: said.append("the caller"))
        assert await asyncio.to_thread(begun.wait, 50)
        for _ in range(3):
            caller.cancel()
            await asyncio.sleep(0)
        assert not caller.done()
        go_on.set()
        await asyncio.wait([caller])
        return caller.cancelled()

    assert asyncio.run(play())
    assert said == ["the thread", "the caller"]


def test_a_task_is_waited_for_to_its_end_too():
    async def play():
        go_on, said = asyncio.Event(), []

        async def work():
            try:
                await asyncio.Event().wait()
            finally:
                await go_on.wait()
                said.append("the work")

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        waiting = asyncio.create_task(ended(task))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return said

    assert asyncio.run(play()) == ["the work"]


def test_a_dict_is_read_as_it_stands_while_the_collector_of_garbage_lets_another_thread_write():
    edges = dict.fromkeys(range(20_000), "")

    def another(phase, _info):
        if phase == "stop":
            edges[len(edges)] = ""

    gc.callbacks.append(another)
    try:
        for _ in range(20):
            assert len([edge for edge, _ in pairs(edges)]) >= 20_000
            edges["more"] = [[] for _ in range(1_000)]  # something to collect
    finally:
        gc.callbacks.remove(another)
