"""Blind studies over real processes, files and mutual TLS: the model is that of the same study in the clear, and kills cost time.

WARDROUND_BLIND_RUNS=50 plays so many seeds of kills; a failure names its own.
"""

from __future__ import annotations

import os
import random
import time

import numpy as np
import pytest
from tests.rounds.programs import World

from wardround.learn.blobs import FolderBlobs
from wardround.learn.journal import model_name, update_name
from wardround.learn.models import decode_model

RUNS = int(os.environ.get("WARDROUND_BLIND_RUNS", "2"))
FIRST = int(os.environ.get("WARDROUND_SEED", "0"))
STUDY = """\
name = "blind"
task = "activity"
[rounds]
count = {rounds}
edges_min = 3
deadline_s = {deadline}
examples_min = 1
[privacy]
mode = "{mode}"
weight_max = 1000
"""


def edges(n):
    return [f"edge-{i}" for i in range(1, n + 1)]


def models(world):
    blobs = FolderBlobs(world.home / "study")
    return [decode_model(blobs.read(model_name(c.model))) for c in world.journal().committed()]


def played(home, mode, n=4):
    home.mkdir()
    with World(home, STUDY.format(rounds=3, deadline=20.0, mode=mode), edges(n)) as world:
        assert world.wait(world.finished, 40), f"stuck after {world.rounds()} rounds"
        assert all(len(c.folded) == n for c in world.journal().committed())
        return world, models(world)


def test_a_blind_study_makes_the_model_of_the_clear_one_and_the_hub_keeps_only_noise(tmp_path):
    clear, open_ = played(tmp_path / "clear", "clear")
    blind, hidden = played(tmp_path / "blind", "blind")
    for one, other in zip(open_, hidden, strict=True):
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_allclose(other[name], one[name], atol=2e-6)
    number = 3
    for edge in edges(4):
        seen = decode_model(FolderBlobs(clear.home / "study").read(update_name(number, edge)))
        kept = decode_model(FolderBlobs(blind.home / "study").read(update_name(number, edge)))
        assert set(seen) == {"w", "b"}
        assert set(kept) == {"masked"}
        accepted = blind.journal().accepted(number)[edge]
        assert (accepted.examples, accepted.metrics) == (1, {})  # neither its weight nor its facts
    assert not (blind.home / "study" / "masks" / "round").exists()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_kills_at_any_step_cost_time_and_no_round(seed, tmp_path):
    chance = random.Random(f"blind/{seed}")
    n = 5
    rounds = 8
    with World(tmp_path, STUDY.format(rounds=rounds, deadline=6.0, mode="blind"), edges(n), seed=seed, train_s=0.3) as world:
        until = time.monotonic() + chance.uniform(2.0, 4.0)
        while time.monotonic() < until and not world.finished():
            time.sleep(chance.uniform(0.05, 0.5))
            if running := world.running():
                world.kill(chance.choice(running))
            for name in sorted({"hub", *edges(n)} - set(world.running())):
                if chance.random() < 0.7:
                    world.start(name)
        for name in sorted({"hub", *edges(n)} - set(world.running())):
            world.start(name)
        assert world.wait(world.finished, 90), f"WARDROUND_SEED={seed}: stuck after {world.rounds()} rounds"
        done = [c for c in world.journal().committed() if c.folded]
        assert len(done) == rounds + 1
        assert all(len(c.folded) >= 3 for c in done)
