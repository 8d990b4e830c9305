"""Signed updates: only what an edge itself has signed, for this very order, is looked at; and it can be checked again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.learn.test_coordinator import Hub

from wardround.clock import SystemClock
from wardround.errors import UpdateRefused
from wardround.learn.announcements import announcement, metrics_digest, wrong_with
from wardround.learn.grpc_wire import METRICS_MAX, upload_of
from wardround.learn.journal import Journal
from wardround.learn.messages import Upload
from wardround.records import EdgeId
from wardround.simulation.toy import signed, toy_authority, toy_identity
from wardround.trust.certificates import Authority, new_key
from wardround.trust.signatures import edge_signature
from wardround.wire import wardround_pb2 as pb

A = EdgeId("a")


@pytest.fixture
def hub():
    hub = Hub()
    hub.attach("a", "b", "c")
    hub.round("a", "b", "c")  # the statistics
    return hub


def offer(hub, upload, data):
    """As the link does it: announce, then the bytes, then the receipt."""
    try:
        hub.coordinator.begin(A, upload, 0)
    except UpdateRefused:  # `finish` says why
        return hub.coordinator.finish(A, upload)
    hub.coordinator.append(A, upload, 0, data)
    return hub.coordinator.finish(A, upload)


@pytest.mark.parametrize(
    "change",
    [
        {"study": "other"},
        {"round_number": 2},
        {"task": "statistics"},
        {"base": "0" * 64},
        {"size": 1},
        {"sha256": "0" * 64},
        {"examples": 61},
        {"metrics": {"loss": 0.5}},
        {"metrics": {}},
        {"signature": b""},
        {"signature": b"rubbish"},
        {"certificate": b""},
    ],
)
def test_a_tampered_announcement_is_refused_before_a_byte_is_kept(hub, change):
    _, done = hub.made("a")
    good = signed("a", replace(hub.announce("a", done.data, examples=60), metrics={"loss": 1.0}))
    tampered = replace(good, **change)
    receipt = offer(hub, tampered, done.data)
    assert (receipt.accepted, receipt.reason) == (False, "signature")
    assert hub.coordinator.position(A, tampered) == (0, False)
    assert [(e.edge, e.reason) for e in hub.events if e.kind == "refused"] == [("a", "signature")]


def test_an_announcement_of_another_round_cannot_be_used_again(hub):
    _, done = hub.made("a")
    first = hub.announce("a", done.data, examples=done.examples)
    assert offer(hub, first, done.data).accepted
    hub.round("b", "c")
    second = hub.orders["a"]
    assert second.round_number == first.round_number + 1
    again = replace(first, round_number=second.round_number, base=second.base)  # the old signature under the new order
    assert offer(hub, again, done.data).reason == "signature"
    assert offer(hub, signed("a", again), done.data).accepted  # and the edge itself may say so


def test_another_edges_signature_is_refused_whoever_holds_its_key(hub):
    _, done = hub.made("a")
    upload = hub.announce("a", done.data, examples=done.examples)
    of_b = signed("b", upload)
    assert offer(hub, of_b, done.data).reason == "signature"  # b's key and certificate
    assert offer(hub, replace(of_b, certificate=upload.certificate), done.data).reason == "signature"  # b's key alone


def test_every_kept_update_can_be_checked_again(hub):
    hub.round("a", "b", "c")
    journal = Journal(hub.storage.connect)
    known = {"study": "s", "authority": toy_authority().pem}
    [found] = journal.kept(1, "a")
    update, kept = found.update, replace(found.signed, t_us=SystemClock().now_us())
    assert wrong_with(update, kept, **known, file_sha256=hub.blobs.sha256("updates/1/a.safetensors")) == ""
    for what, other in (
        ("digest", replace(update, sha256="0" * 64)),
        ("round", replace(update, based_on=0)),
        ("metrics", replace(update, metrics={**update.metrics, "loss": 0.0})),
        ("examples", replace(update, examples=update.examples + 1)),
        ("edge a, not of edge b", replace(update, edge=EdgeId("b"))),
    ):
        assert what in wrong_with(other, kept, **known)
    assert "study" in wrong_with(update, kept, study="other", authority=toy_authority().pem)
    assert "file" in wrong_with(update, kept, **known, file_sha256="0" * 64)
    assert "no signature" in wrong_with(update, None, **known)
    stranger = Authority.in_memory("another hub")
    assert "authority" in wrong_with(update, kept, study="s", authority=stranger.pem)
    key = new_key()
    forged = edge_signature(key, kept.announcement)
    assert "signature" in wrong_with(update, replace(kept, signature=forged), **known)
    own = stranger.issue_edge("a", key.public_key(), 1.0)
    assert "authority" in wrong_with(update, replace(kept, signature=forged, certificate=own), **known)
    assert "expired" in wrong_with(update, replace(kept, t_us=kept.t_us + 10**13), **known)


def test_what_is_signed_does_not_depend_on_how_it_travelled():
    upload = Upload("s", 1, "train", "b" * 64, 10, "c" * 64, 5, {"b": 2.0, "a": 1.0})
    assert announcement(upload) == announcement(replace(upload, metrics={"a": 1.0, "b": 2.0}, certificate=toy_identity("a")[1]))
    assert metrics_digest({"a": 1.0}) != metrics_digest({"a": 1.0 + 1e-12}) != metrics_digest({})
    assert metrics_digest({"ab": 1.0}) != metrics_digest({"a": 1.0})


def test_a_hundred_thousand_metrics_are_not_kept_whoever_has_signed_them(hub):
    """They had gone into the journal, the records of the round and what people see of it."""
    _, done = hub.made("a")
    good = signed("a", replace(hub.announce("a", done.data, examples=60), metrics={f"m{k}": 1.0 for k in range(METRICS_MAX + 1)}))
    head = pb.UpdateHead(
        study=good.study,
        round=good.round_number,
        task=good.task,
        base_model=good.base,
        size=good.size,
        sha256=good.sha256,
        examples=good.examples,
        metrics=dict(good.metrics),
        signature=good.signature,
    )
    assert offer(hub, upload_of(head, good.certificate), done.data).reason == "signature"
    few = signed("a", replace(good, metrics={f"m{k}": 1.0 for k in range(METRICS_MAX)}))
    head.ClearField("metrics")
    head.metrics.update(few.metrics)
    head.signature = few.signature
    assert offer(hub, upload_of(head, few.certificate), done.data).accepted
