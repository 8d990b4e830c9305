"""The round as a state machine, under every order of events."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.learn import rounds
from wardround.records import EdgeId

EDGES = [EdgeId(f"e{i}") for i in range(5)]
events = st.one_of(
    st.sampled_from(EDGES).map(rounds.Attached),
    st.sampled_from(EDGES).map(rounds.Lost),
    st.sampled_from(EDGES).map(rounds.Delivered),
    st.sampled_from(EDGES).map(lambda e: rounds.Failed(e, "no")),
    st.just(rounds.Deadline()),
)


def opened(n=3, quorum=2, wanted=3, attached=None, delivered=()):
    participants = frozenset(EDGES[:n])
    return rounds.open_round(
        participants,
        frozenset(participants if attached is None else attached),
        quorum=quorum,
        wanted=wanted,
        delivered=frozenset(delivered),
    )


def test_everybody_who_is_here_is_asked():
    _, commands = opened(attached=EDGES[:2])
    assert commands == [rounds.Dispatch(EDGES[0]), rounds.Dispatch(EDGES[1])]


def test_it_commits_as_soon_as_enough_have_delivered_and_lets_the_others_go():
    state, _ = opened(n=4, quorum=2, wanted=3)
    for edge in EDGES[:2]:
        state, commands = rounds.step(state, rounds.Delivered(edge))
        assert commands == []
    state, commands = rounds.step(state, rounds.Delivered(EDGES[2]))
    assert commands == [rounds.Cancel(EDGES[3], "round committed"), rounds.Commit(tuple(EDGES[:3]))]
    assert state.phase is rounds.Phase.COMMITTED


def test_who_is_gone_holds_up_nobody_once_the_quorum_is_there():
    state, _ = opened()
    state, _ = rounds.step(state, rounds.Delivered(EDGES[0]))
    state, _ = rounds.step(state, rounds.Delivered(EDGES[1]))
    state, commands = rounds.step(state, rounds.Lost(EDGES[2]))
    assert commands == [rounds.Commit((EDGES[0], EDGES[1]))]


def test_who_comes_back_is_asked_again_unless_it_has_delivered():
    state, _ = opened()
    state, _ = rounds.step(state, rounds.Delivered(EDGES[0]))
    for edge, wanted in ((EDGES[0], []), (EDGES[1], [rounds.Dispatch(EDGES[1])])):
        state, _ = rounds.step(state, rounds.Lost(edge))
        state, commands = rounds.step(state, rounds.Attached(edge))
        assert commands == wanted


def test_without_a_quorum_the_deadline_abandons_it():
    state, _ = opened()
    state, _ = rounds.step(state, rounds.Delivered(EDGES[0]))
    state, commands = rounds.step(state, rounds.Deadline())
    assert state.phase is rounds.Phase.ABANDONED
    assert commands[-1] == rounds.Abandon("deadline: 1 of 2 needed had delivered")


def test_it_is_abandoned_as_soon_as_it_is_hopeless():
    state, _ = opened()
    state, _ = rounds.step(state, rounds.Failed(EDGES[0], "no"))
    state, commands = rounds.step(state, rounds.Failed(EDGES[1], "no"))
    assert state.phase is rounds.Phase.ABANDONED
    assert isinstance(commands[-1], rounds.Abandon)


@pytest.mark.parametrize(("n", "quorum", "wanted"), [(0, 1, 1), (3, 0, 3), (3, 4, 4), (3, 2, 1), (3, 2, 4)])
def test_a_round_that_cannot_be_is_refused(n, quorum, wanted):
    with pytest.raises(ValueError, match="fit"):
        opened(n=n, quorum=quorum, wanted=wanted)


@settings(max_examples=500, deadline=None)
@given(
    st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))),
    st.lists(events, max_size=40),
    st.sets(st.sampled_from(EDGES)),
)
def test_whatever_happens_it_ends_once_with_exactly_who_delivered(sizes, happened, attached):
    n, quorum = sizes
    state, commands = opened(n=n, quorum=quorum, wanted=n, attached=attached)
    ends = [c for c in commands if isinstance(c, (rounds.Commit, rounds.Abandon))]
    delivered = set()
    for event in [*happened, rounds.Deadline()]:
        was_open = state.phase is rounds.Phase.OPEN
        if was_open and isinstance(event, rounds.Delivered) and event.edge in state.participants:
            delivered.add(event.edge)
        state, commands = rounds.step(state, event)
        assert was_open or commands == []
        assert state.delivered | state.failed | state.attached <= state.participants
        ends += [c for c in commands if isinstance(c, (rounds.Commit, rounds.Abandon))]
    assert len(ends) == 1
    if isinstance(ends[0], rounds.Commit):
        assert set(ends[0].edges) == delivered
        assert len(delivered) >= quorum
    else:
        assert len(delivered) < quorum
