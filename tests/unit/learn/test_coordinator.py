"""The hub's side of a study: what may count, what survives a kill, and that no round hangs."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from wardround.clock import ManualClock
from wardround.collect.storage import FolderStorage, MemoryStorage
from wardround.learn.answers import standing
from wardround.learn.blobs import FolderBlobs, MemoryBlobs
from wardround.learn.compression import compress
from wardround.learn.coordinator import SETTLE_S, Coordinator
from wardround.learn.journal import Journal
from wardround.learn.messages import Order, Upload
from wardround.learn.models import decode_model, encode_model
from wardround.learn.spans import NO_SPANS, Spans
from wardround.learn.strategies import make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, parse_study
from wardround.learn.triage import Screen
from wardround.records import EdgeId
from wardround.simulation.toy import CLASSES, FEATURES, signed, toy_model, toy_training
from wardround.watch.detectors.own_history import OwnHistory

STUDY = """
name = "s"
task = "activity"
[rounds]
count = 5
edges_min = 2
deadline_s = 10.0
examples_min = 1
"""


class Hub:
    """A coordinator over storage that outlives it."""

    def __init__(self, tmp_path=None, screen: Screen | None = None, text: str = "", spans: Spans = NO_SPANS):
        self.storage = MemoryStorage() if tmp_path is None else FolderStorage(tmp_path)
        self.blobs = MemoryBlobs() if tmp_path is None else FolderBlobs(tmp_path)
        self.clock = ManualClock()
        self.orders: dict[str, Order] = {}
        self.events = []
        self.screen, self.text, self.spans = screen, text, spans
        self.start()

    def start(self):
        self.coordinator = Coordinator(
            parse_study(self.text or STUDY, where="test"),
            settings=b"",
            initial=lambda: toy_model(0),
            shape=(FEATURES, CLASSES),
            strategy=make_strategy(StrategySettings(), LearnerSettings()),
            screen=self.screen or OwnHistory("test"),
            journal=Journal(self.storage.connect),
            blobs=self.blobs,
            clock=self.clock,
            send=lambda edge, message: self.orders.update({edge: message}) if isinstance(message, Order) else None,
            on_event=self.events.append,
            spans=self.spans,
            weights=lambda: {edge: own.weight for edge, own in standing(Journal(self.storage.connect)).items()},
        )

    def kill(self):
        if isinstance(self.blobs, MemoryBlobs):
            self.blobs.crash()
        self.orders.clear()
        self.start()

    def attach(self, *edges):
        for edge in edges:
            self.coordinator.attach(EdgeId(edge))
        self.coordinator.tick()
        self.clock.advance(SETTLE_S + 0.1)
        self.coordinator.tick()

    def made(self, edge):
        order = self.orders[edge]
        return order, toy_training(edge, order, order.model, b"")

    def announce(self, edge, data, *, examples=60, **changes):
        order = self.orders[edge]
        facts = {
            "study": order.study,
            "round_number": order.round_number,
            "task": order.task,
            "base": order.base,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "examples": examples,
        }
        return signed(edge, Upload(**{**facts, **changes}))

    def upload(self, edge, data=None, **changes):
        """Announce, send and finish; the receipt."""
        _, done = self.made(edge)
        data = done.data if data is None else data
        upload = self.announce(edge, data, **{"examples": done.examples, **changes})
        self.coordinator.append(EdgeId(edge), upload, 0, data)
        return self.coordinator.finish(EdgeId(edge), upload)

    def round(self, *edges):
        for edge in edges:
            assert self.upload(edge).accepted

    def kinds(self):
        return [e.kind for e in self.events]


@pytest.fixture(params=["memory", "folder"])
def hub(request, tmp_path):
    hub = Hub(None if request.param == "memory" else tmp_path)
    hub.attach("a", "b")
    hub.round("a", "b")  # the statistics
    return hub


def test_rounds_make_models_one_upon_the_other(hub):
    hub.round("a", "b")
    hub.round("a", "b")
    first, second, third = hub.coordinator.committed()
    assert (second.base, third.base) == (first.model, second.model)
    assert set(second.folded) == {"a", "b"}
    base, model = (decode_model(hub.coordinator.model(c.model)) for c in (first, second))
    total = sum(second.folded.values())
    order = Order("s", 1, 1, "train", first.model, b"", 0.0)
    expected = base["w"].astype(np.float64)
    for edge, n in second.folded.items():
        update = decode_model(toy_training(edge, order, hub.coordinator.model(first.model), b"").data)
        expected = expected + n / total * update["w"]
    np.testing.assert_allclose(model["w"], expected, rtol=1e-6)


def spoilt(kind, data):
    parameters = dict(decode_model(data))
    if kind == "NaN":
        parameters["w"] = np.full_like(parameters["w"], np.nan)
    elif kind == "one infinity":
        parameters["w"] = parameters["w"].copy()
        parameters["w"][0, 0] = np.inf
    elif kind == "a wrong shape":
        parameters["w"] = parameters["w"].T.copy()
    elif kind == "a wrong dtype":
        parameters["w"] = parameters["w"].astype(np.float64)
    elif kind == "a missing tensor":
        del parameters["b"]
    elif kind == "a tensor too many":
        parameters["extra"] = np.zeros(3, np.float32)
    elif kind == "a buffer of the hub":
        parameters["scale.mean"] = np.zeros(FEATURES, np.float32)
    return encode_model(parameters)


REASONS = {
    "NaN": "not-finite",
    "one infinity": "not-finite",
    "a wrong shape": "shape",
    "a wrong dtype": "dtype",
    "a missing tensor": "names",
    "a tensor too many": "names",
    "a buffer of the hub": "names",
}


@pytest.mark.parametrize(("kind", "reason"), REASONS.items(), ids=REASONS)
def test_an_update_that_cannot_count_is_refused_with_its_reason_and_the_round_goes_on(hub, kind, reason):
    _, done = hub.made("a")
    receipt = hub.upload("a", spoilt(kind, done.data))
    assert (receipt.accepted, receipt.reason) == (False, reason)
    assert receipt.detail
    assert hub.events[-1].kind in ("refused", "abandoned")
    assert len(hub.coordinator.committed()) == 1


def test_a_truncated_update_is_refused(hub):
    _, done = hub.made("a")
    upload = hub.announce("a", done.data, examples=done.examples)
    hub.coordinator.append(EdgeId("a"), upload, 0, done.data[:-10])
    receipt = hub.coordinator.finish(EdgeId("a"), upload)
    assert (receipt.accepted, receipt.reason) == (False, "truncated")


def test_bytes_that_were_changed_on_the_way_are_refused(hub):
    _, done = hub.made("a")
    upload = hub.announce("a", done.data, examples=done.examples)
    hub.coordinator.append(EdgeId("a"), upload, 0, done.data[:-1] + bytes([done.data[-1] ^ 1]))
    assert hub.coordinator.finish(EdgeId("a"), upload).reason == "digest"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"base": "0" * 64}, "base"),
        ({"study": "another"}, "study"),
        ({"examples": 0}, "examples"),
        ({"examples": 10**9}, "examples"),
        ({"task": "statistics"}, "base"),
    ],
)
def test_a_claim_that_does_not_hold_is_refused(hub, change, reason):
    assert hub.upload("a", **change).reason == reason


def test_a_claim_that_grows_fast_is_bounded_and_grows_into_its_weight(hub):
    weights = []
    for _ in range(4):
        assert hub.upload("a", examples=10_000).accepted
        assert hub.upload("b").accepted
        weights.append(hub.coordinator.committed()[-1].folded["a"])
    assert weights[0] < 2_000
    assert weights == sorted(weights)
    assert weights[-1] > 3 * weights[0]


def test_who_was_not_asked_cannot_count(hub):
    hub.orders["c"] = hub.orders["a"]
    assert hub.upload("c").reason == "participant"


def test_bytes_that_are_no_model_are_refused(hub):
    for data in (b"", b"x", b"\xff" * 100, b"\x08\x00\x00\x00\x00\x00\x00\x00" + b"{}      " + b"y" * 5):
        assert not hub.upload("a", data).accepted


def test_an_update_counts_once_however_often_it_comes(hub):
    assert hub.upload("a").accepted
    assert hub.upload("a").accepted
    assert hub.upload("b").accepted
    done = hub.coordinator.committed()[-1]
    assert sorted(done.folded) == ["a", "b"]
    assert hub.upload("a", round_number=1).accepted  # the round is over: it has counted, and counts no more
    assert [len(c.folded) for c in hub.coordinator.committed()] == [2, 2]
    assert hub.coordinator.open_round[1].delivered == frozenset()


def test_a_killed_hub_goes_on_in_the_same_round_with_what_had_arrived(hub):
    assert hub.upload("a").accepted
    hub.kill()
    hub.attach("a", "b")
    assert set(hub.orders) == {"b"}  # "a" has delivered
    assert hub.upload("b").accepted
    assert sorted(hub.coordinator.committed()[-1].folded) == ["a", "b"]


def test_an_upload_goes_on_at_the_byte_where_it_stopped(hub):
    _, done = hub.made("a")
    upload = hub.announce("a", done.data, examples=done.examples)
    half = len(done.data) // 2
    hub.coordinator.append(EdgeId("a"), upload, 0, done.data[:half])
    assert hub.coordinator.position(EdgeId("a"), upload) == (half, False)
    assert hub.coordinator.append(EdgeId("a"), upload, 0, done.data[:half]) == half  # a repeat changes nothing
    hub.coordinator.append(EdgeId("a"), upload, half, done.data[half:])
    assert hub.coordinator.finish(EdgeId("a"), upload).accepted
    assert hub.coordinator.position(EdgeId("a"), upload) == (len(done.data), True)


def test_an_update_that_was_acknowledged_counts_in_the_next_attempt_though_its_edge_is_gone(hub):
    assert hub.upload("a").accepted
    hub.coordinator.lose(EdgeId("a"))
    hub.clock.advance(11)
    hub.coordinator.tick()  # the deadline: abandoned, one of two
    assert hub.kinds()[-1] == "abandoned"
    hub.attach("b", "c")
    assert hub.upload("b").accepted
    assert hub.upload("c").accepted
    assert sorted(hub.coordinator.committed()[-1].folded) == ["a", "b", "c"]


class BrokenScreen(OwnHistory):
    broken = True

    def judge_round(self, round_number, updates, aside=()):
        if self.broken:
            raise RuntimeError("a bug in a detector")
        return super().judge_round(round_number, updates, aside)


def test_a_fault_in_the_hub_abandons_the_round_and_says_so():
    hub = Hub(screen=BrokenScreen("x"))
    hub.attach("a", "b")
    hub.round("a", "b")
    hub.round("a", "b")
    assert hub.kinds()[-1] == "abandoned"
    assert "a bug in a detector" in hub.events[-1].reason
    hub.screen.broken = False
    hub.clock.advance(2.0)
    hub.coordinator.tick()  # tried again with what had arrived
    assert len(hub.coordinator.committed()) == 2


def test_an_edge_that_is_set_aside_does_not_count_until_it_is_released(hub):
    hub.coordinator.quarantine(EdgeId("a"), 10, "by hand")
    hub.round("a", "b")
    done = hub.coordinator.committed()[-1]
    assert (set(done.folded), done.aside) == ({"b"}, ("a",))
    assert hub.coordinator.release(EdgeId("a"))
    assert not hub.coordinator.release(EdgeId("a"))
    hub.round("a", "b")
    assert "a" in hub.coordinator.committed()[-1].folded


def test_it_ends_after_its_last_round(hub):
    for _ in range(5):
        hub.round("a", "b")
    assert hub.coordinator.finished
    assert hub.kinds()[-1] == "finished"
    hub.clock.advance(60)
    hub.coordinator.tick()
    assert hub.coordinator.open_round is None


@pytest.mark.parametrize("where", ["memory", "folder"])
@pytest.mark.parametrize(("form", "zstd"), [("float16", False), ("int8", True), ("top-k", True), ("none", True)])
def test_compressed_updates_are_folded_as_they_are_decoded(form, zstd, where, tmp_path):
    text = f'{STUDY}[compression]\nupdate = "{form}"\nzstd = {str(zstd).lower()}\ntop_k_share = 0.3\n'
    hub = Hub(None if where == "memory" else tmp_path, text=text)
    own = hub.coordinator.study.compression
    hub.attach("a", "b")
    hub.round("a", "b")
    made = {edge: decode_model(hub.made(edge)[1].data) for edge in "ab"}
    packed = {edge: compress(update, {}, own)[0] for edge, update in made.items()}
    if form != "none":
        refused = hub.upload("a")  # as if the study did not compress
        assert (refused.accepted, refused.reason) in [(False, "names"), (False, "malformed")]
        hub.kill()
        hub.attach("a", "b")
    assert hub.upload("a", packed["a"]).accepted
    hub.kill()
    hub.attach("a", "b")
    assert hub.upload("b", packed["b"]).accepted
    first, second = hub.coordinator.committed()
    base, model = (decode_model(hub.coordinator.model(c.model)) for c in (first, second))
    total = sum(second.folded.values())
    mean = sum(n / total * (made[e]["w"] - compress(made[e], {}, own)[1].get("residual.w", 0)) for e, n in second.folded.items())
    np.testing.assert_allclose(model["w"] - base["w"], mean, atol=1e-6)


@pytest.mark.parametrize("spoil", ["cut", "other bytes"])
def test_a_stream_that_cannot_be_unpacked_is_refused_and_leaves_nothing(spoil, tmp_path):
    hub = Hub(tmp_path, text=f"{STUDY}[compression]\nzstd = true\n")
    hub.attach("a", "b")
    hub.round("a", "b")
    data = compress(decode_model(hub.made("a")[1].data), {}, hub.coordinator.study.compression)[0]
    receipt = hub.upload("a", data[: len(data) // 2] if spoil == "cut" else bytes(100))
    assert (receipt.accepted, receipt.reason) == (False, "malformed")
    assert not [p for p in (tmp_path / "partial").rglob("*") if p.is_file()]


def test_what_edges_said_is_told_when_their_round_is_committed_also_after_a_kill(hub):
    hub.clock.advance(2.0)
    assert hub.upload("a", rows=b"counts").accepted
    hub.kill()
    hub.attach("a", "b")
    assert hub.upload("b").accepted
    committed = [e for e in hub.events if e.kind == "committed"]
    assert committed[0].reported == {}  # the statistics train nothing
    said = committed[-1].reported
    assert set(said) == {"a", "b"}
    assert said["a"].rows == b"counts"
    assert said["a"].seconds == pytest.approx(2.0)
    assert said["b"].rows == b""
    assert said["b"].seconds > 2.0
    assert not said["a"].aside
    assert said["a"].examples == committed[-1].folded["a"]
    assert committed[-1].participants == ("a", "b")


def test_counts_of_rows_that_were_changed_on_the_way_break_the_signature(hub):
    _, done = hub.made("a")
    upload = hub.announce("a", done.data, examples=done.examples, rows=b"counts")
    receipt = hub.coordinator.finish(EdgeId("a"), replace(upload, rows=b"others"))
    assert receipt.reason == "signature"
