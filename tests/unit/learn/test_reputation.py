"""Reputation: an edge of poor answers is asked less, is believed again once it is well, and is never left out for ever."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
from tests.unit.learn.test_coordinator import STUDY, Hub

from wardround.learn.answers import standing
from wardround.learn.journal import Journal, Refusal
from wardround.learn.models import decode_model, encode_model
from wardround.learn.reputation import BAD, FORGET, ROUNDS, WEIGHT_MIN, Experience, Reputation, reputations
from wardround.learn.selection import Turns, choose
from wardround.learn.study import parse_study
from wardround.records import EdgeId


def seen(edge, verdicts, first=1):
    return [Experience(first + i, edge, verdict) for i, verdict in enumerate(verdicts)]


def test_it_is_the_expectation_of_a_beta_distribution():
    """The paper's example: r = 7 and s = 1 give 0.8."""
    assert Reputation(7.0, 1.0).score == pytest.approx(0.8)
    assert Reputation().score == 0.5
    found = reputations(seen("a", ["accepted", "refused", "failed", "late"]), now=5)["a"]
    assert found.good == pytest.approx(FORGET**3)
    assert found.bad == pytest.approx(FORGET**2 + 0.5 * FORGET + 0.1)
    assert found.seen == {"accepted": 1, "refused": 1, "failed": 1, "late": 1}


def test_good_edges_and_newcomers_are_wanted_alike_and_bad_ones_less():
    found = reputations([*seen("good", ["accepted"] * 9), *seen("bad", ["refused"] * 9), *seen("slow", ["late"] * 9)], now=10)
    assert found["good"].weight == Reputation().weight == 1.0
    assert WEIGHT_MIN <= found["bad"].weight < 0.3
    assert found["bad"].weight < found["slow"].weight < 1.0


def test_what_is_over_is_forgotten():
    sick = seen("a", ["aside"] * 10)
    weights = [reputations([*sick, *seen("a", ["accepted"] * n, 11)], 11 + n)["a"].weight for n in range(12)]
    assert weights == sorted(weights)
    assert weights[0] < 0.3
    assert weights[-1] == 1.0
    assert "a" not in reputations(sick, 11 + ROUNDS)


def test_a_verdict_counts_once_a_round_and_a_claimed_round_gives_no_power():
    assert reputations(seen("a", ["refused"]) * 1_000, 2)["a"].bad == 1.0
    assert reputations([Experience(10**9, "a", "refused")], 2)["a"].bad == 1.0  # not FORGET to a negative power


@pytest.mark.parametrize(("edges", "wanted"), [(3, 1), (5, 2), (10, 3), (50, 5), (12, 11)])
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_nobody_is_starved_and_the_bad_are_asked_less(edges, wanted, share):
    study = parse_study(f"{STUDY.replace('edges_min = 2', 'edges_min = 1')}edges_max = {wanted}\n", where="test")
    names = [f"e{i}" for i in range(edges)]
    bad = set(names[: max(1, int(share * edges))])
    weights = dict.fromkeys(bad, WEIGHT_MIN)
    turns, asked, since = Turns(), dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    longest = 0
    rounds_ = 60 * -(-edges // wanted)
    for number in range(1, rounds_):
        chosen, _ = choose(study, names, turns.counts(study, edges), number, weights)
        turns.add(chosen)
        for name in names:
            since[name] = 0 if name in chosen else since[name] + 1
            asked[name] += name in chosen
            longest = max(longest, since[name])
    assert longest <= 12 * -(-edges // wanted)
    good = [asked[n] for n in names if n not in bad]
    assert max(asked[n] for n in bad) < min(good)


@pytest.fixture
def hub():
    text = STUDY.replace("count = 5", "count = 60") + "edges_max = 2\nover_selection = 1.0\n"
    hub = Hub(text=text)
    hub.attach("a", "b", "c")
    hub.round("a", "b", "c")  # the statistics
    return hub


def play(hub, rounds, bad=()):
    """Rounds in which each asked edge answers, those of `bad` with rubbish; how often each was asked."""
    asked = dict.fromkeys("abc", 0)
    for _ in range(rounds):
        before = len(hub.coordinator.committed())
        for _ in range(40):
            if hub.coordinator.open_round is None:
                hub.clock.advance(1.0)
                hub.coordinator.tick()
                continue
            if len(hub.coordinator.committed()) > before:
                break
            participants = hub.coordinator.open_round[0].participants
            for edge in participants:
                asked[edge] += 1
                _, done = hub.made(edge)
                hub.upload(edge, encode_model({"w": decode_model(done.data)["w"]}) if edge in bad else None)
        assert len(hub.coordinator.committed()) > before
    return asked


def test_an_edge_whose_updates_are_refused_is_asked_less_and_comes_back(hub):
    asked = play(hub, 20, bad="b")
    assert 0 < asked["b"] < min(asked["a"], asked["c"])
    poor = standing(Journal(hub.storage.connect))["b"]
    assert poor.score < 0.5
    assert poor.seen["refused"]
    hub.kill()  # it stands in the journal, not in memory
    hub.attach("a", "b", "c")
    assert standing(Journal(hub.storage.connect))["b"].score == pytest.approx(poor.score, abs=0.1)
    play(hub, 25)
    well = standing(Journal(hub.storage.connect))
    assert all(r.weight == 1.0 for r in well.values())


def test_it_never_changes_what_an_update_weighs(hub):
    journal = Journal(hub.storage.connect)
    for n in range(30):
        journal.refuse(Refusal(n, 0, EdgeId("a"), "failed", "training", ""))
        journal.refuse(Refusal(n, 0, EdgeId("a"), "refused", "norm", ""))
    assert standing(journal)["a"].weight < 1.0
    play(hub, 3)
    for done in hub.coordinator.committed()[1:]:
        for edge, counted in done.folded.items():
            assert counted == journal.accepted(done.number)[EdgeId(edge)].examples
            assert counted == 50 + zlib.crc32(edge.encode()) % 50  # as the toy training claims


def test_what_an_edge_claims_its_round_to_be_does_not_hide_a_refusal(hub):
    edge = hub.coordinator.open_round[0].participants[0]
    assert hub.upload(edge, examples=0).reason == "examples"
    for claimed in (7, 10**6):
        upload = replace(hub.announce(edge, b"x"), round_number=claimed)  # its signature does not hold for that round
        assert not hub.coordinator.finish(EdgeId(edge), upload).accepted
    assert {r.round_number for r in Journal(hub.storage.connect).refusals()} == {1}


def test_the_kinds_of_evidence_are_those_of_the_journal():
    assert set(BAD) == {"refused", "late", "failed", "aside"}
