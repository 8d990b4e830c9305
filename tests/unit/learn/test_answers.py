"""What became of every answer: the operator sees each update and each refusal, with its reason."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.learn.test_coordinator import Hub
from tests.unit.learn.test_coordinator_screens import Hub as ScreenedHub

from wardround.learn import journal as journals
from wardround.learn.answers import answers
from wardround.learn.journal import Journal, Refusal
from wardround.learn.models import decode_model, encode_model
from wardround.learn.rollbacks import Asked
from wardround.records import EdgeId
from wardround.simulation.toy import toy_training


@pytest.fixture
def hub():
    hub = Hub()
    hub.attach("a", "b", "c")
    hub.round("a", "b", "c")  # the statistics
    return hub


def of(hub, **which):
    return answers(Journal(hub.storage.connect), **which)


def test_an_update_waits_then_counts_with_what_it_claims_and_what_it_weighs(hub):
    hub.upload("a", examples=5_000)  # far more than it had in the statistics: its weight grows by and by
    [waiting] = of(hub, round_number=1)
    assert (waiting.edge, waiting.verdict, waiting.claimed) == ("a", "waiting", 5_000)
    assert 0 < waiting.counted < 5_000
    hub.round("b", "c")
    assert [(a.edge, a.verdict, a.reason) for a in of(hub, round_number=1)] == [(e, "accepted", "") for e in "abc"]
    assert all(a.norm > 0 and a.certificate and len(a.sha256) == 64 for a in of(hub, round_number=1))
    assert [a.round_number for a in of(hub, edge="a")] == [1, 0]
    assert len(of(hub, limit=2)) == 2


def test_every_refusal_is_there_with_its_reason(hub):
    _, done = hub.made("a")
    spoilt = {**decode_model(done.data)}
    spoilt["w"] = np.full_like(spoilt["w"], np.nan)
    assert hub.upload("a", encode_model(spoilt)).reason == "not-finite"
    hub.coordinator.fail(EdgeId("b"), 1, "out of memory")
    assert hub.events[-2].kind == "failed"
    assert hub.upload("c").reason == "round"  # with two of three gone, it was given up
    hub.kill()
    found = {(a.round_number, a.edge): (a.verdict, a.reason) for a in of(hub) if a.verdict not in ("accepted", "waiting")}
    assert found == {
        (1, "a"): ("refused", "not-finite"),
        (1, "b"): ("failed", "training"),
        (1, "c"): ("late", "round"),
    }
    assert next(a.detail for a in of(hub, edge="b", round_number=1)) == "out of memory"


def test_an_edge_that_declines_is_nobodys_fault_and_no_row(hub):
    hub.coordinator.fail(EdgeId("b"), 1, "not-charging", declined=True)
    assert not of(hub, round_number=1)


def test_the_screens_score_and_threshold_stand_beside_what_they_set_aside():
    hub = ScreenedHub()
    for edge in hub.orders.copy():
        hub.send(edge, toy_training(edge, hub.orders[edge], b"", b"").data)
    for _ in range(2):
        hub.round(lambda updates: {**updates, "b": updates["a"]})
    row = next(a for a in of(hub, round_number=2) if a.edge == "b")
    assert (row.verdict, row.reason) == ("aside", "twins-peer")
    assert row.score > row.threshold > 0
    hub.round()
    row = next(a for a in of(hub, round_number=3) if a.edge == "b")
    assert (row.verdict, row.reason, row.detail) == ("aside", "quarantined", "twins-peer")
    assert row.score <= row.threshold


def test_what_a_rollback_set_aside_says_so(hub):
    hub.upload("a")
    hub.coordinator.roll_back(Asked(0, "someone", "it was worse", "r"))
    assert [(a.verdict, a.reason, a.detail) for a in of(hub, round_number=1)] == [("aside", "rolled-back", "it was worse")]


def test_refusals_are_bounded_and_no_edge_pushes_the_others_out(hub, monkeypatch):
    monkeypatch.setattr(journals, "REFUSALS_MAX", 8)
    monkeypatch.setattr(journals, "REFUSALS_EDGE_MAX", 5)
    journal = Journal(hub.storage.connect)
    for n in range(4):
        journal.refuse(Refusal(n, n, EdgeId("quiet"), "refused", "norm", ""))
    for n in range(50):
        journal.refuse(Refusal(n, n, EdgeId("loud"), "refused", "norm", ""))
    kept = journal.refusals()
    assert [r.round_number for r in kept if r.edge == "loud"] == [49, 48, 47, 46, 45]
    assert [r.round_number for r in kept if r.edge == "quiet"] == [3, 2, 1]
