"""The hub's threads when the call that began them is gone: what one of them still does comes before what the edge does next.

The study here is made up, and stands still where a busy machine may: between two steps of one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading

from wardround.learn.frames import frame
from wardround.learn.grpc_hub import HubLink
from wardround.learn.messages import UploadReceipt
from wardround.wire import wardround_pb2 as pb

DATA = b"an update"
HEAD = pb.UpdateHead(study="s", round=1, task="train", size=len(DATA), sha256=hashlib.sha256(DATA).hexdigest(), examples=5)
LONG_S = 30


class Study:
    """Takes edges and uploads, as a coordinator does. Its first `stop_in` waits until `go_on`: `begin` and `finish` before they
    do anything, the others when they have. A second `begin` waits until the upload before it is finished: the worst moment."""

    name, due = "s", False

    def __init__(self, stop_in):
        self.said, self.bytes, self.counts = [], b"", False
        self.stopped, self.go_on, self.is_lost = threading.Event(), threading.Event(), threading.Event()
        self._finished = threading.Event()
        self._stop_in = stop_in

    def _end(self, what):
        if what == self._stop_in and not self.stopped.is_set():
            self.stopped.set()
            assert self.go_on.wait(LONG_S)
        self.said.append(what)

    def attach(self, _edge):
        self._end("attach")

    def lose(self, _edge):
        self._end("lose")
        self.is_lost.set()

    def position(self, _edge, _upload):
        return len(self.bytes), self.counts

    def begin(self, _edge, _upload, offset=-1):
        again = "begin" in self.said
        self._end("begin")
        self.bytes = b"" if offset == 0 else self.bytes
        if again and offset == 0:
            self.go_on.set()
            self._finished.wait(LONG_S)

    def append(self, _edge, _upload, offset, data):
        if offset == len(self.bytes):
            self.bytes += data
        self._end("append")
        return len(self.bytes)

    def finish(self, _edge, upload):
        self._end("finish")
        self.counts = self.counts or len(self.bytes) == upload.size
        self.said.append("counts" if self.counts else "truncated")
        self._finished.set()
        return UploadReceipt(accepted=self.counts, reason="" if self.counts else "truncated")


def link_to(study):
    return HubLink(
        studies=lambda: {"s": study},
        peer_name=lambda _context: "icu-a",
        peer_certificate=lambda _context: b"",
        on_attached=lambda _edge, _version: None,
        on_beat=lambda _edge, _beat: None,
        on_lost=lambda _edge: None,
        sign=lambda _manifest: None,
    )


def run(work):
    return asyncio.run(asyncio.wait_for(work, 2 * LONG_S))


async def whole():
    yield frame(HEAD, DATA)


async def in_parts():
    yield frame(HEAD, DATA[:4])
    yield DATA[4:]


async def hello_and_silence():
    yield pb.EdgeMessage(hello=pb.Hello(software_version="test"))
    await asyncio.Event().wait()


def test_an_edge_whose_stream_ends_while_it_is_attached_is_lost_last():
    async def play():
        study = Study("attach")
        link = link_to(study)
        stream = link.handlers()["Attach"].stream_stream(hello_and_silence(), None)
        await anext(stream)
        assert await asyncio.to_thread(study.stopped.wait, LONG_S)
        await stream.aclose()
        study.go_on.set()
        assert await asyncio.to_thread(study.is_lost.wait, LONG_S)
        await link.settled()
        return study.said

    assert run(play()) == ["attach", "lose"]


def test_a_stream_that_replaces_another_keeps_the_edge_attached():
    async def play():
        study = Study("attach")
        link = link_to(study)
        first = link.handlers()["Attach"].stream_stream(hello_and_silence(), None)
        await anext(first)
        assert await asyncio.to_thread(study.stopped.wait, LONG_S)
        await first.aclose()
        second = link.handlers()["Attach"].stream_stream(hello_and_silence(), None)
        await anext(second)
        study.go_on.set()
        await link.settled()
        attached = link.attached
        await second.aclose()
        await link.settled()
        return attached, study.said[-1], link.attached

    assert run(play()) == ({"icu-a"}, "lose", set())


def upload_that_breaks_off(stop_in, messages, again):
    """An upload whose call ends while its thread works, and what the edge does next; what the hub then has."""

    async def play():
        study = Study(stop_in)
        handlers = link_to(study).handlers()
        first = asyncio.create_task(handlers["UploadUpdate"].stream_unary(messages(), None))
        assert await asyncio.to_thread(study.stopped.wait, LONG_S)
        first.cancel()
        following = asyncio.create_task(again(handlers))
        await asyncio.wait([following], timeout=0.2)  # it cannot end yet: what must not happen has time to
        study.go_on.set()
        answer = await following
        with contextlib.suppress(asyncio.CancelledError):
            await first
        return answer, study

    return run(play())


def test_an_upload_that_broke_off_and_is_sent_anew_is_not_found_truncated():
    answer, study = upload_that_breaks_off("finish", whole, lambda h: h["UploadUpdate"].stream_unary(whole(), None))
    assert answer.accepted
    assert study.counts
    assert "truncated" not in study.said


def test_an_edge_that_asks_where_its_upload_stands_hears_what_the_call_before_comes_to():
    query = pb.UploadQuery(study="s", round=1, sha256=HEAD.sha256)
    answer, _ = upload_that_breaks_off("append", whole, lambda h: h["UploadPosition"].unary_unary(query, None))
    assert answer.accepted


def test_the_beginning_of_an_upload_that_broke_off_throws_nothing_away_later():
    answer, study = upload_that_breaks_off("begin", in_parts, lambda h: h["UploadUpdate"].stream_unary(in_parts(), None))
    assert answer.accepted
    assert study.bytes == DATA


def test_what_an_edge_says_when_it_attaches_is_no_longer_than_it_may_be():
    """Its version is a line of the log each time, and what it can train is kept."""

    async def play():
        said = []
        link = HubLink(
            studies=dict,
            peer_name=lambda _context: "icu-a",
            peer_certificate=lambda _context: b"",
            on_attached=lambda _edge, version: said.append(version),
            on_beat=lambda edge, _beat: beaten.set(),
            on_lost=lambda _edge: None,
            sign=lambda _manifest: None,
        )
        beaten = asyncio.Event()

        async def hello():
            yield pb.EdgeMessage(hello=pb.Hello(software_version="v" * 100_000, learners=["l" * 100_000] * 200))
            yield pb.EdgeMessage(heartbeat=pb.Heartbeat())
            await asyncio.Event().wait()

        stream = link.handlers()["Attach"].stream_stream(hello(), None)
        await anext(stream)
        await beaten.wait()
        await stream.aclose()
        await link.settled()
        return max(map(len, said)), max(map(len, link.abilities("icu-a")))

    assert max(run(play())) <= 100


def test_the_hub_goes_on_while_it_looks_up_what_an_edge_that_attaches_is_to_be_told():
    """That asks the records and waits for locks, under which models may be measured: the hub stood still for all edges."""

    async def play():
        begun, went_on, told = threading.Event(), threading.Event(), []

        def on_attached(_edge, _version):
            begun.set()
            told.append(went_on.wait(LONG_S))

        link = HubLink(
            studies=dict,
            peer_name=lambda _context: "icu-a",
            peer_certificate=lambda _context: b"",
            on_attached=on_attached,
            on_beat=lambda _edge, _beat: None,
            on_lost=lambda _edge: None,
            sign=lambda _manifest: None,
        )
        stream = link.handlers()["Attach"].stream_stream(hello_and_silence(), None)
        await anext(stream)
        assert await asyncio.to_thread(begun.wait, LONG_S)
        went_on.set()
        await stream.aclose()
        await link.settled()
        return told

    assert run(play()) == [True]
