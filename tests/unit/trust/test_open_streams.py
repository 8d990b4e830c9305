"""Streams that are open: who is shut out is cut off, however quiet the stream is; nobody else is, and no call that is over."""

from __future__ import annotations

import asyncio

from wardround.trust import open_streams
from wardround.trust.open_streams import OpenStreams

DEADLINE_S = 30.0


class Call:
    """A call as gRPC has it: to end one that is over would be the end of the process."""

    def __init__(self):
        self.reason, self.refused, self.late, self.over = "", [], [], False

    async def refuse(self, reason):
        (self.late if self.over else self.refused).append(reason)
        raise RuntimeError("as gRPC ends a handler")

    async def handle(self, streams, opened):
        try:
            with streams.watched(lambda: self.reason, self.refuse):
                opened.set()
                await asyncio.Event().wait()
        finally:
            self.over = True


async def opened(streams, calls):
    tasks = []
    for call in calls:
        there = asyncio.Event()
        tasks.append(asyncio.create_task(call.handle(streams, there)))
        await asyncio.wait_for(there.wait(), DEADLINE_S)
    return tasks


async def ended(task):
    await asyncio.wait([task], timeout=DEADLINE_S)
    assert task.cancelled()


def test_who_is_shut_out_is_cut_off_and_the_others_stay():
    async def run():
        streams, calls = OpenStreams(0.01), [Call() for _ in range(3)]
        tasks = await opened(streams, calls)
        calls[1].reason = "b is revoked"
        await ended(tasks[1])
        assert [call.refused for call in calls] == [[], ["b is revoked"], []]
        assert [task.done() for task in tasks] == [False, True, False]
        assert len(streams) == 2
        calls[0].reason = calls[2].reason = "revoked"
        for task in tasks:
            await ended(task)
        assert len(streams) == 0
        [late] = await opened(streams, [third := Call()])  # when all were gone it begins anew
        third.reason = "revoked"
        await ended(late)

    asyncio.run(run())


def test_a_stream_of_which_nobody_can_say_whether_it_may_go_on_ends_and_the_others_are_watched_on(capsys):
    async def run():
        streams, calls = OpenStreams(0.01), [Call() for _ in range(2)]
        tasks = await opened(streams, calls)

        def ends():
            raise OSError("the denial could not be written down")

        next(iter(streams._open)).ends = ends
        await ended(tasks[0])
        calls[1].reason = "revoked"
        await ended(tasks[1])
        assert calls[1].refused == ["revoked"]

    asyncio.run(run())
    assert "a stream could not be checked" in capsys.readouterr().out


def test_a_refusal_that_does_not_get_out_keeps_no_stream_open(monkeypatch):
    monkeypatch.setattr(open_streams, "REFUSE_S", 0.02)

    async def run():
        streams, call = OpenStreams(0.01), Call()

        async def refuse(_reason):
            await asyncio.Event().wait()

        call.refuse = refuse
        [task] = await opened(streams, [call])
        call.reason = "revoked"
        await ended(task)
        assert len(streams) == 0

    asyncio.run(run())


def test_one_task_looks_at_all_of_them_and_none_is_left():
    async def run():
        streams = OpenStreams(0.01)
        before = len(asyncio.all_tasks())
        tasks = await opened(streams, [Call() for _ in range(50)])
        assert len(asyncio.all_tasks()) == before + 50 + 1
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=DEADLINE_S)
        await asyncio.sleep(0)  # what was cancelled has its turn
        assert len(asyncio.all_tasks()) == before

    asyncio.run(run())


def test_a_call_that_ends_as_it_is_found_to_be_shut_out_is_not_refused_when_it_is_over():
    async def run():
        streams, call = OpenStreams(0.01), Call()
        [task] = await opened(streams, [call])

        def ends():
            task.cancel()  # by somebody else, a moment before it would be refused
            return "revoked"

        next(iter(streams._open)).ends = ends
        await ended(task)
        for _ in range(5):  # whatever was on its way has had its turn
            await asyncio.sleep(0)
        assert (call.refused, call.late, len(streams)) == ([], [], 0)

    asyncio.run(run())
