"""Who is asked in a round: fair over seeds, whatever edges do, and nobody is woken in vain."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from wardround.clock import ManualClock
from wardround.learn.condition import Condition
from wardround.learn.pace import RETRY_S, RETRY_S_MAX, Pace
from wardround.learn.selection import Turns, choose
from wardround.learn.study import parse_study
from wardround.records import EdgeId

GOOD = Condition(charging=True, battery=None, network="wired", signal_dbm=None, metered=False, load=0.0)


def study(seed=0, wanted=4, over=1.0, more=""):
    text = f'name = "s"\ntask = "activity"\n[learner]\nseed = {seed}\n[rounds]\nedges_max = {wanted}\nover_selection = {over}\n'
    return parse_study(text + more, where="test")


def play(seed, edges, rounds, *, wanted=4, over=1.0, there=lambda _edge, _round, _chance: True, weights=None):
    """Turns of each edge, and rounds at which it was there."""
    own, turns, chance = study(seed, wanted, over), Turns(), random.Random(seed)
    had, present = Counter(), Counter()
    for number in range(1, rounds + 1):
        eligible = [e for e in edges if there(e, number, chance)]
        present.update(eligible)
        asked, _ = choose(own, eligible, turns.counts(own, len(eligible)), number, weights or {})
        turns.add(asked)
        had.update(asked)
    return had, present


EDGES = [f"e{i:02}" for i in range(12)]


@pytest.mark.parametrize("seed", range(20))
def test_edges_that_are_always_there_have_the_same_number_of_turns(seed):
    had, _ = play(seed, EDGES, 300)
    assert sum(had.values()) == 1_200
    assert max(had[e] for e in EDGES) - min(had[e] for e in EDGES) <= 6  # of a hundred


@pytest.mark.parametrize("seed", range(20))
def test_an_edge_that_is_rarely_there_is_asked_when_it_is(seed):
    rare = set(EDGES[:3])
    had, present = play(seed, EDGES, 300, there=lambda e, _n, chance: e not in rare or chance.random() < 0.1)
    assert all(had[e] >= 0.75 * present[e] for e in rare)
    others = [had[e] for e in EDGES if e not in rare]
    assert max(others) - min(others) <= 6


@pytest.mark.parametrize("seed", range(5))
def test_newcomers_do_not_take_the_study_over(seed):
    new = [f"n{i}" for i in range(4)]
    had, _ = play(seed, [*EDGES, *new], 260, there=lambda e, n, _chance: e not in new or n > 200)
    last, _ = play(seed, [*EDGES, *new], 200, there=lambda e, n, _chance: e not in new or n > 200)
    old = [had[e] - last[e] for e in EDGES]
    assert sum(old) >= 60 * 4 * 12 / 16 * 0.8  # of the turns since then, against an even share
    assert min(old) > 0


@pytest.mark.parametrize("seed", range(5))
def test_weights_share_the_turns(seed):
    had, _ = play(seed, EDGES, 300, weights={"e00": 0.5, "e01": 0.0})
    full = sum(had[e] for e in EDGES[2:]) / 10
    assert had["e00"] == pytest.approx(full / 2, rel=0.25)
    assert had["e01"] == 0


def test_an_edge_of_no_weight_is_asked_when_nobody_else_is_left():
    own = study(wanted=3)
    assert choose(own, ["a", "b", "c"], {}, 1, {"a": 0.0}) == (("a", "b", "c"), 3)


def test_over_selection_asks_for_more_and_wants_as_many():
    asked, wanted = choose(study(wanted=4, over=1.3), EDGES, {}, 1)
    assert (len(asked), wanted) == (6, 4)
    asked, wanted = choose(study(wanted=4, over=1.3), EDGES[:5], {}, 1)
    assert (len(asked), wanted) == (5, 4)


def pace(more="", clock=None):
    return Pace(study(more=more), clock or ManualClock(), [])


def test_whom_the_schedule_leaves_out_is_not_asked():
    own = pace("[schedule]\ncharging = true\n")
    a, b, c = EdgeId("a"), EdgeId("b"), EdgeId("c")
    own.note(a, GOOD)
    own.note(b, Condition(charging=False, battery=9.0, network="wifi", signal_dbm=-50.0, metered=False, load=0.0))
    assert [own.why_not(e) for e in (a, b, c)] == ["", "not-charging", "condition-unknown"]


def test_whom_the_hub_itself_asks_nothing_is_not_asked_whatever_it_says():
    held = {"a": "draining"}
    own = Pace(study(), ManualClock(), [], held=lambda edge: held.get(edge, ""))
    for edge in ("a", "b"):
        own.note(EdgeId(edge), GOOD)
    assert [own.why_not(EdgeId(e)) for e in ("a", "b")] == ["draining", ""]
    held.clear()
    assert own.why_not(EdgeId("a")) == ""


def test_an_edge_that_has_said_no_is_left_alone_until_its_next_heartbeat():
    own, a = pace(), EdgeId("a")
    own.note(a, GOOD)
    own.declined(a, "network-metered")
    assert own.why_not(a) == "network-metered"
    own.note(a, GOOD)
    assert own.why_not(a) == ""


def test_each_abandoned_attempt_waits_longer_and_a_new_edge_ends_the_wait():
    clock = ManualClock()
    own = pace(clock=clock)
    waited = []
    for attempt in range(1, 9):
        own.abandoned(attempt, ())
        began = clock.monotonic_s()
        while own.waits:
            clock.advance(0.5)
        waited.append(clock.monotonic_s() - began)
    assert waited == [RETRY_S * n for n in (1, 2, 4, 8, 16)] + [RETRY_S_MAX] * 3
    own.abandoned(9, ())
    own.came()
    clock.advance(RETRY_S)
    assert not own.waits
