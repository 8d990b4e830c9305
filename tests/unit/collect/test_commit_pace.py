"""How soon the lake is given what waits: soon after a quiet time, seldom in a long run of small commits; large ones are free."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wardround.clock import ManualClock
from wardround.collect.commit_pace import BURST, CommitPace

AN_HOUR, INTERVAL_S = 720, 0.5


def played(moves):
    """Waits after so many observations each, as time goes on by them."""
    clock = ManualClock()
    pace, waits = CommitPace(clock, INTERVAL_S, AN_HOUR), []
    for moved, large in moves:
        waits.append(pace.wait_s(moved, large=large))
        clock.advance(waits[-1])
    return waits


def test_few_commits_follow_one_another_at_once_and_a_long_run_is_slowed_to_so_many_an_hour():
    waits = played([(1, False)] * (BURST + 1_000))
    assert set(waits[: BURST - 1]) == {INTERVAL_S}
    assert all(abs(wait - 3600 / AN_HOUR) < 1e-6 for wait in waits[-900:])


def test_after_a_quiet_time_it_is_at_once_again():
    clock = ManualClock()
    pace = CommitPace(clock, INTERVAL_S, AN_HOUR)
    while pace.wait_s(1, large=False) == INTERVAL_S:
        pass
    clock.advance(3600 / AN_HOUR * 11)
    assert [pace.wait_s(1, large=False) for _ in range(8)] == [INTERVAL_S] * 8
    assert pace.wait_s(0, large=False) == INTERVAL_S  # nothing was there: it is looked again soon


@given(st.lists(st.tuples(st.sampled_from([0, 1, 50_000]), st.booleans()), max_size=400))
def test_never_more_small_commits_than_a_burst_and_so_many_an_hour(moves):
    waits = played(moves)
    small, passed_s = 0, 0.0
    for (moved, large), wait_s in zip(moves, waits, strict=True):
        small += bool(moved and not large)
        assert small <= BURST + 1 + passed_s * AN_HOUR / 3600 + 1e-6
        passed_s += wait_s
        assert INTERVAL_S <= wait_s <= 2 * 3600 / AN_HOUR
