"""The screens behind a real coordinator: who copies does not count, what they know survives a kill, refusals name a reason."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from wardround.clock import ManualClock
from wardround.collect.storage import MemoryStorage
from wardround.errors import StudyError
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.coordinator import SETTLE_S, Coordinator
from wardround.learn.journal import Journal
from wardround.learn.messages import Order, Upload
from wardround.learn.models import decode_model, encode_model
from wardround.learn.strategies import make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, parse_study
from wardround.learn.study_checks import check
from wardround.process.transforms import TASKS
from wardround.records import EdgeId
from wardround.simulation.toy import CLASSES, FEATURES, signed, toy_training
from wardround.watch.detectors.own_history import OwnHistory
from wardround.watch.detectors.screens import Screens

EDGES = ["a", "b", "c", "d", "e", "f"]
STUDY = 'name = "s"\ntask = "activity"\n[rounds]\ncount = 30\nedges_min = 2\ndeadline_s = 10.0\nexamples_min = 1\n'


class Hub:
    """A coordinator over storage that outlives it; its model is large enough for directions to mean something."""

    def __init__(self, edges=EDGES, trial=0):
        self.edges, self.trial = list(edges), trial
        self.storage, self.blobs, self.clock = MemoryStorage(), MemoryBlobs(), ManualClock()
        self.rng, self.orders, self.events = np.random.default_rng(0), {}, []
        self.start()

    def start(self):
        self.orders.clear()
        self.coordinator = Coordinator(
            parse_study(STUDY, where="test"),
            settings=b"",
            initial=lambda: {"w": np.zeros((40, 30), np.float32)},
            shape=(FEATURES, CLASSES),
            strategy=make_strategy(StrategySettings(), LearnerSettings()),
            screen=Screens("test", trial_rounds=self.trial),
            journal=Journal(self.storage.connect),
            blobs=self.blobs,
            clock=self.clock,
            send=lambda edge, message: self.orders.update({edge: message}) if isinstance(message, Order) else None,
            on_event=self.events.append,
        )
        for edge in self.edges:
            self.coordinator.attach(EdgeId(edge))
        self.coordinator.tick()
        self.clock.advance(SETTLE_S + 0.1)
        self.coordinator.tick()

    def send(self, edge, data, examples=60):
        order = self.orders[edge]
        sha256 = hashlib.sha256(data).hexdigest()
        upload = Upload(order.study, order.round_number, order.task, order.base, len(data), sha256, examples)
        upload = signed(edge, upload)
        self.coordinator.append(EdgeId(edge), upload, 0, data)
        assert self.coordinator.finish(EdgeId(edge), upload).accepted

    def round(self, change=lambda updates: updates):
        """What was folded, and what was set aside."""
        updates = {e: (0.1 * self.rng.normal(size=(40, 30))).astype(np.float32) for e in self.edges}
        for edge, update in change(updates).items():
            self.send(edge, encode_model({"w": update}))
        done = self.coordinator.committed()[-1]
        return set(done.folded), set(done.aside)

    def last_step(self):
        *_, before, after = (decode_model(self.coordinator.model(c.model))["w"] for c in self.coordinator.committed())
        return after - before


@pytest.fixture
def hub():
    hub = Hub()
    for edge in EDGES:
        hub.send(edge, toy_training(edge, hub.orders[edge], b"", b"").data)
    return hub


@pytest.mark.parametrize("killed", [False, True])
def test_copies_do_not_count_from_their_second_round_on(hub, killed):
    def twice(updates):
        return updates | {"b": 1.5 * updates["a"]}

    assert hub.round(twice) == (set(EDGES), set())
    if killed:
        hub.blobs.crash()
        hub.start()
    assert hub.round(twice) == (set(EDGES) - {"a", "b"}, {"a", "b"})
    assert {(e.edge, e.reason) for e in hub.events if e.kind == "quarantined"} == {("a", "twins-peer"), ("b", "twins-peer")}


@pytest.mark.parametrize("killed", [False, True])
def test_who_sends_the_hubs_last_step_back_does_not_count(hub, killed):
    hub.round()
    assert hub.round(lambda updates: updates | {"c": hub.last_step()}) == (set(EDGES), set())
    if killed:
        hub.blobs.crash()
        hub.start()
    assert hub.round(lambda updates: updates | {"c": 0.7 * hub.last_step()}) == (set(EDGES) - {"c"}, {"c"})
    assert [(e.edge, e.reason) for e in hub.events if e.kind == "quarantined"] == [("c", "twins-stale")]


def test_what_who_is_set_aside_sends_does_not_become_its_own_history(hub, monkeypatch):
    said = []
    judge = OwnHistory.judge

    def heard(self, number, updates, refused=()):
        said.append(set(refused))
        return judge(self, number, updates, refused)

    monkeypatch.setattr(OwnHistory, "judge", heard)
    hub.coordinator.quarantine(EdgeId("a"), 30, "edge-loss")
    hub.round()
    assert said == [{"a"}]


class Trial(Hub):
    """A study on trial, whose edges each have data of their own; `late` joins when the others have had their first rounds."""

    def __init__(self):
        super().__init__(trial=3)
        self.own = {e: self.rng.normal(size=(40, 30)) for e in [*EDGES, "late"]}
        for edge in EDGES:
            self.send(edge, toy_training(edge, self.orders[edge], b"", b"").data)
        for _ in range(6):
            assert self.round(self.honest) == (set(EDGES), set())
        self.edges.append("late")
        self.coordinator.attach(EdgeId("late"))
        self.round(lambda updates: self.honest({e: u for e, u in updates.items() if e != "late"}))  # had begun without it

    def honest(self, updates):
        return {e: (u + 0.1 * self.own[e]).astype(np.float32) for e, u in updates.items()}

    def noise(self, updates):
        return self.honest(updates) | {"late": updates["late"]}

    def kinds(self):
        return [(e.kind, e.edge, e.reason) for e in self.events if e.kind in ("on-trial", "admitted", "quarantined", "released")]


@pytest.mark.parametrize("killed", [False, True])
def test_who_joins_late_weighs_nothing_for_the_updates_of_its_trial(killed):
    hub = Trial()
    for number in range(3):
        if killed and number == 1:
            hub.blobs.crash()
            hub.start()
        assert hub.round(hub.honest) == (set(EDGES), {"late"})
        kept = Journal(hub.storage.connect).kept(None, "late", 1)[0]
        assert (kept.judged.reason, kept.judged.detail) == ("on-trial", f"update {number + 1} of 3 of its trial")
        assert hub.coordinator.quarantined() == ({EdgeId("late"): "on-trial"} if number < 2 else {})
    assert hub.round(hub.honest) == ({*EDGES, "late"}, set())
    assert hub.kinds() == [("on-trial", "late", "on-trial"), ("admitted", "late", "on-trial")]
    reported = [e.reported["late"] for e in hub.events if e.kind == "committed" and "late" in e.reported]
    assert [(r.aside, r.trial) for r in reported[-4:]] == [(True, True)] * 3 + [(False, False)]
    assert "late" not in {edge for _, edge, verdict in hub.coordinator._journal.experiences(0) if verdict == "aside"}


def test_who_does_not_fit_is_set_aside_by_name_and_tried_meanwhile():
    hub = Trial()
    for _ in range(3):
        assert hub.round(hub.noise) == (set(EDGES), {"late"})
    assert hub.kinds() == [("on-trial", "late", "on-trial"), ("quarantined", "late", "trial-noise")]
    for _ in range(4):  # it has changed; a trial that ends well does not end what it was set aside for
        assert hub.round(hub.honest) == (set(EDGES), {"late"})
    assert hub.coordinator.quarantined() == {EdgeId("late"): "trial-noise"}
    assert hub.kinds()[2:] == []


@pytest.mark.parametrize("killed", [False, True])
def test_a_person_ends_a_trial(killed):
    hub = Trial()
    assert hub.round(hub.noise) == (set(EDGES), {"late"})
    assert hub.coordinator.release(EdgeId("late"))
    if killed:
        hub.blobs.crash()
        hub.start()
    assert hub.round(hub.noise) == ({*EDGES, "late"}, set())
    assert hub.kinds()[:2] == [("on-trial", "late", "on-trial"), ("released", "late", "")]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("[triage]\ntrial_rounds = 2\n", "a trial of 2 updates"),
        ('[triage]\ntrial_rounds = 8\n[privacy]\nmode = "blind"\n', "privacy.mode `blind`"),
        (
            "[triage]\ntrial_rounds = 8\n[watch]\nrow_counts = false\n"
            '[privacy]\nmode = "clear-dp"\npopulation = 1000\ntarget_epsilon = 50.0\n',
            "privacy.mode `clear-dp`",
        ),
        ('[triage]\ntrial_rounds = 8\n[learner]\nkind = "xgboost"\n[strategy]\nname = "bagging"\n', "of trees"),
    ],
)
def test_where_no_single_edge_may_be_looked_at_there_is_no_trial(words, why):
    with pytest.raises(StudyError, match=why):
        check(parse_study(STUDY.replace("edges_min = 2", "edges_min = 3") + words, where="test"), TASKS)


def test_a_study_may_have_a_trial():
    check(parse_study(STUDY + "[triage]\ntrial_rounds = 8\n", where="test"), TASKS)
