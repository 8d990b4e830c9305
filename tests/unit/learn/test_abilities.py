"""The hub sends no order that an edge has not said it can carry out: DP-SGD is asked of those that know it, and of no other."""

from __future__ import annotations

import asyncio
import importlib.util

import pytest
from tests.unit.learn.test_coordinator_pace import Hub

from wardround.learn import abilities
from wardround.learn.grpc_hub import HubLink
from wardround.learn.study import Study, parse_study
from wardround.learn.study_checks import LEARNER_KINDS
from wardround.records import EdgeId
from wardround.wire import wardround_pb2 as pb

DP = "[learner.dp_sgd]\nnoise = 1.0\n[watch]\nrow_counts = false\n"
OLD, NEW = frozenset(LEARNER_KINDS), frozenset({*LEARNER_KINDS, "dp-sgd"})


def test_an_edge_says_dp_sgd_only_with_its_accountant(monkeypatch):
    assert set(abilities.abilities()) == NEW
    monkeypatch.setattr(abilities, "find_spec", lambda name: None if name == "dp_accounting" else importlib.util.find_spec(name))
    assert set(abilities.abilities()) == OLD


def test_only_a_study_with_noise_in_its_steps_asks_for_it():
    noisy = parse_study(f'name = "s"\ntask = "activity"\n{DP}', where="test")
    assert abilities.why_unable(noisy, OLD) == "no-dp-sgd"
    assert not abilities.why_unable(noisy, NEW)
    assert not abilities.why_unable(Study(name="s"), ())
    assert "wardround[dp]" in abilities.in_words("no-dp-sgd")


def hub(said):
    return Hub("count = 9\nedges_min = 2\ndeadline_s = 5.0", DP, abilities=lambda edge: said.get(edge, ()))


def test_an_edge_that_cannot_is_named_and_not_asked():
    own = hub({"a": NEW, "b": NEW, "old": OLD})
    own.attach("a", "old", "silent")
    assert not own.sent  # two of three cannot: there is no quorum
    own.attach("b")
    assert {edge for edge, _ in own.sent} == {"a", "b"}
    named = {e.edge: (e.reason, e.detail) for e in own.events if e.kind == "unable"}
    assert set(named) == {"old", "silent"}
    assert named["old"][0] == own.coordinator.why_not(EdgeId("old")) == "no-dp-sgd"
    assert "dp-sgd" in named["old"][1]


def test_a_study_without_it_asks_everybody():
    own = Hub("count = 9\nedges_min = 2", abilities=lambda _edge: ())
    own.attach("a", "b")
    assert {edge for edge, _ in own.sent} == {"a", "b"}


def test_an_edge_that_comes_back_without_it_is_out_of_the_round_it_was_in():
    said = {"a": NEW, "b": NEW, "c": NEW}
    own = hub(said)
    own.attach("a", "b", "c")
    own.wait(2.0)  # the first model is made without them, then they are asked
    number = own.orders["c"].round_number
    said["c"] = OLD
    own.coordinator.lose(EdgeId("c"))
    before = list(own.sent)
    own.coordinator.attach(EdgeId("c"))
    assert own.sent == before
    own.deliver("a")
    own.deliver("b")  # the round waits for nobody else
    (done,) = [c for c in own.coordinator.committed() if c.number == number]
    assert set(done.folded) == {"a", "b"}


class Listening:
    name, due = "s", False

    def __init__(self):
        self.attached = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def attach(self, _edge):
        self._loop.call_soon_threadsafe(self.attached.set)

    def lose(self, _edge):
        pass


@pytest.mark.parametrize(("learners", "found"), [((), frozenset()), (("mlp", "dp-sgd"), {"mlp", "dp-sgd"})], ids=["none", "two"])
def test_the_hub_knows_what_an_edge_said_before_a_study_does(learners, found):
    async def play():
        study = Listening()
        link = HubLink(
            studies=lambda: {"s": study},
            peer_name=lambda _context: EdgeId("e"),
            peer_certificate=lambda _context: b"",
            on_attached=lambda _edge, _version: None,
            on_beat=lambda _edge, _beat: None,
            on_lost=lambda _edge: None,
            sign=lambda _manifest: None,
        )

        async def said():
            yield pb.EdgeMessage(hello=pb.Hello(software_version="test", learners=list(learners)))
            await asyncio.Event().wait()

        assert link.abilities(EdgeId("e")) == frozenset()
        stream = link.handlers()["Attach"].stream_stream(said(), None)
        await anext(stream)
        await asyncio.wait_for(study.attached.wait(), 60)
        assert link.abilities(EdgeId("e")) == found
        await stream.aclose()
        await link.settled()

    asyncio.run(asyncio.wait_for(play(), 120))
