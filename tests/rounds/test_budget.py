"""A privacy budget survives SIGKILL: real processes, files and TLS. WARDROUND_BUDGET_RUNS=200 plays so many seeds."""

from __future__ import annotations

import os
import random
import time

import pytest
from tests.rounds.programs import World

from wardround.learn.privacy.accounting import epsilon
from wardround.learn.privacy.ledger import read_ledger, spent

RUNS = int(os.environ.get("WARDROUND_BUDGET_RUNS", "1"))
FIRST = int(os.environ.get("WARDROUND_SEED", "0"))
EDGES = ["edge-1", "edge-2", "edge-3"]
DELTA = 1e-3
STUDY = """\
name = "budget"
task = "activity"
[rounds]
count = {rounds}
edges_min = 2
deadline_s = 5.0
examples_min = 1
[watch]
row_counts = false
[privacy]
mode = "clear-dp"
population = 3
noise = 4.0
delta = 0.001
target_epsilon = {target}
sampling = "{sampling}"
sample = 0.67
"""
WAIT_S = 120.0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_what_was_spent_is_never_less_than_what_was_released(seed, tmp_path):
    """The hub is killed at any moment, mostly while it releases; the ledger is looked at all the time."""
    chance = random.Random(f"budget/{seed}")
    rounds = chance.randint(3, 6)
    text = STUDY.format(rounds=rounds, target=60.0, sampling=chance.choice(("all", "fixed")))
    path = tmp_path / "study" / "privacy.ledger"
    highest, kills = 0, 0
    with World(tmp_path, text, EDGES, seed=seed, train_s=0.02) as world:

        def look() -> bool:
            """Whether something was spent since the last look; what is on disk never goes down."""
            nonlocal highest
            found = len(read_ledger(path))
            assert found >= highest, f"WARDROUND_SEED={seed}: {found} releases, there were {highest}"
            more, highest = found > highest, found
            return more

        until = time.monotonic() + WAIT_S
        while kills < 3 and time.monotonic() < until and not world.finished():
            world.wait(lambda: look() or world.finished(), 30.0)
            time.sleep(chance.uniform(0.0, 0.03))  # anywhere between the ledger and the next round
            world.kill("hub")
            look()
            kills += 1
            committed = [c.number for c in world.journal().committed() if c.folded]
            assert set(committed) <= {e.round for e in read_ledger(path)}, f"WARDROUND_SEED={seed}: released and not spent"
            world.start("hub")
        assert world.wait(lambda: (look(), world.finished())[1], WAIT_S), f"WARDROUND_SEED={seed}: stuck after {world.rounds()}"
    entries = read_ledger(path)
    released = [c.number for c in world.journal().committed() if c.folded]
    assert len(released) == rounds
    assert set(released) <= {e.round for e in entries}
    assert len(entries) >= len(released)
    assert epsilon(spent(entries), DELTA) <= 60.0
    assert kills
