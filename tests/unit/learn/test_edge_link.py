"""An edge's stream to the hub, when work is dropped while it says something: gRPC cancels a call whose write is cancelled.

The call here is made up, and does as grpc.aio does: the moment lasts microseconds on a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

import grpc
import pytest

from wardround.learn import grpc_edge
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.condition import Condition
from wardround.learn.grpc_edge import EdgeLink
from wardround.learn.grpc_wire import Beat
from wardround.learn.messages import Done, MaskStep
from wardround.learn.participant import Participant
from wardround.learn.trainer import TrainingFailed
from wardround.wire import wardround_pb2 as pb


class Call:
    """A stream. Its writes of a failure wait until `go_on`."""

    def __init__(self):
        self.incoming, self.said, self.writing, self.go_on = asyncio.Queue(), [], asyncio.Event(), asyncio.Event()
        self.intervals_s = []  # as its heartbeats said
        self.ended, self.taken, self.heard = asyncio.Event(), asyncio.Semaphore(0), asyncio.Event()

    async def write(self, message):
        try:
            if message.WhichOneof("kind") == "failed":
                self.writing.set()
                await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        self.said.append(message.WhichOneof("kind"))
        if self.said[-1] == "heartbeat":
            self.intervals_s.append(message.heartbeat.interval_s)
        self.heard.set()

    async def read(self):
        reading, ended = asyncio.ensure_future(self.incoming.get()), asyncio.ensure_future(self.ended.wait())
        await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, ended):
            if not task.done():
                task.cancel()
        if self.ended.is_set():
            raise asyncio.CancelledError
        self.taken.release()
        return reading.result()

    def cancel(self):
        self.ended.set()


class Channel:
    """Gives one call after the other."""

    def __init__(self):
        self.calls, self.opened = [], asyncio.Queue()

    def stream_stream(self, *_what, **_how):
        def begin():
            self.calls.append(Call())
            self.opened.put_nowait(self.calls[-1])
            return self.calls[-1]

        return begin


class HubAnswers(Channel):
    """A hub to which every update counts; `here` is released with each upload, its receipt waits for `receipts`."""

    def __init__(self):
        super().__init__()
        self.here, self.receipts = asyncio.Semaphore(0), asyncio.Semaphore(0)

    def unary_unary(self, *_what, **_how):
        async def position(_query, **_how):
            return pb.UploadOffset(accepted=True)

        return position

    def stream_unary(self, *_what, **_how):
        hub = self

        class Upload:
            async def write(self, _data): ...

            async def done_writing(self): ...

            def __await__(self):
                hub.here.release()
                yield from hub.receipts.acquire().__await__()
                return pb.UpdateReceipt(accepted=True)

        return Upload


class StallingBlobs(MemoryBlobs):
    """A disk that stands still once: while the first state that an edge keeps is written."""

    def __init__(self):
        super().__init__()
        self.stalled, self.go_on, self.went_on = threading.Event(), threading.Event(), threading.Event()
        self.thread = 0

    def write(self, name, data):
        super().write(name, data)
        if name == "s.kept.safetensors" and not self.stalled.is_set():
            self.thread = threading.get_ident()
            self.stalled.set()
            assert self.go_on.wait(30)

    def delete(self, prefix):
        super().delete(prefix)
        if threading.get_ident() == self.thread:
            self.went_on.set()


def link(channel, participant=None, **more):
    async def train(_order, _model, _kept):
        raise TrainingFailed("no rows", remedy="none")

    async def fetch(_order):
        return b"model"

    return EdgeLink(
        channel=channel,
        participant=participant or Participant(MemoryBlobs()),
        train=train,
        beat=lambda: Beat(50, 0, 0, ""),
        heartbeat_s=60.0,
        version="test",
        fetch=fetch,
        condition=lambda _at_work: Condition(
            charging=True, battery=None, network="wired", signal_dbm=None, metered=False, load=0.0
        ),
        sign=lambda _announcement: b"",
        **more,
    )


ORDER = pb.HubMessage(order=pb.Order(study="s", round=1, task="train", base_model="b" * 64, deadline_s=20.0))
CANCEL = pb.HubMessage(cancel=pb.Cancel(study="s", round=1))


def test_work_that_is_dropped_while_it_says_that_it_failed_leaves_the_stream_open():
    async def play():
        channel = Channel()
        running = asyncio.ensure_future(link(channel).run())
        call = await asyncio.wait_for(channel.opened.get(), 50)
        call.incoming.put_nowait(ORDER)
        await asyncio.wait_for(call.writing.wait(), 50)
        call.incoming.put_nowait(CANCEL)
        await asyncio.wait_for(call.taken.acquire(), 50)  # of the order
        await asyncio.wait_for(call.taken.acquire(), 50)  # of the cancellation
        for _ in range(20):  # turns of the loop: the drop is under way
            await asyncio.sleep(0)
        call.go_on.set()
        call.incoming.put_nowait(grpc.aio.EOF)
        again = await asyncio.wait_for(channel.opened.get(), 50)
        assert "failed" in call.said
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return again

    assert asyncio.run(play()).said == ["hello"]


def test_a_stream_that_ends_on_this_side_is_opened_again(monkeypatch):
    monkeypatch.setattr(grpc_edge, "RETRY_S_MIN", 0.01)

    async def play():
        channel = Channel()
        running = asyncio.ensure_future(link(channel).run())
        (await asyncio.wait_for(channel.opened.get(), 50)).cancel()
        await asyncio.wait_for(channel.opened.get(), 50)
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(play())


def test_what_several_parts_of_an_edge_say_at_once_is_written_one_after_the_other():
    """gRPC ends a stream on which a write begins while another is under way (INTERNAL, "Internal error from Core")."""
    under_way, said = 0, []

    class Strict(Call):
        async def write(self, message):
            nonlocal under_way
            under_way += 1
            assert under_way == 1
            await asyncio.sleep(0)
            said.append(message)
            under_way -= 1

    async def play():
        stream = grpc_edge._Stream(Strict())
        await asyncio.gather(*(stream.write(pb.EdgeMessage(failed=pb.TrainingFailed(round=i))) for i in range(20)))

    asyncio.run(play())
    assert [m.failed.round for m in said] == list(range(20))


def test_a_disk_that_stands_still_while_the_next_order_comes_loses_nothing_of_what_the_edge_keeps():
    """The hub has the update and goes on, while the edge still writes what follows from it. That thread cannot be cancelled: it
    would end beside the next round, and take away what was kept of that."""
    blobs = StallingBlobs()
    participant, trained = Participant(blobs), []

    async def play():
        channel = HubAnswers()
        own = link(channel, participant)

        async def train(order, _model, kept):
            trained.append(kept)
            return Done(b"update", 5, kept=kept + bytes([order.round_number]))

        own._train = train
        running = asyncio.ensure_future(own.run())
        call = await asyncio.wait_for(channel.opened.get(), 50)
        for number in (1, 2, 3):
            order = pb.Order(study="s", round=number, task="train", base_model="b" * 64, deadline_s=20.0)
            call.incoming.put_nowait(pb.HubMessage(order=order))
            if number == 2:
                with contextlib.suppress(TimeoutError):  # it does not come while the first round's thread is at work
                    await asyncio.wait_for(channel.here.acquire(), 1)
                    channel.here.release()
                blobs.go_on.set()
                assert await asyncio.to_thread(blobs.went_on.wait, 50)
            await asyncio.wait_for(channel.here.acquire(), 50)
            channel.receipts.release()
            assert await asyncio.to_thread(blobs.stalled.wait, 50)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())
    assert trained == [b"", b"\1", b"\1\2"]


class Masks:
    """Has keys, and waits for the others' shares."""

    def begin(self, order):
        return MaskStep(order.study, order.round_number, order.attempt, b"keys")

    def can_mask(self, _order):
        return False


def test_keys_that_were_lost_with_a_stream_are_said_again_when_the_order_comes_again():
    """Else the round waits for them until its step is over, and leaves the edge out."""

    async def play():
        channel = Channel()
        own = link(channel)
        own._masks = Masks()

        async def train(_order, _model, _kept):
            return Done(b"update", 5)

        own._train = train
        running = asyncio.ensure_future(own.run())
        order = pb.Order(study="s", round=1, task="train", base_model="b" * 64, deadline_s=60.0, masks=b"session")
        said = []
        for _ in range(2):
            call = await asyncio.wait_for(channel.opened.get(), 50)
            call.incoming.put_nowait(pb.HubMessage(order=order))
            while "masks" not in call.said:
                call.heard.clear()
                await asyncio.wait_for(call.heard.wait(), 50)
            said.append("masks" in call.said)
            call.incoming.put_nowait(grpc.aio.EOF)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return said

    assert asyncio.run(asyncio.wait_for(play(), 55)) == [True, True]


def test_everything_that_a_hub_says_beside_rounds_reaches_the_edge():
    """Every kind of message is either of rounds, models, masks and heartbeats, or is answered beside them: none is dropped."""
    of_rounds = {"order", "cancel", "release", "notice", "masks", "denied", "heartbeat_interval"}
    kinds = [f.name for f in pb.HubMessage.DESCRIPTOR.oneofs_by_name["kind"].fields if f.name not in of_rounds]
    heard = []

    async def play():
        channel, all_heard, loop = Channel(), asyncio.Event(), asyncio.get_running_loop()

        def hear(message):
            heard.append(message.WhichOneof("kind"))
            if len(heard) == len(kinds):
                loop.call_soon_threadsafe(all_heard.set)

        running = asyncio.ensure_future(link(channel, on_other=hear).run())
        call = await asyncio.wait_for(channel.opened.get(), 60)
        for kind in kinds:
            message = pb.HubMessage()
            getattr(message, kind).SetInParent()
            call.incoming.put_nowait(message)
        await asyncio.wait_for(all_heard.wait(), 60)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())
    assert heard == kinds


def test_an_edge_reports_as_often_as_the_hub_wants_on_this_stream_and_on_the_next():
    async def play():
        channel = Channel()
        own = link(channel)
        own._heartbeat_s = 0.5
        running = asyncio.ensure_future(own.run())
        for _ in range(2):
            call = await asyncio.wait_for(channel.opened.get(), 50)
            call.incoming.put_nowait(pb.HubMessage(heartbeat_interval=pb.HeartbeatInterval(seconds=0.1)))
            while call.intervals_s[-2:] != [0.1, 0.1]:
                call.heard.clear()
                await asyncio.wait_for(call.heard.wait(), 50)
            call.incoming.put_nowait(grpc.aio.EOF)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(play(), 55))


def test_what_a_hub_asks_on_the_next_stream_waits_for_what_is_still_done_of_the_one_before():
    begun, second, go_on, at_work = threading.Event(), threading.Event(), threading.Event(), []

    def hear(_message):
        at_work.append("begins")
        (second if begun.is_set() else begun).set()
        assert go_on.wait(50)
        at_work.append("ends")

    async def play():
        channel = Channel()
        running = asyncio.ensure_future(link(channel, on_other=hear).run())
        call = await asyncio.wait_for(channel.opened.get(), 50)
        call.incoming.put_nowait(pb.HubMessage(erasure=pb.Erasure(number=1)))
        assert await asyncio.to_thread(begun.wait, 50)
        call.incoming.put_nowait(grpc.aio.EOF)
        call = await asyncio.wait_for(channel.opened.get(), 50)
        call.incoming.put_nowait(pb.HubMessage(erasure=pb.Erasure(number=1)))
        await asyncio.wait_for(call.taken.acquire(), 50)
        await asyncio.to_thread(second.wait, 0.3)  # it cannot begin yet: what must not happen has time to
        go_on.set()
        assert await asyncio.to_thread(second.wait, 50)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(play())
    assert at_work[:3] == ["begins", "ends", "begins"]
