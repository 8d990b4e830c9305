"""A hub that issues certificates to edges that do not exist: what it gets without a roster, and that it gets nothing with one."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.learn.privacy.test_blind import STUDY, Ward, peers, step_of

from wardround.clock import SystemClock
from wardround.learn.messages import Order
from wardround.learn.models import decode_model
from wardround.learn.privacy import blind
from wardround.learn.privacy.edge_masks import EdgeMasks, Rostered
from wardround.learn.privacy.hub_masks import HubMasks, HubState
from wardround.learn.privacy.ring import Scale
from wardround.learn.privacy.wire import MasksRefused, Session
from wardround.records import EdgeId
from wardround.simulation.toy import toy_authority, toy_identity, toy_training
from wardround.trust.certificates import new_key
from wardround.trust.peers import sign_masks
from wardround.trust.roster import LastingKey, PinnedRoster, Roster, read_entry, roster_key, sign_roster

THREE = ("e0", "e1", "e2")


class Keeper:
    """Whoever holds the roster key, and the lasting keys of edges in a folder."""

    def __init__(self, folder, edges):
        self.folder, self.secret, self.edges = folder, new_key(), tuple(edges)
        for edge in self.edges:
            (folder / edge).mkdir()

    def lasting(self, edge):
        return LastingKey(self.folder / edge)

    def roster(self, edges=None, number=1):
        entries = dict(read_entry(self.lasting(e).entry(e)) for e in edges or self.edges)
        return sign_roster(Roster(number, entries), self.secret)

    def rostered(self, edge):
        pinned = PinnedRoster(self.folder / edge)
        pinned.pin(roster_key(self.secret))
        return Rostered(self.lasting(edge).vouch, pinned.admit)


def update_of(edge):
    """What a toy edge would send in the clear, as words of a ring of three."""
    tensors = decode_model(toy_training(edge, Order("s", 0, 1, "statistics", "", b"", 0.0), b"", b"").data)
    return Scale(3, 1e4, 1000).encode([t.astype(np.float32) for t in tensors.values()], 50)[0]


def minted(edge):
    """An identity that the hub makes up: its authority signs it as it signs any."""
    key = new_key()
    return key, toy_authority().issue_edge(edge, key.public_key(), 1.0)


def signer(key, certificate):
    return lambda data: (sign_masks(key, data), certificate)


class LyingHub:
    """Has the authority's key, makes two edges up, and puts a victim among them. It follows the protocol to the letter."""

    def __init__(self, victim, rostered=None, roster=b"", names=("sybil-1", "sybil-2")):
        self.session = Session("s", 1, 1, "train", "base", "settings", 3)
        check = peers(SystemClock()).check
        self.victim, self.names = victim, names
        self.edges = {}
        for edge in (victim, *names):
            identity = toy_identity(edge) if edge == victim else minted(edge)
            how = {"rostered": rostered} if edge == victim and rostered is not None else {}
            self.edges[edge] = EdgeMasks.begin(self.session, edge, sign=signer(*identity), verify=check, **how)
        self.hub = HubMasks(HubState(self.session, roster), verify=check)

    def unmask(self):
        """The victim's update."""
        for edge, own in self.edges.items():
            self.hub.offer(edge, own.offer())
        circle = self.hub.close_circle()
        for edge, own in sorted(self.edges.items(), key=lambda item: item[0] != self.victim):
            self.hub.deal(edge, own.deal(circle))
        self.hub.close_deals()
        masked = {}
        for edge, own in self.edges.items():
            own.take(self.hub.inbox(edge))
            masked[edge] = own.mask(update_of(self.victim) if edge == self.victim else np.zeros_like(update_of(self.victim)))
        survivors = self.hub.survive(list(self.edges))
        for edge, own in self.edges.items():
            self.hub.vote(edge, own.vote(survivors))
        for edge, own in self.edges.items():
            self.hub.opening(edge, own.open(self.hub.votes))
        total = np.sum(list(masked.values()), axis=0, dtype=np.uint32)
        self.hub.unmask(total)
        return total


def test_two_edges_that_the_hub_makes_up_unmask_a_victim_that_pins_no_roster():
    """What the roster is for: without it the attack goes through, and nobody notices."""
    np.testing.assert_array_equal(LyingHub("e0").unmask(), update_of("e0"))


@pytest.mark.parametrize("names", [("sybil-1", "sybil-2"), ("e1", "e2"), ("e1", "sybil-1")])
def test_edges_that_the_hub_makes_up_get_nothing_of_a_victim_that_pins_one(names, tmp_path):
    """Under names of its own, and under those of true edges. The roster that it shows is the true one."""
    keeper = Keeper(tmp_path, THREE)
    hub = LyingHub("e0", keeper.rostered("e0"), keeper.roster(), names)
    with pytest.raises(MasksRefused) as caught:
        hub.unmask()
    assert (caught.value.reason, caught.value.lie) == ("roster", True)
    assert hub.edges["e0"].state.deal is None  # not a share was given


def test_a_hub_without_a_roster_or_with_one_of_its_own_gets_nothing(tmp_path):
    keeper = Keeper(tmp_path, THREE)
    own = Roster(1, {"sybil-1": "0" * 64, "sybil-2": "0" * 64, "e0": keeper.lasting("e0").fingerprint})
    for roster, lie in ((b"", False), (sign_roster(own, new_key()), True)):
        with pytest.raises(MasksRefused) as caught:
            LyingHub("e0", keeper.rostered("e0"), roster).unmask()
        assert (caught.value.reason, caught.value.lie) == ("roster", lie)


def ward(keeper, edges=("e0", "e1", "e2", "e3"), **how):
    return Ward(edges, rostered={e: keeper.rostered(e) for e in keeper.edges}, **how)


def test_a_ward_whose_edges_pin_a_roster_trains_with_those_it_names(tmp_path):
    """The hub asks nobody else, as that would spoil the circle."""
    keeper = Keeper(tmp_path, ("e0", "e1", "e2", "e3", "e4"))
    own = ward(keeper, keeper.edges, roster=keeper.roster(("e0", "e1", "e2", "e3")))
    own.begin()
    own.run()
    assert own.coordinator.finished
    assert not own.failed
    assert all(sorted(c.folded) == ["e0", "e1", "e2", "e3"] for c in own.committed())


def test_a_roster_that_changes_holds_from_the_next_round_on_and_over_kills(tmp_path):
    keeper = Keeper(tmp_path, ("e0", "e1", "e2", "e3"))
    own = ward(keeper, roster=keeper.roster(("e0", "e1", "e2"), number=1))
    own.begin()
    own.run(lambda _edge, message: step_of(message) == "Inbox" and message.round_number == 1)
    own.roster = keeper.roster(number=2)
    own.kill_hub()  # the session goes on with the roster that it has shown
    for edge in THREE:
        if edge in own.orders:
            own.deliver(edge, own.orders[edge])
    own.run()
    for _ in range(3):
        own.clock.advance(20.0)
        own.coordinator.tick()
        own.run()
    assert own.coordinator.finished
    assert not [error for _, error in own.failed if error.lie]
    assert [len(c.folded) for c in own.committed()] == [3, 3, 4, 4]


def test_an_edge_whose_certificate_nobody_vouches_for_is_out_and_the_others_go_on(tmp_path):
    """Its lasting key is lost, say: it has another one than the roster knows."""
    keeper = Keeper(tmp_path, ("e0", "e1", "e2", "e3"))
    roster = keeper.roster()
    (tmp_path / "e3" / "lasting.key").unlink()
    own = ward(keeper, roster=roster)
    own.begin()
    own.run()
    for _ in range(4):
        own.clock.advance(31.0)
        own.coordinator.tick()
        own.run()
    assert own.coordinator.finished
    assert {(e.edge, e.reason) for e in own.events if e.kind == "refused"} == {("e3", "masks-roster")}
    assert all(sorted(c.folded) == ["e0", "e1", "e2"] for c in own.committed())


def test_a_hub_that_asks_past_its_roster_is_refused_by_every_edge_that_pins_one(tmp_path, monkeypatch):
    """The product's own hub with its checks taken out; two of its five edges are made up."""
    keeper = Keeper(tmp_path, THREE)
    monkeypatch.setattr(blind, "admit_shown", lambda _roster, _members: None)
    monkeypatch.setattr(blind.Blind, "eligible", lambda _self, edges: list(edges))
    own = ward(keeper, ("e0", "e1", "e2", "sybil-1", "sybil-2"), roster=keeper.roster())
    own.begin()
    own.run()
    assert {(edge, error.reason, error.lie) for edge, error in own.failed} == {(e, "roster", True) for e in THREE}
    assert not own.committed()
    assert all(own.agents[e]._read("s").state.deal is None for e in THREE)


def test_a_roster_that_cannot_be_read_lets_no_round_begin(tmp_path):
    keeper = Keeper(tmp_path, THREE)
    own = ward(keeper, THREE, text=STUDY, roster=b"{")
    own.begin()
    own.run()
    assert not own.coordinator.committed()
    own.roster = keeper.roster()
    own.coordinator.attach(EdgeId("e0"))
    for _ in range(3):
        own.clock.advance(5.0)
        own.coordinator.tick()
        own.run()
    assert own.coordinator.finished
