"""A Flower run at the hub: rounds over edges that may be late, wrong or gone."""

from __future__ import annotations

import hashlib
import io

import msgspec
import numpy as np
import pytest

from wardround.clock import ManualClock
from wardround.errors import StudyError
from wardround.flower.door import node_id
from wardround.flower.parcel import ARRAYS, METRICS, ArrayPart, Record, decode, encode
from wardround.flower.run import Asked, Batch, EdgeOrder, FlowerRun, Hello, Limits, MessageFacts
from wardround.learn import rounds
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.messages import Upload
from wardround.records import EdgeId
from wardround.simulation.toy import signed

EDGES = [EdgeId(f"edge-{i}") for i in range(4)]


def npy(value):
    out = io.BytesIO()
    np.save(out, value, allow_pickle=False)
    return out.getvalue()


def parcel(weights, examples=0):
    weights = np.asarray(weights, np.float32)
    records = [Record("arrays", ARRAYS, (ArrayPart("0", "float32", weights.shape, "numpy.ndarray", npy(weights)),))]
    return encode([*records, Record("metrics", METRICS, values={"num-examples": examples})] if examples else records)


CONTENT = parcel([0, 0, 0])
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class World:
    def __init__(self, *, quorum=2, deadline_s=60.0, blobs=None, edges=EDGES):
        self.clock = ManualClock()
        self.blobs = blobs or MemoryBlobs()
        self.sent, self.events, self.decided = [], [], []
        hello = Hello(
            op="hello",
            run="a-run",
            run_id=7,
            app="app",
            digest="d",
            run_config={"lr": 0.1},
            limits=Limits(quorum=quorum, deadline_s=deadline_s),
        )
        self.run = FlowerRun(
            hello,
            blobs=self.blobs,
            clock=self.clock,
            node_of=node_id,
            known=lambda: EDGES,
            send=lambda edge, message: self.sent.append((edge, message)),
            on_event=self.events.append,
            decided=self.decided.append,
        )
        for edge in edges:
            self.run.attach(edge)

    def push(self, batch=1, edges=EDGES, *, kind="train", taken=0, timeout_s=0.0, group="1", first=None):
        self.run.content(DIGEST, CONTENT)
        first = batch * 10 if first is None else first
        facts = [MessageFacts(f"m{first + i}", kind, group, 1_000.0, 0.0) for i in range(len(edges))]
        asked = tuple(Asked(first + i, node_id(e), DIGEST, f) for i, (e, f) in enumerate(zip(edges, facts, strict=True)))
        self.run.push(Batch("batch", batch, taken, timeout_s, asked))

    def orders(self):
        return {edge: m for edge, m in self.sent if not isinstance(m, rounds.Cancel)}

    def reply(self, edge, data=None, *, number=None, base=DIGEST):
        data = data if data is not None else parcel([1, 1, 1], 10)
        number = self.orders()[edge].round_number if number is None else number
        upload = signed(edge, Upload("a-run", number, "flower", base, len(data), hashlib.sha256(data).hexdigest(), 10))
        try:
            self.run.begin(edge, upload, 0)
            self.run.append(edge, upload, 0, data)
        except Exception:
            pass
        return self.run.finish(edge, upload)


def test_what_is_pushed_becomes_orders_and_comes_back_whole():
    world = World()
    world.push()
    orders = world.orders()
    assert set(orders) == set(EDGES)
    order = msgspec.msgpack.decode(orders[EDGES[2]].settings, type=EdgeOrder)
    assert (order.node_id, order.message.type, order.run_config) == (node_id(EDGES[2]), "train", {"lr": 0.1})
    assert orders[EDGES[0]].model == CONTENT
    for i, edge in enumerate(EDGES):
        assert not world.decided
        assert world.reply(edge, parcel([i, i, i], 10 + i)).accepted
    (decided,) = world.decided
    assert [n for n, _ in decided.replies] == [10, 11, 12, 13]
    assert not decided.failed
    assert decode(world.blobs.read(decided.replies[3][1]))[1].values == {"num-examples": 13}


def test_replies_are_given_together_or_not_at_all():
    world = World(quorum=3)
    world.push()
    world.reply(EDGES[0])
    world.run.fail(EDGES[1], 11, "ValueError: no luck")
    world.run.fail(EDGES[2], 12, "the ClientApp's process ended in the middle of a message")
    (decided,) = world.decided
    assert not decided.replies
    codes = {n: code for n, code, _ in decided.failed}
    assert codes == {10: 4, 11: 2, 12: 8, 13: 4}
    assert [e.kind for e in world.events][-1] == "abandoned"
    assert [edge for edge, m in world.sent if isinstance(m, rounds.Cancel)] == [EDGES[3]]


def test_who_is_late_is_an_error_and_the_round_goes_on():
    world = World(quorum=2, deadline_s=30)
    world.push()
    for edge in EDGES[:3]:
        world.reply(edge)
    world.clock.advance(29)
    world.run.tick()
    assert not world.decided
    world.clock.advance(2)
    world.run.tick()
    (decided,) = world.decided
    assert len(decided.replies) == 3
    assert decided.failed == ((13, 5, "no reply before the round was decided"),)
    assert world.reply(EDGES[3], number=13).reason == "round"


def test_an_apps_own_timeout_is_kept():
    world = World(quorum=1)
    world.push(timeout_s=5.0)
    world.reply(EDGES[0])
    world.clock.advance(6)
    world.run.tick()
    assert len(world.decided[0].replies) == 1


def test_a_refused_reply_is_an_error_with_its_reason():
    world = World()
    world.push()
    for edge in EDGES[:3]:
        world.reply(edge)
    receipt = world.reply(EDGES[3], parcel([np.nan, 0, 0], 10))
    assert (receipt.accepted, receipt.reason) == (False, "not-finite")
    (decided,) = world.decided
    ((number, code, words),) = decided.failed
    assert (number, code) == (13, 4)
    assert "not-finite" in words
    assert ("refused", "edge-3", "not-finite") in {(e.kind, e.edge, e.reason) for e in world.events}


def test_an_answer_to_another_message_is_refused():
    world = World()
    world.push()
    assert world.reply(EDGES[0], base="0" * 64).reason == "base"


def test_a_reply_that_another_edge_has_signed_is_refused():
    world = World()
    world.push()
    data = parcel([1, 1, 1], 10)
    upload = signed(EDGES[1], Upload("a-run", 10, "flower", DIGEST, len(data), hashlib.sha256(data).hexdigest(), 10))
    world.run.append(EDGES[0], upload, 0, data)
    assert world.run.finish(EDGES[0], upload).reason == "signature"


def test_rounds_follow_one_another():
    world = World()
    world.push(1)
    world.push(2, kind="evaluate")
    for edge in EDGES:
        world.reply(edge)
    assert {o.round_number for o in world.orders().values()} == {20, 21, 22, 23}
    assert len(world.decided) == 1


def test_a_restarted_hub_asks_nobody_who_has_delivered():
    before = World()
    before.push()
    before.reply(EDGES[0])
    before.reply(EDGES[1])
    before.blobs.crash()
    world = World(blobs=before.blobs)
    world.push()
    assert set(world.orders()) == set(EDGES[2:])
    world.reply(EDGES[2])
    world.reply(EDGES[3])
    assert len(world.decided[0].replies) == 4


def test_an_edge_that_comes_back_gets_its_order_again():
    world = World()
    world.push()
    world.run.lose(EDGES[0])
    world.sent.clear()
    world.run.attach(EDGES[0])
    assert list(world.orders()) == [EDGES[0]]


def test_an_edge_that_is_gone_holds_nobody_up():
    world = World()
    world.push()
    world.run.lose(EDGES[0])
    for edge in EDGES[1:]:
        world.reply(edge)
    assert len(world.decided[0].replies) == 3


def test_nodes_that_are_not_here_or_not_known_are_errors():
    world = World(edges=EDGES[:3])
    world.push(edges=[*EDGES, EdgeId("nobody")])
    for edge in EDGES[:3]:
        world.reply(edge)
    (decided,) = world.decided
    assert [n for n, _, _ in decided.failed] == [13, 14]


def test_too_few_known_edges_give_the_round_up():
    world = World()
    world.push(edges=[EDGES[0], EdgeId("nobody"), EdgeId("nowhere")])
    assert not world.decided[0].replies
    assert len(world.decided[0].failed) == 3


def test_a_round_waits_for_its_quorum_until_the_deadline():
    world = World(edges=[])  # the hub has just started, and its edges come back one by one
    world.push()
    assert not world.decided
    for edge in EDGES:
        world.run.attach(edge)
    assert set(world.orders()) == set(EDGES)
    world.reply(EDGES[0])
    world.clock.advance(61)
    world.run.tick()
    assert not world.decided[0].replies


def test_fewer_messages_than_the_quorum_are_refused_unless_they_follow_one():
    world = World(quorum=3)
    with pytest.raises(StudyError, match="quorum is 3"):
        world.push(1, EDGES[:2])
    world.push(1, EDGES[:3])
    world.push(2, EDGES[3:])  # a thread pool of Flower's older server sends a round in pieces
    for edge in EDGES[:3]:
        world.reply(edge)
    world.reply(EDGES[3])
    assert [len(d.replies) for d in world.decided] == [3, 1]


def test_what_is_not_folded_needs_no_quorum():
    world = World(quorum=3)
    world.push(1, EDGES[:1], kind="get_parameters")
    world.reply(EDGES[0])
    assert len(world.decided[0].replies) == 1


def test_two_messages_to_one_edge_are_not_one_round():
    world = World()
    with pytest.raises(StudyError, match="one edge"):
        world.push(1, [EDGES[0], EDGES[0], EDGES[1]])


def test_what_has_been_taken_is_not_kept():
    world = World()
    world.push(1)
    for edge in EDGES:
        world.reply(edge)
    world.push(2, taken=1, kind="evaluate")
    world.reply(EDGES[0])
    assert world.blobs.size("replies/10/edge-0") == 0
    assert world.blobs.size(f"contents/{DIGEST}") > 0


def test_an_edge_that_missed_its_receipt_learns_that_its_reply_counts_after_the_app_has_taken_it():
    """The next order can be there before the receipt: the edge asks then, before what it keeps moves on."""
    world = World()
    world.push()
    for edge in EDGES:
        world.reply(edge)
    world.push(batch=2, taken=1)
    assert all(world.run.position(edge, upload_of(10 + i))[1] for i, edge in enumerate(EDGES))
    world.reply(EDGES[0])
    for i, edge in enumerate(EDGES[1:], 21):
        world.run.fail(edge, i, "no luck")
    world.push(batch=3, taken=2)
    assert world.run.position(EDGES[0], upload_of(20))[1]
    assert not world.run.position(EDGES[0], upload_of(10))[1]  # a later one counts: nobody asks for that any more
    assert world.run.position(EDGES[1], upload_of(11))[1]


def test_an_edge_that_missed_its_receipt_as_the_hub_died_learns_that_its_reply_counts():
    before = World()
    before.push()
    before.reply(EDGES[0])
    after = World(blobs=before.blobs)
    after.push()
    for edge in EDGES[1:]:
        after.reply(edge)
    after.push(batch=2, taken=1)
    assert after.run.position(EDGES[0], upload_of(10))[1]


def upload_of(number):
    return Upload("a-run", number, "flower", DIGEST, 0, "0" * 64, 10)


def test_the_end_tells_those_at_work():
    world = World()
    world.push()
    world.reply(EDGES[0])
    world.run.end()
    assert sorted(edge for edge, m in world.sent if isinstance(m, rounds.Cancel)) == EDGES[1:]


def test_an_upload_goes_on_where_it_stopped():
    world = World()
    world.push()
    data = parcel([1, 1, 1], 10)
    upload = signed(EDGES[0], Upload("a-run", 10, "flower", DIGEST, len(data), hashlib.sha256(data).hexdigest(), 10))
    world.run.begin(EDGES[0], upload, 0)
    world.run.append(EDGES[0], upload, 0, data[:50])
    assert world.run.position(EDGES[0], upload) == (50, False)
    world.run.append(EDGES[0], upload, 50, data[50:])
    assert world.run.finish(EDGES[0], upload).accepted
    assert world.run.position(EDGES[0], upload) == (len(data), True)
    assert world.run.finish(EDGES[0], upload).accepted
    assert sum(e.kind == "accepted" for e in world.events) == 1


def test_an_edge_that_is_suddenly_far_off_is_set_aside_when_the_round_is_decided():
    world = World(quorum=3)
    for batch in range(1, 5):
        world.push(batch, taken=batch - 1, group=str(batch))
        for edge in EDGES[:3]:
            assert world.reply(edge).accepted
        assert world.reply(EDGES[3], parcel([500, 500, 500] if batch == 4 else [1, 1, 1], 10)).accepted
    assert [len(d.replies) for d in world.decided] == [4, 4, 4, 3]
    ((number, code, words),) = world.decided[3].failed
    assert (number, code) == (43, 4)
    assert words.startswith("refused: norm")
    assert ("refused", "edge-3", "norm") in {(e.kind, e.edge, e.reason) for e in world.events}
