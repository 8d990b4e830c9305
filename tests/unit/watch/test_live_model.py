"""What a model says of live windows: runs that it is sure of are told once, days with little walking against the own days."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.watch.live_model import GAP_US, HOUR_US, PATIENTS_MAX, QUIET_US, RUN_MIN, LiveModel

S = 1_000_000


def beats(live, p, *, start=S, step=400_000, subject="p1"):
    return live.beats(subject, [start + i * step for i in range(len(p))], p)


def test_a_sure_run_is_told_once_with_its_rate_and_over_when_it_is_quiet():
    live = LiveModel()
    (run,) = beats(live, [0.1, 0.97, 0.98, 0.99, 0.99, 0.02])
    assert (run.kind, run.priority, run.over, run.count) == ("ectopic-run", "medium", False, 3)
    assert run.confidence == pytest.approx(0.97 * 0.98 * 0.99)
    assert run.rate == pytest.approx(150.0)
    assert beats(live, [0.99] * 4, start=60 * S) == []
    assert live.tick(60 * S + QUIET_US) == []
    (over,) = live.tick(70 * S + QUIET_US)
    assert (over.kind, over.over, over.since_us) == ("ectopic-run", True, run.since_us)
    assert live.tick(80 * S + QUIET_US) == []


def test_two_in_a_row_or_an_unsure_three_are_no_run_and_a_gap_ends_one():
    live = LiveModel()
    assert beats(live, [0.99, 0.99, 0.1] * 20) == []
    assert beats(live, [0.8, 0.8, 0.8], start=100 * S) == []  # half sure of three
    assert live.beats("p1", [200 * S, 201 * S, 201 * S + GAP_US + 1], [0.99] * 3) == []


def test_a_slow_run_is_low_and_one_that_lasts_half_a_minute_is_high():
    live = LiveModel()
    (slow,) = beats(live, [0.99] * 5, step=900_000)
    assert slow.priority == "low"
    (lasting,) = beats(live, [0.99] * 40, start=100 * S, step=900_000)
    assert (lasting.priority, lasting.since_us) == ("high", slow.since_us)


def test_what_was_seen_before_changes_nothing():
    live = LiveModel()
    beats(live, [0.99] * 5)
    state = live.state()
    assert beats(live, [0.99] * 5) == []
    assert live.state() == state


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.02, 0.6, 0.99]), max_size=60), st.integers(0, 60))
def test_how_it_is_cut_and_a_restart_make_no_difference(p, cut):
    whole = beats(LiveModel(), p)
    first, again = LiveModel(), LiveModel()
    found = beats(first, p[:cut])
    again.restore(first.state())
    found += beats(again, p[cut:], start=S + len(p[:cut]) * 400_000)
    assert found == whole


def live_days(live, days, walking, *, first=0):
    found = []
    for hour in range(first * 24, (first + days) * 24):
        if hour % 24 < 16:
            times = [hour * HOUR_US + i * 30 * S for i in range(120)]
            live.windows("p1", times, [walking] * 120, [0.9] * 120)
        found += live.tick((hour + 1) * HOUR_US)
    return found


def test_a_day_with_much_less_walking_is_told_and_is_over_when_it_comes_back():
    live = LiveModel()
    assert live_days(live, 5, 0.2) == []
    (fall,) = live_days(live, 2, 0.05, first=5)
    assert (fall.kind, fall.priority, fall.over) == ("activity-fall", "low", False)
    assert fall.rate <= 0.4
    assert fall.confidence == pytest.approx(0.9)
    (back,) = live_days(live, 2, 0.2, first=7)
    assert back.over


def test_who_never_walked_and_who_is_new_cannot_fall():
    assert live_days(LiveModel(), 8, 0.01) == []
    new = LiveModel()
    assert live_days(new, 2, 0.3) + live_days(new, 1, 0.0, first=2) == []


def test_memory_is_bounded_and_a_patient_can_be_forgotten():
    live = LiveModel()
    for n in range(PATIENTS_MAX + 10):
        beats(live, [0.99] * RUN_MIN, subject=f"p{n}")
    assert len(live.subjects()) == PATIENTS_MAX
    live.forget("p100")
    assert b"p100" not in live.state()
    for _ in range(3):
        live_days(live, 20, 0.2)
    assert len(live._saved.activities["p1"].hours) <= 24 * 9
    with pytest.raises(ValueError, match="no state"):
        live.restore(b"\xc1")
