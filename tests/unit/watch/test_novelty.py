"""Novelty of a stream: it speaks of what is new alone, sees no future, and a restart changes nothing."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.watch.detectors.novelty import Novelty

MINUTE_US = 60_000_000


def fed(values, *, warm_up=200, quiet=60, made=None, first=0):
    made = made or Novelty(warm_up=warm_up, quiet=quiet)
    return [made.update((first + i) * 5 * MINUTE_US, v) for i, v in enumerate(values)], made


def usual(n, seed=0):
    """A day's rhythm with noise, a point every five minutes."""
    chance = random.Random(seed)
    return [10.0 + 3.0 * math.sin(i * 2 * math.pi / 288) + chance.gauss(0, 0.3) for i in range(n)]


def test_it_says_nothing_while_it_learns_and_little_of_the_usual():
    scores, _ = fed(usual(3_000))
    assert not any(scores[:200])
    assert max(scores[1_000:]) < 1.5


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("a spike", lambda i, v: v + 15.0 if i == 2_000 else v),
        ("a step", lambda i, v: v + 8.0 if i >= 2_000 else v),
        ("noise", lambda i, v: v + (3.0 if i % 2 else -3.0) if i >= 2_000 else v),
    ],
)
def test_it_speaks_of_what_is_new(what, change):
    scores, _ = fed([change(i, v) for i, v in enumerate(usual(3_000))])
    before, after = max(scores[1_000:2_000]), max(scores[2_000:2_200])
    assert after > 1.3 * before, what
    assert after > 1.0, what


def test_only_a_new_highest_score_of_the_quiet_period_speaks():
    values = usual(3_000)
    for i in range(2_000, 2_050):
        values[i] += 15.0
    scores, _ = fed(values)
    assert sum(1 for s in scores[2_000:2_050] if s > 1.0) <= 5


def test_it_sees_no_future():
    values = usual(1_500)
    whole, _ = fed(values)
    part, _ = fed(values[:900])
    assert whole[:900] == part


NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, max_size=400), st.integers(0, 400), st.integers(1, 50), st.integers(1, 50))
def test_a_restart_changes_nothing_and_no_number_breaks_it(values, cut, warm_up, quiet):
    whole, _ = fed(values, warm_up=warm_up, quiet=quiet)
    first, made = fed(values[:cut], warm_up=warm_up, quiet=quiet)
    again = Novelty(warm_up=warm_up, quiet=quiet)
    again.restore(made.state())
    second, _ = fed(values[cut:], made=again, first=cut)
    assert first + second == whole
    assert all(math.isfinite(s) and s >= 0.0 for s in whole)


def test_it_keeps_its_digits_on_a_stream_that_moves_far_away():
    values = [1e9 + v for v in usual(3_000)]
    values[2_500] += 15.0
    scores, made = fed(values)
    assert scores[2_500] > 1.0
    assert max(scores[1_500:2_500]) < 1.5
    assert len(made.state()) < 20_000


def test_bad_states_and_settings_are_said():
    with pytest.raises(ValueError, match="at least 1"):
        Novelty(warm_up=0, quiet=1)
    with pytest.raises(ValueError, match="no state"):
        Novelty(warm_up=1, quiet=1).restore(b"{}")


def test_the_benchmark_comes_out_as_published(shared_data):
    """The figures of docs: one fixed setting for all files; 5 points is what a half of the corpus differs from the other by."""
    bench = Path(__file__).parents[3] / "bench" / "nab.py"
    done = subprocess.run(
        [sys.executable, str(bench), "--data", str(shared_data / "nab"), "--no-libraries", "--json"],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    (row,) = json.loads(done.stdout)["detectors"]
    assert row["best standard"] > 64.0
    assert row["nested standard"] > 55.0
