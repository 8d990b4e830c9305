"""Rounds survive SIGKILL: real processes, files and TLS. WARDROUND_KILL_RUNS=100 plays so many seeds; a failure names its own."""

from __future__ import annotations

import os
import random
import time
from collections import Counter

import pytest
from tests.rounds.programs import World

from wardround.learn.blobs import FolderBlobs
from wardround.simulation.promises import broken_promises
from wardround.simulation.toy import toy_training

RUNS = int(os.environ.get("WARDROUND_KILL_RUNS", "4"))
FIRST = int(os.environ.get("WARDROUND_SEED", "0"))
EDGES = ["edge-1", "edge-2", "edge-3"]
STUDY = """\
name = "kills"
task = "activity"
[rounds]
count = {rounds}
edges_min = {quorum}
deadline_s = 3.0
examples_min = 1
mode = "{mode}"
buffer = 2
staleness_max = 3
"""
CALM_S = 60.0  # a study that has not ended so long after the last kill is stuck


def violations(world: World) -> list[str]:
    found = broken_promises(world.study, world.journal(), FolderBlobs(world.home / "study"), toy_training, world.receipts())
    twice = [r for r, n in Counter(world.receipts()).items() if n > 1]
    return found + [f"two receipts for {r}" for r in twice]


@pytest.mark.timeout(360)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_nothing_is_lost_or_doubled_and_no_round_sticks(seed, tmp_path):
    chance = random.Random(f"kills/{seed}")
    mode = chance.choice(("synchronous", "buffered"))
    text = STUDY.format(rounds=chance.randint(4, 8), quorum=2, mode=mode)
    kills = 0
    with World(tmp_path, text, EDGES, seed=seed, train_s=chance.choice((0.02, 0.1, 0.3))) as world:
        until = time.monotonic() + chance.uniform(1.0, 4.0)
        while time.monotonic() < until and not world.finished():
            time.sleep(chance.uniform(0.02, 0.4))
            if running := world.running():
                world.kill(chance.choice(["hub", *EDGES] if set(running) == {"hub", *EDGES} else running))
                kills += 1
            for name in {"hub", *EDGES} - set(world.running()):
                if chance.random() < 0.7:
                    world.start(name)
        for name in sorted({"hub", *EDGES} - set(world.running())):
            world.start(name)
        assert world.wait(world.finished, CALM_S), f"WARDROUND_SEED={seed}: {mode}, stuck after {world.rounds()} rounds"
        assert kills
        world.wait(lambda: len(world.journal().committed()) == world.study.rounds.count + 1, 5)
    assert not violations(world), f"WARDROUND_SEED={seed}"
    assert len(world.journal().committed()) == world.study.rounds.count + 1
