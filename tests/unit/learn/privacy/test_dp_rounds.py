"""A study of mode `clear-dp` through its coordinator: begun without a word from an edge, and ended by its budget."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from wardround.clock import ManualClock
from wardround.collect.storage import MemoryStorage
from wardround.errors import StudyError
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.coordinator import Coordinator
from wardround.learn.journal import Journal
from wardround.learn.messages import Order, Upload
from wardround.learn.models import decode_model
from wardround.learn.privacy import central
from wardround.learn.privacy.accounting import Release, epsilon
from wardround.learn.privacy.dp_rounds import check_model, with_public_scale
from wardround.learn.privacy.ledger import MemoryLedger
from wardround.learn.strategies import make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, parse_study
from wardround.records import EdgeId
from wardround.simulation.toy import CLASSES, FEATURES, signed, toy_model, toy_training

STUDY = """
name = "s"
task = "activity"
[rounds]
count = {count}
edges_min = 2
deadline_s = 10.0
examples_min = 1
[watch]
row_counts = false
[privacy]
mode = "clear-dp"
population = 3
noise = 4.0
clip_norm = 0.2
delta = 0.001
target_epsilon = {target}
{more}
"""
EDGES = ("a", "b", "c")


class NoScreen:
    """Nobody may be compared with anybody."""

    def judge_round(self, round_number, updates, aside=()):
        raise AssertionError("a screen was asked")

    def stepped(self, step):
        pass

    def state(self):
        return b""

    def restore(self, state):
        pass


class Hub:
    def __init__(self, count=3, target=50.0, more="", ledger=None):
        self.storage, self.blobs, self.clock = MemoryStorage(), MemoryBlobs(), ManualClock()
        self.ledger = ledger if ledger is not None else MemoryLedger()
        self.text = STUDY.format(count=count, target=target, more=more)
        self.orders, self.events = {}, []
        self.start()

    def start(self):
        self.coordinator = Coordinator(
            parse_study(self.text, where="test"),
            settings=b"",
            initial=lambda: toy_model(0),
            shape=(FEATURES, CLASSES),
            strategy=make_strategy(StrategySettings(), LearnerSettings()),
            screen=NoScreen(),
            journal=Journal(self.storage.connect),
            blobs=self.blobs,
            clock=self.clock,
            send=lambda edge, message: self.orders.update({edge: message}) if isinstance(message, Order) else None,
            on_event=self.events.append,
            ledger=self.ledger,
        )

    def kill(self):
        self.blobs.crash()
        self.orders.clear()
        self.start()

    def attach(self, *edges):
        for edge in edges:
            self.coordinator.attach(EdgeId(edge))
        self.turn()

    def turn(self, times=3):
        for _ in range(times):
            self.clock.advance(1.1)
            self.coordinator.tick()

    def upload(self, edge, **metrics):
        order = self.orders[edge]
        done = toy_training(edge, order, order.model, b"")
        facts = (order.study, order.round_number, order.task, order.base, len(done.data))
        said = {**done.metrics, **metrics}
        upload = signed(edge, Upload(*facts, hashlib.sha256(done.data).hexdigest(), done.examples, said))
        self.coordinator.append(EdgeId(edge), upload, 0, done.data)
        return self.coordinator.finish(EdgeId(edge), upload)

    def round(self, *edges):
        for edge in edges:
            assert self.upload(edge).accepted
        self.turn()

    def model(self, number):
        return decode_model(self.coordinator.model(self.coordinator.committed()[number].model))

    def kinds(self):
        return [e.kind for e in self.events]


@pytest.fixture
def hub():
    hub = Hub()
    hub.attach(*EDGES)
    return hub


def test_it_begins_without_a_word_from_any_edge(hub):
    first = hub.coordinator.committed()[0]
    assert (first.number, first.folded) == (0, {})
    assert all(np.array_equal(t, toy_model(0)[n]) for n, t in hub.model(0).items())
    assert {o.task for o in hub.orders.values()} == {"train"}
    assert {o.round_number for o in hub.orders.values()} == {1}


def test_every_round_is_in_the_ledger_and_the_study_ends(hub):
    for _ in range(3):
        hub.round(*EDGES)
    assert [c.number for c in hub.coordinator.committed()] == [0, 1, 2, 3]
    assert [e.round for e in hub.ledger.entries] == [1, 2, 3]
    assert hub.coordinator.finished
    assert hub.kinds()[-1] == "finished"


def test_a_model_moves_by_the_noise_and_no_update_by_more_than_its_clip(hub):
    """Noise of 4 clips over 3 units: 18 coordinates stay within 8 standard deviations."""
    hub.round(*EDGES)
    moved = np.concatenate([(hub.model(1)[n] - hub.model(0)[n]).ravel() for n in ("b", "w")])
    assert 0 < np.abs(moved).max() < 8 * 4.0 * 0.2 / 3 + 0.2


def test_what_edges_said_is_not_shown(hub):
    hub.round(*EDGES)
    event = next(e for e in hub.events if e.kind == "committed" and e.round_number == 1)
    assert dict(event.metrics) == {}
    assert dict(event.folded) == dict.fromkeys(EDGES, 1)
    assert {r.examples for r in event.reported.values()} == {1}
    assert all(not r.metrics for r in event.reported.values())
    assert hub.coordinator.committed()[1].folded == dict.fromkeys(EDGES, 1)


def test_an_attempt_that_came_to_nothing_leaves_nothing_behind(hub):
    """Else whoever was drawn in it would be in the next for certain."""
    hub.upload("a")
    for edge in ("b", "c"):
        hub.coordinator.fail(EdgeId(edge), 1, "no")
    assert "abandoned" in hub.kinds()
    assert not Journal(hub.storage.connect).accepted(1)
    assert not hub.ledger.entries
    hub.orders.clear()
    hub.turn()
    assert set(hub.orders) == set(EDGES)


def test_a_killed_hub_goes_on_in_its_round(hub):
    hub.upload("a")
    hub.kill()
    hub.attach(*EDGES)
    for edge in ("b", "c"):
        hub.upload(edge)
    hub.turn()
    assert [e.round for e in hub.ledger.entries] == [1]
    assert len(hub.coordinator.committed()) == 2


def test_a_release_that_a_kill_cut_off_is_paid_for_and_made_again(hub, monkeypatch):
    monkeypatch.setattr(hub.blobs, "write", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    for edge in EDGES:
        hub.upload(edge)
    monkeypatch.undo()
    assert [e.round for e in hub.ledger.entries] == [1]
    assert len(hub.coordinator.committed()) == 1
    hub.kill()
    hub.attach(*EDGES)
    hub.round(*EDGES)
    assert [e.round for e in hub.ledger.entries] == [1, 1]
    assert len(hub.coordinator.committed()) == 2


def test_a_budget_that_kills_have_used_up_ends_the_study():
    ledger = MemoryLedger()
    hub = Hub(count=3, target=epsilon({Release(4.0): 3}, 1e-3) + 1e-6, ledger=ledger)
    hub.attach(*EDGES)
    hub.round(*EDGES)
    ledger.entries += [ledger.entries[0]] * 2  # of releases that were never committed
    hub.kill()
    hub.attach(*EDGES)
    assert hub.coordinator.finished
    assert hub.kinds().count("finished") == 1
    assert len(hub.coordinator.committed()) == 2


def test_more_rounds_are_refused_with_the_number_that_is_left():
    hub = Hub(count=2, target=epsilon({Release(4.0): 3}, 1e-3) + 1e-6)
    hub.attach(*EDGES)
    hub.round(*EDGES)
    with pytest.raises(StudyError, match="overspend") as caught:
        hub.coordinator.extend(3, "r")
    assert caught.value.remedy.startswith("2 rounds are left")
    assert hub.coordinator.extend(1, "r") == 3
    hub.round(*EDGES)
    hub.round(*EDGES)
    assert hub.coordinator.finished
    with pytest.raises(StudyError):
        hub.coordinator.extend(1, "s")


def test_asked_twice_in_one_request_is_given_once():
    """The second time the budget has room for what was given already and for no more."""
    hub = Hub(count=1, target=epsilon({Release(4.0): 2}, 1e-3) + 1e-6)
    assert hub.coordinator.extend(1, "r") == 2
    assert hub.coordinator.extend(1, "r") == 2
    with pytest.raises(StudyError, match="overspend"):
        hub.coordinator.extend(1, "another")


def test_who_is_quarantined_by_hand_is_not_asked(hub):
    for edge in EDGES:
        hub.coordinator.fail(EdgeId(edge), 1, "no")
    hub.coordinator.quarantine(EdgeId("c"), 5, "by hand")
    hub.orders.clear()
    hub.turn()
    assert set(hub.orders) == {"a", "b"}


def test_by_lot_a_round_asks_as_many_as_said():
    hub = Hub(more='sampling = "fixed"\nsample = 0.67\n')
    hub.attach("a", "b")
    assert not hub.orders  # below the population
    hub.attach("c")
    assert len(hub.orders) == 2


def test_without_a_ledger_there_is_no_study():
    with pytest.raises(StudyError, match="no ledger"):
        Coordinator(
            parse_study(Hub().text, where="test"),
            settings=b"",
            initial=lambda: toy_model(0),
            shape=(FEATURES, CLASSES),
            strategy=make_strategy(StrategySettings(), LearnerSettings()),
            screen=NoScreen(),
            journal=Journal(MemoryStorage().connect),
            blobs=MemoryBlobs(),
            clock=ManualClock(),
            send=lambda *_: None,
            on_event=lambda _: None,
        )


def test_a_model_that_follows_its_batches_gets_no_noise():
    with pytest.raises(StudyError, match="variance"):
        check_model({"running.var": np.ones(2, np.float32)})
    with pytest.raises(StudyError, match="whole numbers"):
        check_model({"steps": np.ones(2, np.int64)})


def test_the_scale_is_the_studys_own_or_what_is_usual():
    usual = (np.array([1.0, 2.0], np.float32), np.array([3.0, 4.0], np.float32))
    study = parse_study(Hub().text, where="test")
    assert with_public_scale({}, study, usual)["scale.std"].tolist() == [3.0, 4.0]
    own = parse_study(Hub(more="scale_mean = [5.0, 6.0]\nscale_std = [7.0, 8.0]").text, where="test")
    assert with_public_scale({}, own, usual)["scale.mean"].tolist() == [5.0, 6.0]
    for wrong in ("scale_mean = [1.0]", "scale_std = [1.0, 0.0]"):
        with pytest.raises(StudyError):
            with_public_scale({}, parse_study(Hub(more=wrong).text, where="test"), usual)
    assert math.isclose(study.privacy.clip_norm, 0.2)


# -- by patient

PATIENTS = 'unit = "patient"\n'


def by_patient(clip=0.2):
    hub = Hub(more=PATIENTS)
    hub.text = hub.text.replace("clip_norm = 0.2", f"clip_norm = {clip}")
    hub.start()
    hub.attach(*EDGES)
    return hub


def test_an_edge_that_does_not_say_how_many_patients_it_clipped_does_not_count():
    """An older one sends its whole update, as if it were one patient's."""
    hub = by_patient()
    receipt = hub.upload("a")
    assert not receipt.accepted
    assert receipt.reason == "metrics"


@pytest.mark.parametrize(("patients", "reason"), [(0.5, "patients"), (5_000.0, "patients"), (1.0, "clip")])
def test_a_sum_that_cannot_be_one_over_so_many_patients_does_not_count(patients, reason):
    receipt = by_patient(0.001).upload("a", patients=patients)
    assert not receipt.accepted
    assert receipt.reason == reason


def test_a_sum_over_patients_is_not_clipped_again(monkeypatch):
    monkeypatch.setattr(central, "discrete_gaussian", lambda _sigma, size: np.zeros(size, np.int64))
    hub = by_patient(0.01)
    sums = [decode_model(toy_training(e, hub.orders[e], hub.orders[e].model, b"").data) for e in EDGES]
    for edge in EDGES:
        assert hub.upload(edge, patients=200.0).accepted
    hub.turn()
    moved = {n: hub.model(1)[n] - hub.model(0)[n] for n in ("b", "w")}
    wanted = {n: sum(s[n] for s in sums) / 3 for n in ("b", "w")}
    assert all(np.allclose(moved[n], wanted[n], atol=1e-6) for n in moved)


def test_one_patient_does_not_decide_whether_the_others_of_its_edge_count():
    """An update ten times as long as its edge's past would be set aside by edge; by patient no past is looked at."""
    hub = by_patient(10.0)
    for _ in range(3):
        for edge in EDGES:
            assert hub.upload(edge, patients=200.0).accepted
        hub.turn()
    assert [c.number for c in hub.coordinator.committed()] == [0, 1, 2, 3]
