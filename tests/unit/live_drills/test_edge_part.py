"""An edge's part in a live drill: what it refuses, what it makes up, and what it never touches."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from live_drills_under_test import hub_signer
from wardround.clock import SystemClock
from wardround.drill.catalogue import FAULTS
from wardround.drill.live import NOT_LIVE, sandbox_study, training_of
from wardround.drill.synthetic import FEATURES, SyntheticWards
from wardround.errors import LearnError, StudyError
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.condition import Condition
from wardround.learn.drills import AWAY, Charter, DrillPart, SignedCharter
from wardround.learn.grpc_edge import BUSY, EdgeLink
from wardround.learn.grpc_wire import Beat
from wardround.learn.learners import make_learner
from wardround.learn.messages import Order
from wardround.learn.models import decode_model, encode_model
from wardround.learn.participant import Participant
from wardround.learn.study import decode_training, parse_study
from wardround.learn.study_checks import check
from wardround.learn.trainer import TrainingFailed, Worker
from wardround.process.transforms import TASKS
from wardround.settings import EdgeSettings
from wardround.trust.signatures import check_drill_signature

EDGES = tuple(f"icu-{i}" for i in range(6))
NAME = "drill.test-1"
NOW_US = SystemClock().now_us()
STUDY = sandbox_study(NAME, 40, 1, len(EDGES))
MODEL = encode_model(make_learner(STUDY.learner, FEATURES, 2).initial(1) | {"scale.std": np.ones(FEATURES, np.float32)})


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return hub_signer(tmp_path_factory.mktemp("pki"))


def charter(**changes) -> Charter:
    own = {"study": NAME, "seed": 1, "edges": EDGES, "struck": EDGES[:1], "fault": "sign-flip", "from_round": 10, "rounds": 40}
    return Charter(**{**own, "until_us": NOW_US + 10**9, "training": training_of(STUDY), **changes})


def order(hub, own=None, *, number=1, study=NAME, **changes) -> Order:
    data = msgspec.msgpack.encode(own or charter())
    settings = msgspec.msgpack.encode(SignedCharter(data, hub[0].sign_drill(data), hub[0].certificate))
    made = Order(study, number, 1, "train", "base", settings, 30.0, model=MODEL)
    return replace(made, **changes)


def part(hub, edge=EDGES[0], *, allowed=True):
    log = []

    def check(own):
        check_drill_signature(own.charter, own.signature, own.certificate, hub[1], now_us=NOW_US)

    made = DrillPart(edge, allowed=allowed, check=check, now_us=lambda: NOW_US, note=lambda what, **facts: log.append(what))
    return made, log


def test_an_edge_takes_part_in_drills_only_where_it_is_told_to():
    assert not EdgeSettings(name="e", hub_host="h", hub_port=1).learning.drills


def test_what_the_hub_has_signed_for_this_sandbox_and_edge_is_carried_out(hub):
    own, log = part(hub)
    assert own.abilities == ("drill",)
    assert own.why_not(order(hub)) == own.why_not(order(hub, number=2)) == ""
    assert log == ["takes part in a drill"]  # once


def test_no_fault_is_ordered_in_a_study_by_whatever_way(hub, tmp_path):
    """A real study's order with a charter, and an unsigned, changed, foreign, late or other charter: none is carried out."""
    signed, stranger = msgspec.msgpack.decode(order(hub).settings, type=SignedCharter), hub_signer(tmp_path)
    forged = msgspec.msgpack.encode(msgspec.structs.replace(signed, charter=msgspec.msgpack.encode(charter(seed=2))))
    manifest = msgspec.msgpack.encode(msgspec.structs.replace(signed, signature=hub[0].sign(signed.charter)))
    wrong = {
        "no sandbox": order(hub, study="activity"),
        "no charter": order(hub, settings=b"\x80"),
        "not signed by the hub": order(hub, settings=forged),
        "not signed": order(hub, settings=manifest),
        "": order(stranger),
        "another drill": order(hub, charter(study="drill.other")),
        "not one of": order(hub, charter(edges=EDGES[1:], struck=())),
        "is over": order(hub, charter(until_us=NOW_US - 1)),
        "no charter allows": order(hub, task="survey"),
        "cannot be read": order(hub, settings=_with_more(hub)),
    }
    for words, asked in wrong.items():
        own, log = part(hub)
        reason = own.why_not(asked)
        assert reason, words
        assert words in reason
        assert own.why_not(asked) == reason
        assert log.count("a drill's order is refused") == 1  # for whoever looks at this edge
    assert "is over" in part(hub)[0].why_not(order(hub, number=41))
    assert "no charter allows" in part(hub)[0].why_not(order(hub, model=b""))  # a drill's model is on no shelf


def _with_more(hub) -> bytes:
    data = msgspec.msgpack.encode({**msgspec.to_builtins(charter(), builtin_types=(bytes,)), "also": 1})
    return msgspec.msgpack.encode(SignedCharter(data, hub[0].sign_drill(data), hub[0].certificate))


def test_an_edge_that_was_not_told_to_refuses_and_one_of_before_drills_cannot_read_the_order(hub):
    own, _ = part(hub, allowed=False)
    assert own.abilities == ()
    assert "learning.drills" in own.why_not(order(hub))
    with pytest.raises(LearnError):
        decode_training(order(hub).settings)


def test_a_study_is_none_of_a_drills_business_and_cannot_have_a_drills_name(hub):
    own, log = part(hub)
    assert own.why_not(order(hub, study="activity", settings=training_of(STUDY))) == ""
    assert log == []
    with pytest.raises(StudyError, match="name"):
        check(parse_study(f'name = "{NAME}"\ntask = "activity"\n', where="test"), TASKS)


class Working:
    """An edge's worker, in this process."""

    worker = Worker()

    def __init__(self, hub, edge=EDGES[0]):
        self.hub, self.part = hub, part(hub, edge)[0]

    def train(self, own, number, model=MODEL):
        async def run(work):
            return self.worker.run(work)

        asked = order(self.hub, own, number=number, model=model)
        assert self.part.why_not(asked) == ""
        return asyncio.run(self.part.train(asked, asked.model, home="/nowhere", run=run))


def updates(hub, own, number, edges=EDGES):
    return {e: decode_model(Working(hub, e).train(own, number).data) for e in edges}


@pytest.mark.timeout(300)
def test_a_struck_edge_sends_what_the_rehearsals_fault_makes_and_nobody_else_does(hub):
    fine = updates(hub, charter(fault=""), 12)
    before = updates(hub, charter(), 9)
    flipped = updates(hub, charter(), 12)
    for name, tensor in fine[EDGES[0]].items():
        np.testing.assert_allclose(flipped[EDGES[0]][name], -tensor, rtol=1e-6)
    for edge in EDGES[1:]:
        assert all(np.array_equal(flipped[edge][name], t) for name, t in fine[edge].items())
    assert np.array_equal(before[EDGES[0]]["layer0.weight"], updates(hub, charter(fault=""), 9)[EDGES[0]]["layer0.weight"])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in FAULTS if name not in NOT_LIVE])
def test_every_fault_that_is_ordered_changes_what_a_struck_edge_gives(hub, name):
    own = charter(fault=name, struck=EDGES[:2], absent=float(name == "participation"), slower_s=0.01)
    working = Working(hub)
    if name == "participation":
        with pytest.raises(TrainingFailed, match=AWAY.split(":")[0]):
            working.train(own, 20)
        return
    model = encode_model({n: t + np.float32(0.01) for n, t in decode_model(MODEL).items()})
    working.train(own, 19)
    done = working.train(own, 20, model)
    fine = Working(hub).train(charter(fault="", struck=()), 20, model)
    assert (done.data != fine.data or done.rows != fine.rows) == (name != "straggler")
    if name == "sybil":
        twin = Working(hub, EDGES[1]).train(own, 20, model)
        one, two = (np.concatenate([t.ravel() for t in decode_model(d.data).values()]) for d in (done, twin))
        assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) > 0.98


def test_what_is_trained_on_is_made_up(hub, monkeypatch):
    """No function that reads an edge's data is asked for, and its home is not opened."""
    seen = []
    monkeypatch.setattr(Worker, "_examples", lambda *_: seen.append("examples"))
    done = Working(hub).train(charter(), 3)
    assert seen == []
    assert done.examples == len(SyntheticWards(1, len(EDGES)).examples(3)["edge-0001"])


def link(kept, own):
    async def fetch(_order):
        return b"model"

    return EdgeLink(
        channel=None,
        participant=kept,
        train=None,
        beat=lambda: Beat(50, 0, 0, ""),
        heartbeat_s=60.0,
        version="test",
        fetch=fetch,
        condition=lambda _at_work: Condition(True, None, "wired", None, False, 0.0),
        sign=lambda _announcement: b"",
        drills=own,
    )


@pytest.mark.parametrize("studies", [["s", "drill.x"], ["drill.x", "s"]], ids=["study-first", "drill-first"])
def test_a_studys_work_comes_before_a_drills(hub, studies):
    began, cancelled = [], []

    async def play():
        started, failed = asyncio.Queue(), asyncio.Queue()

        class Heard:
            async def write(self, message):
                failed.put_nowait(message.failed)

        async def train(asked, _model, _kept):
            began.append(asked.study)
            started.put_nowait(asked.study)
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(asked.study)

        own = link(Participant(MemoryBlobs()), part(hub)[0])
        own._train, own._call = train, Heard()
        for study in studies:
            await own._take(Order(study, 1, 1, "train", "b" * 64, b"", 20.0, model=b"model"))
            if study == studies[0] or study == "s":
                assert await asyncio.wait_for(started.get(), 50) == study
        said = await asyncio.wait_for(failed.get(), 50)
        assert (said.study, said.reason, said.declined) == ("drill.x", BUSY, True)
        assert (began, cancelled) == ((["s"], []) if studies[0] == "s" else (["drill.x", "s"], ["drill.x"]))
        await own._let_go()

    asyncio.run(play())


def test_what_is_remembered_of_a_drill_is_not_on_the_edges_disk(hub):
    kept = Participant(MemoryBlobs())
    own = link(kept, part(hub)[0])
    assert own._memory("s") is kept
    assert own._memory("drill.x") is own._memory("drill.x") is not kept
    assert own._memory("drill.y") is not own._memory("drill.x")
