"""Blind studies without a network: the coordinator and edges' agents, killed at every step, lied to, and short of edges."""

from __future__ import annotations

import time
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from wardround.clock import ManualClock
from wardround.collect.storage import MemoryStorage
from wardround.errors import LearnError, StudyError
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.coordinator import SETTLE_S, Coordinator
from wardround.learn.journal import Journal
from wardround.learn.messages import Done, MaskStep, Order, new_upload
from wardround.learn.models import decode_model, encode_model
from wardround.learn.privacy.agent import MaskAgent
from wardround.learn.privacy.blind import STATE, Masking
from wardround.learn.privacy.edge_masks import ANYBODY
from wardround.learn.privacy.modes import BLIND_STRATEGIES, MaskSettings
from wardround.learn.privacy.vectors import vector_of
from wardround.learn.privacy.wire import Circle, MasksRefused, Survivors, encode, from_edge, from_hub
from wardround.learn.receipts import advice
from wardround.learn.strategies import STRATEGIES, make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, parse_study
from wardround.learn.study_checks import check
from wardround.process.transforms import TASKS
from wardround.records import EdgeId
from wardround.simulation.toy import CLASSES, FEATURES, signed, toy_authority, toy_identity, toy_model, toy_training
from wardround.trust.peers import Peers, sign_masks
from wardround.watch.detectors.screens import Screens

STUDY = """
name = "s"
task = "activity"
[rounds]
count = 3
edges_min = 3
deadline_s = 30.0
examples_min = 1
[privacy]
mode = "blind"
weight_max = 1000
"""
FIVE = tuple(f"e{i}" for i in range(5))


def peers(clock):
    return Peers(lambda: toy_authority().pem, clock.now_us)


class Clock(ManualClock):
    """Certificates are of today."""

    def now_us(self):
        return round(time.time() * 1e6)


class Ward:
    """A hub and its edges over memory; messages wait in `post` until `run` delivers them."""

    ledger = None  # of a study with a budget

    def __init__(self, edges=FIVE, text=STUDY, *, rostered=None, roster=b""):
        self.rostered, self.roster = rostered or {}, roster
        self.storage, self.blobs, self.clock = MemoryStorage(), MemoryBlobs(), Clock()
        self.edges, self.text, self.events, self.post = list(edges), text, [], []
        self.disks = {e: MemoryBlobs() for e in edges}
        self.agents, self.orders, self.failed, self.said = {}, {}, [], []
        self.away: set[str] = set()
        for edge in edges:
            self.start_edge(edge)
        self.start_hub()

    def start_edge(self, edge):
        key, certificate = toy_identity(edge)
        self.agents[edge] = MaskAgent(
            edge,
            self.disks[edge],
            sign=lambda data: (sign_masks(key, data), certificate),
            verify=peers(self.clock).check,
            rostered=self.rostered.get(edge, ANYBODY),
        )

    def start_hub(self):
        self.post.clear()
        study = parse_study(self.text, where="test")
        self.coordinator = Coordinator(
            study,
            settings=b"settings",
            initial=lambda: toy_model(0),
            shape=(FEATURES, CLASSES),
            strategy=make_strategy(study.strategy, study.learner),
            screen=Screens("test"),
            journal=Journal(self.storage.connect),
            blobs=self.blobs,
            clock=self.clock,
            send=lambda edge, message: self.post.append((edge, message)),
            on_event=self.events.append,
            masking=Masking(peers(self.clock).check, lambda edge, step: self.post.append((edge, step)), lambda: self.roster),
            ledger=self.ledger,
        )

    def kill_hub(self):
        self.blobs.crash()
        self.start_hub()
        for edge in self.edges:
            if edge not in self.away:
                self.coordinator.attach(EdgeId(edge))

    def begin(self):
        for edge in self.edges:
            self.coordinator.attach(EdgeId(edge))
        self.coordinator.tick()
        self.clock.advance(SETTLE_S + 0.1)
        self.coordinator.tick()

    def lose(self, edge):
        self.away.add(edge)
        self.coordinator.lose(EdgeId(edge))

    def run(self, until=lambda _edge, _message: False, most=10_000):
        """Deliver until nothing waits, or `until(edge, message)` says to stop before one."""
        for _ in range(most):
            if not self.post:
                return None
            edge, message = self.post[0]
            if until(edge, message):
                return edge
            self.post.pop(0)
            if edge not in self.away:
                self.deliver(edge, message)
        raise AssertionError("the messages have no end")

    def deliver(self, edge, message):
        try:
            if isinstance(message, Order):
                self.orders[edge] = message
                self.answer(edge, self.agents[edge].begin(message))
            elif isinstance(message, MaskStep):
                self.said.append((edge, from_hub(message.body)))
                self.answer(edge, self.agents[edge].receive(message))
            self.train(edge)
        except MasksRefused as error:
            self.failed.append((edge, error))
            self.coordinator.fail(EdgeId(edge), message.round_number, f"masks: {error}")

    def answer(self, edge, step):
        if step is not None:
            self.coordinator.masks(EdgeId(edge), step)

    def train(self, edge):
        order = self.orders.get(edge)
        if order is None or not self.agents[edge].can_mask(order):
            return
        done = toy_training(edge, order, self.coordinator.model(order.base) if order.base else b"", b"")
        masked = self.agents[edge].mask(order, done)
        del self.orders[edge]
        upload = signed(edge, new_upload(order, masked.data, masked.examples, masked.metrics))
        self.coordinator.append(EdgeId(edge), upload, 0, masked.data)
        self.coordinator.finish(EdgeId(edge), upload)

    def committed(self):
        return [c for c in self.coordinator.committed() if c.folded]


def step_of(message):
    return type(from_hub(message.body)).__name__ if isinstance(message, MaskStep) else ""


def reference():
    """The models of the same study in the clear, with its weights."""
    models, base, digest = [], toy_model(0), ""
    for number in range(4):
        order = Order("s", number, 1, "train" if number else "statistics", digest, b"", 0.0)
        dones = [toy_training(e, order, encode_model(base), b"") for e in FIVE]
        if number:
            total = sum(d.examples for d in dones)
            updates = [(d.examples / total, decode_model(d.data)) for d in dones]
            base = base | {n: base[n] + sum(w * u[n] for w, u in updates) for n in ("w", "b")}
        models.append({n: base[n] for n in ("w", "b")})
    return models


def assert_as_in_the_clear(ward):
    made = [decode_model(ward.coordinator.model(c.model)) for c in ward.committed()]
    for found, expected in zip(made, reference(), strict=True):
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    np.testing.assert_array_equal(made[0]["scale.std"], np.ones(FEATURES, np.float32))


def test_a_blind_study_makes_the_models_of_the_clear_one():
    ward = Ward()
    ward.begin()
    ward.run()
    assert ward.coordinator.finished
    assert not ward.failed
    assert_as_in_the_clear(ward)
    assert ward.blobs.size(STATE) == 0
    for edge in FIVE:  # what an edge kept secret for a sum that is open is gone
        saved = msgspec.msgpack.decode(ward.disks[edge].read("s.masks"))
        assert (saved["opened"], saved["state"]["mask_secret"], saved["state"]["seed"]) == (3, b"", b"")


@pytest.mark.parametrize("who", ["hub", *FIVE[:2]])
@pytest.mark.parametrize("step", ["Circle", "Inbox", "Survivors", "Votes"])
@pytest.mark.parametrize("after", [0, 3])
def test_a_kill_before_any_message_costs_no_round(who, step, after):
    """Before the `after`-th message of that kind: a restart finds on disk what was said, and says the same."""
    ward = Ward()
    ward.begin()
    seen = 0

    def here(_edge, message):
        nonlocal seen
        if step_of(message) != step:
            return False
        seen += 1
        return seen == after + 1 + 5  # of the second round: round 1, after the statistics

    assert ward.run(here) is not None
    if who == "hub":
        ward.kill_hub()
        for edge in FIVE:  # their streams are new, their programs are not
            if edge in ward.orders:
                ward.deliver(edge, ward.orders[edge])
    else:
        ward.lose(who)
        ward.disks[who].crash()
        ward.start_edge(who)
        ward.away.discard(who)
        ward.coordinator.attach(EdgeId(who))
    ward.run()
    for _ in range(5):  # whoever was too late for a step is out of that round alone
        ward.clock.advance(20.0)
        ward.coordinator.tick()
        ward.run()
    assert ward.coordinator.finished
    assert not [error for _, error in ward.failed if error.lie]
    assert len(ward.committed()) == 4
    assert all(len(c.folded) >= 4 for c in ward.committed())


@pytest.mark.parametrize("step", ["Circle", "Inbox", "Survivors", "Votes"])
def test_an_edge_that_goes_for_good_at_any_step_is_left_out(step):
    ward = Ward()
    ward.begin()
    edge = ward.run(lambda _edge, message: step_of(message) == step)
    ward.lose(edge)
    for _ in range(6):
        ward.run()
        ward.clock.advance(15.0)
        ward.coordinator.tick()
    ward.run()
    assert ward.coordinator.finished
    assert all(edge not in c.folded for c in ward.committed()[1:])
    assert (edge in ward.committed()[0].folded) == (step in ("Survivors", "Votes"))


def test_an_edge_that_missed_the_list_of_survivors_is_told_it_before_the_votes():
    """A hub that is killed says its list into streams that end: an edge without it must not take votes for a lie."""
    ward = Ward()
    ward.begin()
    edge = ward.run(lambda _edge, message: step_of(message) == "Survivors")
    ward.post.pop(0)  # lost with its stream, while the others vote
    ward.run()
    assert not ward.failed
    assert ward.coordinator.finished
    assert all(edge in c.folded for c in ward.committed())


def test_too_few_at_any_step_abandon_the_round_and_the_next_attempt_counts():
    for step, others in (("Circle", FIVE[2:]), ("Inbox", FIVE[3:]), ("Survivors", FIVE[3:])):
        ward = Ward(text=STUDY.replace("edges_min = 3", "edges_min = 4"))
        ward.begin()
        ward.run(lambda _edge, message, step=step: step_of(message) == step)
        for edge in others:
            ward.lose(edge)
        for _ in range(4):
            ward.run()
            ward.clock.advance(31.0)
            ward.coordinator.tick()
        assert not ward.coordinator.committed()
        assert any(e.kind == "abandoned" for e in ward.events)
        ward.away.clear()
        for edge in others:
            ward.start_edge(edge)
            ward.coordinator.attach(EdgeId(edge))
        for _ in range(8):
            ward.clock.advance(31.0)
            ward.coordinator.tick()
            ward.run()
        assert ward.coordinator.finished, step
        assert not [error for _, error in ward.failed if error.lie], step
        assert_as_in_the_clear(ward)


def test_a_round_that_was_opened_and_lost_is_never_opened_again():
    """The hub loses the openings of too many: the edges would open no second sum of that round, so it ends without a fold."""
    ward = Ward()
    ward.begin()
    ward.run(lambda _edge, message: step_of(message) == "Circle" and message.round_number == 1)
    seen = 0

    def third_vote(_edge, message):
        nonlocal seen
        seen += step_of(message) == "Votes"
        return seen == 3

    ward.run(third_vote)  # two have opened round 1
    for edge in FIVE[2:]:
        ward.lose(edge)
    ward.run()
    ward.clock.advance(31.0)
    ward.coordinator.tick()
    assert [e.kind for e in ward.events][-1] == "abandoned"
    void = ward.coordinator.committed()[-1]
    assert (void.number, void.model, dict(void.folded)) == (1, void.base, {})
    ward.away.clear()
    for edge in FIVE[2:]:
        ward.coordinator.attach(EdgeId(edge))
    for _ in range(6):
        ward.clock.advance(31.0)
        ward.coordinator.tick()
        ward.run()
    assert ward.coordinator.finished
    assert [c.number for c in ward.committed()] == [0, 2, 3, 4]
    assert not ward.failed


def test_a_hub_that_starts_a_study_anew_is_told_that_its_rounds_were_opened():
    ward = Ward()
    ward.begin()
    ward.run()
    ward.storage, ward.blobs = MemoryStorage(), MemoryBlobs()
    ward.start_hub()
    ward.begin()
    ward.run()
    assert {edge for edge, _ in ward.failed} == set(FIVE)
    assert {error.reason for _, error in ward.failed} == {"replayed"}
    assert "another name" in advice("refused", "masks-replayed")
    assert not ward.coordinator.committed()


def test_a_list_of_survivors_that_differs_is_refused_and_the_round_goes_on_without_a_leak():
    ward = Ward()
    ward.begin()
    edge = ward.run(lambda _edge, message: step_of(message) == "Survivors")
    _, message = ward.post.pop(0)
    said = from_hub(message.body)
    first = ward.agents[edge].receive(message)
    assert isinstance(first, MaskStep)
    lie = replace(message, body=encode(Survivors(said.session, said.edges[:4])))
    with pytest.raises(MasksRefused) as caught:
        ward.agents[edge].receive(lie)
    assert caught.value.lie
    ward.start_edge(edge)  # a restart does not make it forget
    with pytest.raises(MasksRefused) as caught:
        ward.agents[edge].receive(lie)
    assert caught.value.reason == "survivors"


def test_what_was_given_is_on_disk_before_it_is_said():
    """An edge whose disk is full says nothing, and nothing of it binds."""
    ward = Ward()
    ward.begin()
    edge = ward.run(lambda _edge, message: step_of(message) == "Votes")
    _, message = ward.post[0]
    disk = ward.disks[edge]
    write, disk.write = disk.write, lambda *_: (_ for _ in ()).throw(OSError("full"))
    with pytest.raises(OSError, match="full"):
        ward.agents[edge].receive(message)
    disk.write = write
    saved = msgspec.msgpack.decode(disk.read("s.masks"))
    assert (saved["opened"], saved["state"]["opened"]) == (-1, False)
    assert ward.agents[edge].receive(message) is not None
    saved = msgspec.msgpack.decode(disk.read("s.masks"))
    assert (saved["opened"], saved["state"]["opened"]) == (0, True)


def test_an_edge_that_lies_is_refused_by_name_and_out_of_the_round():
    ward = Ward()
    ward.begin()
    edge = ward.run(lambda _edge, message: step_of(message) == "Votes")
    _, message = ward.post.pop(0)
    opening = from_edge(ward.agents[edge].receive(message).body)
    wrong = {dealer: share[:-1] + bytes([share[-1] ^ 1]) for dealer, share in opening.seeds.items()}
    body = encode(msgspec.structs.replace(opening, seeds=wrong))
    ward.coordinator.masks(EdgeId(edge), replace(message, body=body))
    refused = [e for e in ward.events if e.kind == "refused"]
    assert [(e.edge, e.reason) for e in refused] == [(edge, "masks-share")]
    ward.run()
    assert ward.coordinator.finished  # four of five are a quorum
    for body in (b"", b"\x00", encode(Circle(bytes(32), ()))):
        ward.coordinator.masks(EdgeId(edge), replace(message, body=body))


def test_an_edge_that_says_what_is_refused_without_end_is_written_down_once_an_attempt():
    ward = Ward()
    ward.begin()
    edge = ward.run(lambda _edge, message: step_of(message) == "Votes")
    _, message = ward.post.pop(0)
    for _ in range(50):
        ward.coordinator.masks(EdgeId(edge), replace(message, body=b"\x00"))
    refused = [e.reason for e in ward.events if e.kind == "refused"]
    assert refused
    assert len(refused) == len(set(refused))
    assert [r.reason for r in reversed(Journal(ward.storage.connect).refusals(edge=edge))] == refused
    ward.run()
    assert ward.coordinator.finished


def test_an_edge_in_quarantine_is_not_asked_as_nobody_could_set_its_update_aside():
    ward = Ward()
    ward.coordinator.quarantine(EdgeId("e2"), 50, "by hand")
    ward.begin()
    ward.run()
    assert ward.coordinator.finished
    assert all("e2" not in c.folded for c in ward.committed())


def test_an_update_that_is_no_vector_of_words_is_refused():
    ward = Ward()
    ward.begin()
    ward.run(lambda _edge, message: step_of(message) == "Inbox")
    edge, message = ward.post.pop(0)
    ward.agents[edge].receive(message)
    order = ward.orders[edge]
    done = replace(toy_training(edge, order, b"", b"kept"), metrics={"loss": 1.0}, rows=b"counts")
    good = ward.agents[edge].mask(order, done)
    assert good == Done(good.data, 1, {}, done.kept)  # no facts of one edge go beside the masked words
    words = decode_model(good.data)["masked"]
    for wrong, reason in (
        ({"masked": words[:-1]}, "shape"),
        ({"masked": words.astype(np.uint64)}, "dtype"),
        ({"other": words}, "names"),
        ({"masked": words, "more": words}, "names"),
    ):
        ward.events.clear()
        upload = signed(edge, new_upload(order, encode_model(wrong), 1, {}))
        ward.coordinator.append(EdgeId(edge), upload, 0, encode_model(wrong))
        assert ward.coordinator.finish(EdgeId(edge), upload).reason == reason


def test_whole_numbers_and_what_is_no_number_are_never_masked():
    settings = MaskSettings(8.0, 1000, 3, b"")
    for tensors in ({"batches": np.array([300])}, {"w": np.array([np.nan], np.float32)}):
        with pytest.raises(LearnError):
            vector_of(Done(encode_model(tensors), 5), "train", settings, 5)
    _, shrunk = vector_of(Done(encode_model({"w": np.array([16.0, 1.0], np.float32)}), 5), "train", settings, 5)
    assert shrunk == 0.5


def test_a_hub_without_a_way_for_masks_refuses_the_study():
    ward = Ward()
    with pytest.raises(StudyError, match="not carried here"):
        Coordinator(
            parse_study(STUDY, where="test"),
            settings=b"",
            initial=lambda: toy_model(0),
            shape=(FEATURES, CLASSES),
            strategy=make_strategy(StrategySettings(), LearnerSettings()),
            screen=Screens("test"),
            journal=Journal(ward.storage.connect),
            blobs=ward.blobs,
            clock=ward.clock,
            send=lambda *_: None,
            on_event=lambda _event: None,
        )


def strategy_text(name):
    more = '[learner]\nkind = "xgboost"\n' if name == "bagging" else "[learner]\nmomentum = 0.0\n"
    return STUDY + f'[strategy]\nname = "{name}"\n' + more


@pytest.mark.parametrize(
    ("text", "named"),
    [
        *((strategy_text(name), name) for name in STRATEGIES if name not in BLIND_STRATEGIES),
        (STUDY.replace("[privacy]", 'mode = "buffered"\n[privacy]'), "buffered"),
        (STUDY.replace("[privacy]", "over_selection = 1.5\n[privacy]"), "over_selection"),
        (STUDY.replace("edges_min = 3", "edges_min = 2"), "edges_min"),
        (STUDY + '[compression]\nupdate = "int8"\n', "compression"),
        (STUDY + "[compression]\nzstd = true\n", "compression"),
        (STUDY.replace("weight_max = 1000", "weight_max = 1000000"), "weight_max"),
        (STUDY.replace("weight_max = 1000", "clip = 0.0"), "clip"),
        (STUDY.replace('"blind"', '"hidden"'), "hidden"),
        ('name = "s"\nkind = "statistics"\n[statistics]\nsignals = ["x"]\n[privacy]\nmode = "blind"\n', "statistics"),
    ],
)
def test_what_cannot_be_had_blind_is_refused_by_name(text, named):
    with pytest.raises(StudyError, match=named):
        check(parse_study(text, where="test"), TASKS, signals=("x",))


@pytest.mark.parametrize("name", BLIND_STRATEGIES)
def test_what_can_be_had_blind_looks_at_the_mean_alone(name):
    text = STUDY + f'[strategy]\nname = "{name}"\n'
    check(parse_study(text, where="test"), TASKS)
    strategy = make_strategy(StrategySettings(name=name), LearnerSettings())
    assert strategy.means_only
    assert not strategy.needs
    assert not any((strategy.rule.controls, strategy.rule.dynamic, strategy.rule.trees))
