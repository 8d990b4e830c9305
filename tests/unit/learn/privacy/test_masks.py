"""Masks (issue 7): the sum is exact, less than a quorum opens nothing, and no lie of hub or edge goes through."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.learn.privacy.masked_rounds import Round, names, session, sign, verify

from wardround.learn.privacy.edge_masks import EdgeMasks
from wardround.learn.privacy.graph import COMPLETE_MAX, plan
from wardround.learn.privacy.hub_masks import HubMasks, HubState
from wardround.learn.privacy.ring import Scale, add_vector, decode_sums, encode_sums
from wardround.learn.privacy.wire import Inbox, MasksRefused, Survivors, Votes

WORDS = 40


def vectors(edges, seed, words=WORDS):
    chance = np.random.default_rng(seed)
    return {e: chance.integers(0, 2**32, words, np.uint32) for e in edges}


def refused(reason, *, lie=None):
    class Expect:
        def __enter__(self):
            self.context = pytest.raises(MasksRefused)
            self.caught = self.context.__enter__()

        def __exit__(self, *error):
            done = self.context.__exit__(*error)
            assert self.caught.value.reason == reason, self.caught.value
            assert lie is None or self.caught.value.lie is lie
            return done

    return Expect()


def whole(n=5, gone=0, **how):
    """A round up to the openings, with the last `gone` edges dropped after dealing."""
    edges = names(n)
    own = Round(edges, **how)
    own.meet()
    own.deal()
    stay = edges[: n - gone]
    own.given = vectors(stay, n)
    own.mask(own.given)
    own.agree(stay)
    return own, stay


# -- the sum


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 24), st.integers(0, 2**32), st.booleans(), st.sampled_from([1, 8]), st.data())
def test_the_sum_is_exact_or_fewer_than_a_quorum_are_there(n, seed, restart, limbs, data):
    chance = random.Random(seed)
    there = [names(n)]
    for step in ("dealing", "delivering", "voting", "opening"):
        gone = data.draw(st.integers(0, 3), label=step)
        there.append(sorted(chance.sample(there[-1], max(0, len(there[-1]) - gone))))
    given_ = vectors(there[2], seed, 3 * limbs)
    if len(there[-1]) < plan(n).quorum:
        with pytest.raises(MasksRefused) as caught:
            played(*there, given_, limbs, restart)
        assert caught.value.reason in ("too-few", "order")
        return
    expected = np.zeros(3 * limbs, np.uint32)
    for edge in there[2]:
        add_vector(expected, given_[edge], limbs=limbs)
    np.testing.assert_array_equal(played(*there, given_, limbs, restart), expected)


def played(edges, dealing, delivering, voting, opening, given_, limbs, restart):
    """A round in which fewer take part in every step."""
    own = Round(edges, restart=restart)
    own.meet()
    own.deal(dealing)
    own.mask(given_, limbs)
    own.agree(delivering, voting)
    own.open(opening)
    return own.sum(delivering, limbs)


def test_the_sum_is_exact_on_a_sparse_graph_and_side_by_side():
    n = COMPLETE_MAX + 20
    edges = names(n)
    own = Round(edges)
    own.meet(edges[:-1])  # one offers nothing
    own.deal(edges[:-4])  # three deal nothing
    stay = edges[:-12]  # eight drop out after dealing: the costly case
    words = 3 * 65_536 + 7
    given_ = vectors(stay, 1, words)
    own.mask(given_)
    own.agree(stay)
    own.open(stay[:-2])
    expected = sum(given_.values(), np.zeros(words, np.uint32))
    np.testing.assert_array_equal(own.sum(stay, workers=2), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 200),
    st.floats(1e-3, 1e3),
    st.lists(st.tuples(st.lists(st.floats(-2e3, 2e3), min_size=3, max_size=3), st.integers(1, 10**6)), min_size=1, max_size=12),
)
def test_a_mean_comes_back_to_rounding_and_no_ring_wraps(n, clip, edges):
    edges = edges[:n]
    weight_max = 5_000
    scale = Scale(n, clip, weight_max)
    total, exact, weights = np.zeros(4, np.uint32), np.zeros(3), 0
    for values, examples in edges:
        update = np.array(values, np.float32)
        words, shrunk = scale.encode([update[:1], update[1:]], examples)
        assert np.abs(words.view(np.int32)[1:]).max(initial=0) <= scale.levels
        add_vector(total, words)
        weight = min(examples, weight_max)
        weights += weight
        exact += weight * shrunk * update.astype(np.float64)
        assert float(np.abs(update).max()) * shrunk <= clip * (1 + 1e-9)
    mean, weight = scale.decode(total)
    assert weight == weights
    step = clip * weight_max / scale.levels
    np.testing.assert_allclose(mean, exact / weights, atol=len(edges) * 0.51 * step / weights + 1e-9 * clip)


def test_the_ring_holds_when_every_edge_sends_its_largest():
    for n in (3, 7, 50, 1000, 60_000):
        scale = Scale(n, 1.0, 100)
        words, _ = scale.encode([np.array([9.0, -9.0], np.float32)], 10**9)
        total = (words.astype(np.uint64) * n).astype(np.uint32)
        mean, weight = scale.decode(total)
        assert weight == n * 100
        np.testing.assert_allclose(mean, [1.0, -1.0], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_never_masked(value):
    with pytest.raises(ValueError, match="NaN"):
        Scale(3, 1.0, 10).encode([np.array([0.0, value], np.float32)], 5)
    with pytest.raises(ValueError, match="not finite"):
        encode_sums({"sum": np.array([value])})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(-1e37, 1e37), min_size=4, max_size=4), min_size=1, max_size=9))
def test_federated_sums_come_back_as_floats_add_them(rows):
    total = np.zeros(4 * 8, np.uint32)
    for row in rows:
        add_vector(total, encode_sums({"a": np.array(row[:1]), "b": np.array(row[1:]).reshape(3, 1)}), limbs=8)
    found = decode_sums(total, {"a": (1,), "b": (3, 1)})
    values = np.array(rows)
    exact = [sum(map(int, (v * 2.0**40 for v in values[:, i]))) / 2.0**40 for i in range(4)]
    np.testing.assert_allclose([*found["a"], *found["b"].ravel()], exact, rtol=1e-12, atol=1e-11)


# -- what nobody learns


def test_a_masked_vector_is_uniform_whatever_it_hides():
    """Chi squared of each byte, 255 degrees of freedom: of a hundred million runs of this test one lies outside of 130 to 420."""
    own = Round(names(4))
    own.meet()
    own.deal()
    masked = own.mask({e: np.zeros(1 << 16, np.uint32) for e in names(4)})
    for vector in masked.values():
        for shift in (0, 8, 16, 24):
            counts = np.bincount((vector >> shift) & 0xFF, minlength=256)
            assert 130 < ((counts - 256.0) ** 2 / 256).sum() < 420
    assert len({v.tobytes() for v in masked.values()}) == 4


def test_the_sum_stays_hidden_while_one_secret_is_short_of_a_share():
    own, stay = whole(7, gone=1)
    own.open(stay[:4])
    assert not own.hub.ready
    with refused("order"):
        own.sum(stay)
    own.open(stay[:5])
    assert own.hub.ready


def test_keys_and_masks_of_two_sessions_have_nothing_in_common():
    rounds = [Round(names(3), session(1, attempt)) for attempt in (1, 2)]
    seen = []
    for own in rounds:
        own.meet()
        own.deal()
        masked = own.mask({e: np.zeros(1000, np.uint32) for e in names(3)})
        seen.append({own.edges[e].state.mask_secret for e in names(3)} | {m.tobytes() for m in masked.values()})
    assert not seen[0] & seen[1]


# -- a hub that lies


def test_a_hub_that_asks_for_both_shares_gets_one():
    own, stay = whole(7, gone=1)
    edge = own.edges[stay[0]]
    opening = edge.open(own.votes)
    assert set(opening.seeds) == set(stay)
    assert set(opening.keys) == {"edge-006"}
    others = Survivors(own.session.digest, tuple(stay[:-1]))
    with refused("survivors", lie=True):
        edge.vote(others)
    forged = Votes(own.session.digest, {e: sign(e)(others.signed_part())[0] for e in stay})
    with refused("votes", lie=True):
        edge.open(forged)
    assert edge.open(own.votes) == opening  # asked again, it says the same


def test_a_hub_that_shows_different_survivors_opens_nothing():
    edges = names(6)
    own = Round(edges)
    own.meet()
    own.deal()
    own.mask(vectors(edges, 1))
    first, second = tuple(edges), tuple(edges[:5])
    lists = {e: Survivors(own.session.digest, first if i % 2 else second) for i, e in enumerate(edges[:5])}
    votes = {e: own.edges[e].vote(shown).signature for e, shown in lists.items()}
    for edge in edges[:5]:
        with refused("votes", lie=True):
            own.edges[edge].open(Votes(own.session.digest, votes))


def test_one_signature_counts_once_and_a_strangers_not_at_all():
    own, stay = whole(5)
    one = own.votes.signatures[stay[0]]
    with refused("votes", lie=True):
        own.edges[stay[0]].open(Votes(own.session.digest, dict.fromkeys(stay, one)))
    strangers = {f"x{i}": sign(f"x{i}")(own.survivors.signed_part())[0] for i in range(5)}
    with refused("votes", lie=True):
        own.edges[stay[0]].open(Votes(own.session.digest, strangers))


def test_a_hub_that_replays_a_round_is_refused():
    with refused("replayed", lie=True):
        EdgeMasks.begin(session(3), "e", sign=sign("e"), verify=verify, opened=3)
    EdgeMasks.begin(session(4), "e", sign=sign("e"), verify=verify, opened=3)


def test_messages_of_another_session_are_refused():
    old, _ = whole(5, of=session(1))
    new = Round(names(5), session(2))
    new.meet()
    edge = new.edges["edge-000"]
    with refused("session"):
        edge.deal(old.circle)
    new.deal()
    with refused("session"):
        edge.take(old.hub.inbox("edge-000"))
    new.mask(vectors(names(5), 1))
    with refused("session"):
        edge.vote(old.survivors)
    with refused("session"):
        edge.open(old.votes)
    for receive, message in (
        (new.hub.offer, old.edges["edge-000"].offer()),
        (new.hub.deal, old.edges["edge-000"].state.deal),
        (new.hub.vote, old.edges["edge-000"].vote(old.survivors)),
        (new.hub.opening, old.edges["edge-000"].open(old.votes)),
    ):
        with refused("session"):
            receive("edge-000", message)


def test_a_circle_with_a_strangers_keys_two_of_one_or_a_second_one_is_refused():
    own = Round(names(5))
    own.meet()
    edge, keys = own.edges["edge-000"], own.circle.keys
    swapped = msgspec.structs.replace(keys[3], mask_key=keys[4].mask_key)
    for wrong, reason in (
        ((*keys[:3], swapped, keys[4]), "signature"),
        ((*keys, keys[4]), "circle"),
        (keys[1:], "circle"),
        (keys[:2], "too-few"),
    ):
        with refused(reason, lie=True):
            edge.deal(msgspec.structs.replace(own.circle, keys=wrong))
    edge.deal(own.circle)
    with refused("circle", lie=True):
        edge.deal(msgspec.structs.replace(own.circle, keys=keys[:4]))


def test_a_hub_that_keeps_shares_back_or_gives_two_inboxes_is_refused():
    own = Round(names(5))
    own.meet()
    for edge in own.edges:
        own.hub.deal(edge, own.edges[edge].deal(own.circle))
    own.hub.close_deals()
    inbox, edge = own.hub.inbox("edge-000"), own.edges["edge-000"]
    short = dict(inbox.boxes)
    del short["edge-002"]
    with refused("inbox", lie=True):
        edge.take(Inbox(inbox.session, inbox.dealt, short))
    with refused("too-few"):
        edge.take(Inbox(inbox.session, inbox.dealt[:3], {e: inbox.boxes[e] for e in inbox.dealt[1:3]}))
    edge.take(inbox)
    del short["edge-003"]
    with refused("inbox", lie=True):
        edge.take(Inbox(inbox.session, ("edge-000", "edge-001", "edge-004"), short))


def test_survivors_who_are_too_few_or_never_dealt_are_refused():
    own = Round(names(6))
    own.meet()
    own.deal(names(5))
    own.mask(vectors(names(5), 1))
    edge = own.edges["edge-000"]
    for listed, reason in (
        (names(4), "too-few"),
        (names(6), "survivors"),
        (names(6)[1:], "survivors"),
        (names(5)[::-1], "survivors"),
    ):
        with refused(reason):
            edge.vote(Survivors(own.session.digest, tuple(listed)))
    with refused("too-few"):
        own.hub.survive(names(4))


def test_masks_hide_one_vector_alone():
    own = Round(names(3))
    own.meet()
    edge = own.edges["edge-000"]
    with refused("order"):
        edge.mask(np.zeros(4, np.uint32))
    own.deal()
    first = edge.mask(np.zeros(4, np.uint32))
    np.testing.assert_array_equal(edge.mask(np.zeros(4, np.uint32)), first)
    with refused("reused"):
        edge.mask(np.ones(4, np.uint32))


def test_two_edges_are_refused_by_hub_and_edge():
    own = Round(names(2))
    with refused("too-few"):
        own.meet()
    with refused("too-few", lie=True):
        EdgeMasks.begin(session(edges_min=2), "e", sign=sign("e"), verify=verify)
    with pytest.raises(ValueError, match="3 to"):
        plan(2)


# -- an edge that lies


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["tampered", "another holder's", "another dealer's", "the wrong kind", "short", "unknown"]),
    st.integers(0, 263),
)
def test_a_share_that_is_not_what_was_dealt_is_caught_and_named(how, bit):
    own, stay = whole(6, gone=1)
    honest = own.edges[stay[0]].open(own.votes)
    seeds, keys = dict(honest.seeds), dict(honest.keys)
    if how == "tampered":
        value = int.from_bytes(seeds[stay[1]]) ^ (1 << bit)
        seeds[stay[1]] = value.to_bytes(33)
    elif how == "another holder's":
        seeds[stay[1]] = own.edges[stay[2]].state.held[stay[1]].seed
    elif how == "another dealer's":
        seeds[stay[1]] = seeds[stay[2]]
    elif how == "the wrong kind":
        keys[stay[1]] = own.edges[stay[0]].state.held[stay[1]].key
    elif how == "short":
        seeds[stay[1]] = seeds[stay[1]][:32]
    else:
        seeds["stranger"] = seeds[stay[1]]
    with refused("share"):
        own.hub.opening(stay[0], msgspec.structs.replace(honest, seeds=seeds, keys=keys))
    assert not own.hub.state.seeds
    own.open(stay)  # who was caught may still give what is right, and given twice it counts once
    own.hub.opening(stay[0], honest)
    np.testing.assert_array_equal(own.sum(stay), sum(own.given.values(), np.zeros(WORDS, np.uint32)))


def test_a_box_that_was_tampered_with_or_meant_for_another_is_caught():
    own = Round(names(4))
    own.meet()
    for edge in own.edges:
        own.hub.deal(edge, own.edges[edge].deal(own.circle))
    own.hub.close_deals()
    inbox = own.hub.inbox("edge-000")
    box = inbox.boxes["edge-001"]
    for wrong in (
        box[:-1] + bytes([box[-1] ^ 1]),
        box[:-1],
        b"",
        own.hub.inbox("edge-002").boxes["edge-001"],
        inbox.boxes["edge-003"],
    ):
        with refused("box"):
            own.edges["edge-000"].take(Inbox(inbox.session, inbox.dealt, {**inbox.boxes, "edge-001": wrong}))
    own.edges["edge-000"].take(inbox)


def test_a_dealer_who_deals_shares_of_something_else_is_named():
    edges = names(5)
    for field in ("seed", "mask_secret"):
        own = Round(edges)
        own.meet()
        cheat = own.edges["edge-004"]
        setattr(cheat.state, field, bytes(31) + b"\x07")
        own.deal()
        stay = edges if field == "seed" else edges[:4]
        own.mask(vectors(stay, 1))
        own.agree(stay)
        own.open(stay)
        with pytest.raises(MasksRefused, match="edge-004") as caught:
            own.sum(stay)
        assert caught.value.reason == "dealer"


def test_a_deal_with_too_few_doubled_or_unknown_holders_is_refused():
    own = Round(names(5))
    own.meet()
    deal = own.edges["edge-000"].deal(own.circle)
    for sealed in (
        deal.sealed[:-1],
        (*deal.sealed[:-1], deal.sealed[0]),
        (*deal.sealed[:-1], msgspec.structs.replace(deal.sealed[-1], holder="x")),
    ):
        with refused("deal"):
            own.hub.deal("edge-000", msgspec.structs.replace(deal, sealed=sealed))
    with refused("deal"):
        own.hub.deal("stranger", deal)
    with refused("deal"):
        own.hub.deal("edge-000", msgspec.structs.replace(deal, circle=bytes(32)))


def test_keys_of_another_unsigned_or_without_a_secret_are_refused():
    own = Round(names(3))
    offer = own.edges["edge-000"].offer()
    with refused("signature"):
        own.hub.offer("edge-001", offer)
    forged = msgspec.structs.replace(offer.keys, seal_key=bytes(32))
    with refused("signature"):
        own.hub.offer("edge-000", msgspec.structs.replace(offer, keys=forged))
    signature, certificate = sign("edge-000")(forged.signed_part(own.session.digest))
    weak = msgspec.structs.replace(forged, signature=signature, certificate=certificate)
    with refused("key"):
        own.hub.offer("edge-000", msgspec.structs.replace(offer, keys=weak))


def test_a_vote_for_another_list_is_no_vote():
    own, stay = whole(5)
    hub = HubMasks(HubState(own.session), verify=verify)
    hub.state = own.hub.state
    vote = own.edges[stay[0]].vote(own.survivors)
    with refused("signature"):
        hub.vote(stay[1], vote)
    with refused("order"):
        hub.vote("stranger", vote)


# -- sizes


def test_sizes_are_those_of_the_bounds():
    """(holders, threshold) for a fifth corrupt and a fifth dropped: facts of the exact tails, computed apart with SciPy."""
    found = {n: (plan(n).holders, plan(n).threshold) for n in (10, 50, 100, 300, 1000, 10_000)}
    assert found == {10: (9, 7), 50: (49, 34), 100: (40, 21), 300: (74, 41), 1000: (98, 54), 10_000: (120, 65)}
    assert all(plan(n).quorum > 2 * n / 3 for n in range(3, 200))
