"""What an enrolled edge may send to harm the hub: numbers that no file holds, more gaps than rows, rows that are none."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from wardround.clock import ManualClock
from wardround.collect import intake as intake_module
from wardround.collect.grpc_link import collect_handlers
from wardround.collect.inbox import Gap, Inbox
from wardround.collect.intake import Committer, Intake
from wardround.collect.storage import MemoryStorage
from wardround.errors import CollectError
from wardround.process.tables import observation_rows
from wardround.records import Consent, Observation, encode_observation
from wardround.trust.consent import ConsentRegister
from wardround.wire import wardround_pb2 as pb

TOO_FAR = 2**63


class Hub:
    """Intake, inbox, committer, and a lake of lists."""

    def __init__(self):
        self.inbox, self.refused, self.rows, self.version = Inbox(MemoryStorage()), [], [], -1
        self.intake = Intake(
            inbox=self.inbox,
            consent=lambda *_: Consent.RAW,
            clock=ManualClock(),
            on_refused=lambda edge, reason, detail: self.refused.append((edge, reason, detail)),
            on_committed=lambda _taken: None,
        )
        self._committer = Committer(
            inbox=self.inbox, lake_version=lambda _app: self.version, lake_append=self._append, rows_max=1_000
        )

    def _append(self, batches, _app, version):
        self.rows += observation_rows(row for batch in batches for row in batch.observations()).to_pylist()
        self.version = version

    def send(self, first_seq, rows, gaps=(), *, edge="e", boot="b"):
        return self.intake.receive(edge, boot, first_seq, rows, gaps)

    def in_the_lake(self):
        while self._committer.run_once():
            pass
        return [row["edge_seq"] for row in self.rows]


def encoded(*seqs, edge="e"):
    return [
        encode_observation(
            Observation(subject="s", device="d", edge=edge, code="wr:x", unit="1", t0_us=seq, t0_device_us=0, value=1.0)
        )
        for seq in seqs
    ]


def test_what_an_edge_counts_beyond_all_numbers_puts_nothing_twice_into_the_lake():
    """A transaction was left open, the next edge's was refused for it, and with it what had gone into the lake came back."""
    hub = Hub()
    hub.send(1, encoded(1, 2, 3))
    with pytest.raises(CollectError, match="counted"):
        hub.send(4, [], [Gap(4, TOO_FAR, "missing")])
    assert hub.in_the_lake() == [1, 2, 3]
    hub.send(4, encoded(4, 5))
    assert hub.in_the_lake() == [1, 2, 3, 4, 5]


def test_a_batch_that_the_inbox_cannot_hold_leaves_no_transaction_open():
    hub = Hub()
    hub.send(1, encoded(1, 2, 3))
    with pytest.raises(OverflowError):
        hub.inbox.put("e", "b", 4, [], [Gap(4, TOO_FAR, "missing")], after=3, upto=TOO_FAR)
    assert hub.in_the_lake() == [1, 2, 3]
    assert hub.inbox.put("other", "b", 1, encoded(1, edge="other"), after=0, upto=1)
    assert hub.inbox.waiting() == 1


@pytest.mark.parametrize(
    ("first_seq", "rows", "gaps", "boot"),
    [
        (TOO_FAR, 1, [], "b"),
        (1, 0, [Gap(TOO_FAR + 1, TOO_FAR + 2, "x")], "b"),
        (1, intake_module.ROWS_MAX + 1, [], "b"),
        (1, 0, [Gap(1, 1, "x")] * (intake_module.GAPS_MAX + 1), "b"),
        (1, 0, [Gap(1, 1, "x")], "b" * 1_000),
    ],
    ids=["a sequence", "a gap", "rows", "gaps", "a boot"],
)
def test_no_batch_of_an_edge_is_refused_as_a_whole(first_seq, rows, gaps, boot):
    hub = Hub()
    with pytest.raises(CollectError):
        hub.send(first_seq, [b""] * rows, gaps, boot=boot)
    assert hub.inbox.gaps() == []
    assert hub.send(1, encoded(1)).committed_seq == 1


class Counted(list):
    """Gaps that say how often one was looked at."""

    looks = 0

    def __iter__(self):
        for gap in super().__iter__():
            Counted.looks += 1
            yield gap


def test_a_batch_with_a_gap_for_each_row_is_gone_through_once():
    """Every gap was looked at anew for every row: a request of half a megabyte held one of the hub's few threads for minutes."""
    n = 2_000
    hub, gaps = Hub(), Counted(Gap(2 * k, 2 * k, "missing") for k in range(1, n))
    Counted.looks = 0
    assert intake_module._new(0, 1, 2 * n, gaps)[2] == 2 * n
    assert Counted.looks <= n
    assert hub.send(1, encoded(*range(1, 2 * n)), gaps).committed_seq == 2 * n - 1
    assert hub.in_the_lake() == list(range(1, 2 * n, 2))


def test_what_is_refused_of_a_batch_is_written_down_once_for_each_reason():
    """Each row had cost two writes to the hub's disk, of which a batch may have a million."""
    hub = Hub()
    receipt = hub.send(1, [*[b"\x00"] * 500, *encoded(501), *encoded(502, edge="another"), b"\x00"])
    assert receipt.committed_seq == 503
    assert len(receipt.refusals) == 502
    assert hub.refused == [
        ("e", "not-an-observation", "sequences 1, 2, 3 and 498 more of boot b"),
        ("e", "another-edge", "sequence 502 of boot b"),
    ]
    assert hub.in_the_lake() == [501]


class Context:
    """A call that may be refused."""

    async def abort(self, code, words):
        raise RuntimeError(code, words)


@pytest.mark.parametrize(
    "request_",
    [
        pb.ForwardRequest(boot="b", first_seq=TOO_FAR, observations=[b""]),
        pb.ForwardRequest(consents=[pb.ConsentRecord(subject="s", code="*", choice="perhaps", version=1)]),
        pb.ForwardRequest(consents=[pb.ConsentRecord(subject="s", code="*", choice="raw", version=TOO_FAR)]),
        pb.ForwardRequest(consents=[pb.ConsentRecord(subject="s", code="*", choice="raw", version=1)], wishes_taken=TOO_FAR),
    ],
    ids=["a sequence", "a choice", "a version", "a wish"],
)
def test_what_cannot_be_read_is_an_answer_and_no_fault_of_the_hub(request_, tmp_path):
    register = ConsentRegister(tmp_path / "consent.sqlite")
    hub = Hub()
    handlers = collect_handlers(hub.intake, register.apply, lambda _context: "e", lambda _edge: None)

    async def requests(request):
        yield request

    async def send(request):
        stream = handlers["Forward"].stream_stream(requests(request), Context())
        return [answer.committed_seq async for answer in stream]

    with pytest.raises(RuntimeError) as refused:
        asyncio.run(send(request_))
    assert refused.value.args[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert asyncio.run(send(pb.ForwardRequest(boot="b", first_seq=1, observations=encoded(1)))) == [1]
    assert register.records() == []
    register.close()
