"""Edges of a blind study that screen themselves: the real coordinator and edges' own parts over memory links."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tests.unit.learn.privacy.test_blind import FIVE, STUDY, Ward
from tests.unit.learn.test_edge_link import Channel, Masks, link

from wardround.learn.blobs import MemoryBlobs
from wardround.learn.journal import Journal
from wardround.learn.messages import Done, new_upload
from wardround.learn.models import decode_model, encode_model
from wardround.learn.own_report import OwnReport, Screen, SignedReport, scores_of, signed_part
from wardround.learn.participant import Participant
from wardround.learn.privacy.modes import decode_mask_settings, mask_settings, screens_itself
from wardround.learn.reputation import Experience, reputations
from wardround.learn.study import LearnerSettings, LocalRule, ScoreSettings, TrainingSettings, encode_training, parse_study
from wardround.own_watch import SHIPPED, OwnWatches, wanted
from wardround.records import EdgeId
from wardround.simulation.toy import signed, toy_identity, toy_training
from wardround.trust.signatures import OWN_REPORT_CONTEXT, edge_signature
from wardround.wire import wardround_pb2 as pb

SETTINGS = encode_training(
    TrainingSettings(
        task="activity",
        learner=LearnerSettings(),
        score=ScoreSettings(),
        examples_min=1,
        features="f",
        classes=3,
        rule=LocalRule(),
    )
)
EIGHT = STUDY.replace("count = 3", "count = 8")
STRUCK = "e2"


class ScreenedWard(Ward):
    """Its edges look at their updates before they mask them; `spoil(edge, order, done)` is what is wrong with one."""

    def __init__(self, edges=FIVE, text=EIGHT, *, spoil=lambda _edge, _order, done: done, older=()):
        self.spoil, self.older = spoil, set(older)
        self.watches, self.reports = {}, []
        self.watch_disks = {e: MemoryBlobs() for e in edges}
        super().__init__(edges, text)

    def start_edge(self, edge):
        super().start_edge(edge)
        key = toy_identity(edge)[0]
        sign = lambda report: edge_signature(key, report, context=OWN_REPORT_CONTEXT)  # noqa: E731
        self.watches[edge] = OwnWatches(edge, self.watch_disks[edge], sign)

    def start_hub(self):
        super().start_hub()
        self.coordinator._settings = SETTINGS

    def train(self, edge):
        order = self.orders.get(edge)
        if order is None or not self.agents[edge].can_mask(order):
            return
        done = toy_training(edge, order, self.coordinator.model(order.base) if order.base else b"", b"")
        done = self.spoil(edge, order, done)
        said = None if edge in self.older else self.watches[edge].look(order, done)
        if said is not None:
            self.reports.append((edge, said.report))
            self.coordinator.own_report(EdgeId(edge), said, toy_identity(edge)[1])
            if said.report.sits_out:
                del self.orders[edge]
                self.coordinator.fail(EdgeId(edge), order.round_number, f"sat out: {said.report.sits_out}")
                return
        masked = self.agents[edge].mask(order, done)
        del self.orders[edge]
        upload = signed(edge, new_upload(order, masked.data, masked.examples, masked.metrics))
        self.coordinator.append(EdgeId(edge), upload, 0, masked.data)
        self.coordinator.finish(EdgeId(edge), upload)

    def played(self):
        self.begin()
        for _ in range(400):
            self.run()
            if self.coordinator.finished:
                break
            self.clock.advance(1.0)
            self.coordinator.tick()
        assert self.coordinator.finished
        return self

    def told(self):
        return [(e.round_number, e.edge, e.reason) for e in self.events if e.kind == "own-report"]


def times(factor, first, edge=STRUCK):
    def spoil(who, order, done):
        if who != edge or order.round_number < first or order.task != "train":
            return done
        update = {name: tensor * np.float32(factor) for name, tensor in decode_model(done.data).items()}
        return replace(done, data=encode_model(update))

    return spoil


def test_an_edge_that_finds_its_update_out_gives_none_and_says_why():
    ward = ScreenedWard(spoil=times(20.0, 6)).played()
    assert [e for e in ward.told() if e[2]] == [(n, STRUCK, "own-norm") for n in (6, 7, 8)]
    said = [(r.round_number, r.edge, r.verdict, r.reason) for r in Journal(ward.storage.connect).refusals()]
    assert sorted(said) == [(n, STRUCK, "sat-out", "own-norm") for n in (6, 7, 8)]
    folded = {c.number: set(c.folded) for c in ward.coordinator.committed()}
    assert all(folded[n] == set(FIVE) - {STRUCK} for n in (6, 7, 8))
    assert all(folded[n] == set(FIVE) for n in (1, 2, 3, 4, 5))
    # what became of the model is the mean of the others', as if it had never been asked
    base, made = (decode_model(ward.coordinator.model(c.model)) for c in ward.coordinator.committed()[5:7])
    assert max(float(np.abs(made[n] - base[n]).max()) for n in ("w", "b")) < 1.0


def test_every_edge_says_its_scores_beside_its_thresholds_and_nothing_else():
    ward = ScreenedWard().played()
    assert {edge for _, edge, _ in ward.told()} == set(FIVE)
    newest = dict(ward.reports)
    for report in newest.values():
        assert report.sits_out == ""
        assert all(score <= threshold for score, threshold in scores_of(report, SHIPPED).values())
        assert {s.name for s in report.screens} <= set(SHIPPED)
        assert len(signed_part(report)) < 400
    assert [e.own_report for e in ward.events if e.kind == "own-report"] == [r for _, r in ward.reports]


def test_values_that_are_no_numbers_are_sat_out_before_anything_is_masked():
    ward = ScreenedWard(spoil=times(float("nan"), 1)).played()
    assert {(edge, why) for _, edge, why in ward.told() if why} == {(STRUCK, "not-finite")}
    assert all(STRUCK not in c.folded for c in ward.coordinator.committed() if c.number)


def test_an_edge_that_was_restarted_goes_on_with_its_past():
    ward = ScreenedWard(spoil=times(20.0, 6))
    ward.begin()
    for edge in FIVE:
        ward.run(until=lambda who, message, edge=edge: who == edge and getattr(message, "round_number", 0) == 5)
        ward.start_edge(edge)
    ward.run()
    assert [e for e in ward.told() if e[2]] == [(n, STRUCK, "own-norm") for n in (6, 7, 8)]


def test_who_sits_a_round_out_is_not_held_to_be_worse_for_it():
    found = reputations([Experience(n, STRUCK, "sat-out") for n in range(1, 5)], 5)[STRUCK]
    assert (found.score, dict(found.seen)) == (0.5, {"sat-out": 4})


def test_an_older_edge_goes_on_as_it_did():
    ward = ScreenedWard(spoil=times(20.0, 6), older=FIVE).played()
    assert ward.told() == []
    assert all(set(c.folded) == set(FIVE) for c in ward.coordinator.committed() if c.number)


def test_an_older_hub_asks_for_nothing_and_an_older_edge_reads_what_a_newer_one_asks():
    class Older(msgspec.Struct, frozen=True):
        clip: float
        weight_max: int
        edges_min: int
        nonce: bytes
        group_edges: int = 0
        clip_norm: float = 0.0
        noise: float = 0.0
        expected: float = 0.0

    study = parse_study(EIGHT, where="test")
    asked = mask_settings(study, b"n", 5)
    assert decode_mask_settings(asked).false_alarms == pytest.approx(study.watch.false_alarms_per_1000 / 5)
    assert msgspec.msgpack.decode(asked, type=Older).clip == 8.0
    assert decode_mask_settings(msgspec.msgpack.encode(Older(8.0, 100, 3, b"n"))).false_alarms == 0.0


def test_nothing_without_noise_leaves_where_a_budget_is_kept_whoever_asks():
    ward = ScreenedWard()
    ward.begin()
    ward.run(until=lambda _edge, message: getattr(message, "task", "") == "train")
    order = ward.post[0][1]
    assert wanted(order) > 0
    noisy = msgspec.structs.replace(decode_mask_settings(order.masks), noise=1.0)
    assert wanted(replace(order, masks=msgspec.msgpack.encode(noisy))) == 0.0
    settings = msgspec.msgpack.decode(SETTINGS)
    settings["learner"]["dp_sgd"] = {"noise": 1.0, "clip": 1.0, "epsilon_max": 8.0, "delta": 1e-5}
    assert wanted(replace(order, settings=msgspec.msgpack.encode(settings))) == 0.0
    assert wanted(replace(order, task="statistics")) == 0.0
    assert wanted(replace(order, masks=b"")) == 0.0


@pytest.mark.parametrize(
    ("mode", "more", "screens"),
    [
        ("blind", "", True),
        ("blind-groups", "", True),
        ("blind-dp", "", False),
        ("clear", "", False),
        ("blind", "[watch]\nown_screens = false\n", False),
        ("blind", "[learner.dp_sgd]\nnoise = 1.0\n", False),
    ],
    ids=["blind", "groups", "dp", "clear", "off", "dp-sgd"],
)
def test_which_studies_ask_their_edges_to_screen_themselves(mode, more, screens):
    study = parse_study(f'name = "s"\ntask = "activity"\n[privacy]\nmode = "{mode}"\n{more}', where="test")
    assert screens_itself(study) is screens


def test_a_report_that_is_old_repeated_from_the_future_or_not_the_edges_own_changes_nothing():
    ward = ScreenedWard()
    ward.begin()
    ward.run(until=lambda _edge, message: getattr(message, "round_number", 0) == 5)
    before = ward.told()
    edge, report = ward.reports[-1]
    key, certificate = toy_identity(edge)

    def say(changed, who=edge):
        signature = edge_signature(key, signed_part(changed), context=OWN_REPORT_CONTEXT)
        ward.coordinator.own_report(EdgeId(who), SignedReport(changed, signature), certificate)

    say(report)
    say(msgspec.structs.replace(report, round_number=report.round_number - 1))
    say(OwnReport("s", 900, 1))
    assert ward.told() == before
    say(msgspec.structs.replace(report, round_number=report.round_number + 1), who="e0" if edge != "e0" else "e1")
    assert ward.told() == before
    assert [e.reason for e in ward.events if e.kind == "refused"] == ["own-report"]


def test_an_edge_that_sits_a_round_out_says_what_it_saw_before_it_says_that_it_failed():
    """And masks nothing: the others' shares are not waited for."""
    report = OwnReport("s", 1, 1, (Screen("own-norm", 9, 4),), "own-norm")
    participant = Participant(MemoryBlobs())

    async def play():
        channel = Channel()
        own = link(channel, participant, watch=lambda _order, _done: SignedReport(report, b"name"))
        own._masks = Masks()

        async def train(_order, _model, _kept):
            return Done(b"update", 5)

        own._train = train
        running = asyncio.ensure_future(own.run())
        call = await asyncio.wait_for(channel.opened.get(), 50)
        call.go_on.set()
        order = pb.Order(study="s", round=1, task="train", base_model="b" * 64, deadline_s=60.0, masks=b"session")
        call.incoming.put_nowait(pb.HubMessage(order=order))
        while "failed" not in call.said:
            call.heard.clear()
            await asyncio.wait_for(call.heard.wait(), 50)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return [kind for kind in call.said if kind not in ("hello", "heartbeat")]

    assert asyncio.run(asyncio.wait_for(play(), 55)) == ["masks", "own_report", "failed"]
    answer = participant.receipts.newest()[0]
    assert (answer.verdict, answer.reason) == ("sat-out", "own-norm")
    assert "newest data" in answer.detail
