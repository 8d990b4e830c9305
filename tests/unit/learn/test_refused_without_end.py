"""An edge that fails, declines or is refused without end: a write to the hub's disk for each would hold up the round."""

from __future__ import annotations

import pytest
from tests.unit.learn.test_coordinator import Hub

from wardround.learn.journal import Journal
from wardround.learn.noted import UPLOADS_MAX
from wardround.records import EdgeId

A = EdgeId("a")


@pytest.fixture
def hub():
    hub = Hub()
    hub.attach("a", "b", "c")
    hub.round("a", "b", "c")  # the statistics
    return hub


def written(hub):
    return [(r.round_number, r.verdict, r.reason) for r in Journal(hub.storage.connect).refusals(edge="a")][::-1]


def test_an_edge_that_fails_again_and_again_is_written_down_once_an_attempt(hub):
    for number in range(200):
        hub.coordinator.fail(A, 1, f"for the {number}th time")
        hub.coordinator.fail(A, 1, "night", declined=True)
    assert written(hub) == [(1, "failed", "training")]
    assert (hub.kinds().count("failed"), hub.kinds().count("declined")) == (1, 1)
    hub.round("b", "c")
    hub.coordinator.fail(A, 2, "again")
    assert written(hub) == [(1, "failed", "training"), (2, "failed", "training")]


def test_of_an_edge_that_is_refused_again_and_again_a_few_are_written_down_and_each_is_answered(hub):
    receipts = [hub.upload("a", b"no model: %d" % number) for number in range(10 * UPLOADS_MAX)]
    assert not any(receipt.accepted for receipt in receipts)
    assert len(written(hub)) == UPLOADS_MAX
    assert hub.kinds().count("refused") <= UPLOADS_MAX
    hub.round("b", "c")
    assert not hub.upload("a", b"no model").accepted
    assert len(written(hub)) == UPLOADS_MAX + 1


def test_one_edge_hides_no_refusal_of_another(hub):
    for number in range(2 * UPLOADS_MAX):
        hub.upload("a", b"no model: %d" % number)
    assert not hub.upload("b", b"no model").accepted
    assert [r.verdict for r in Journal(hub.storage.connect).refusals(edge="b")] == ["refused"]
