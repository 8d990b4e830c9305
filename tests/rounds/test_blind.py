"""Blind studies over real processes, files and mutual TLS: the model is that of the same study in the clear, and kills cost time.

`make test-blind` plays 50 seeds of kills, among 30 edges where a run of `make test` has fewer; a failure names its seed.
"""

from __future__ import annotations

import itertools
import os
import random
import time

import numpy as np
import pytest
from tests.rounds.blind_wards import due_kills, edges, models, play_kills
from tests.rounds.programs import World

from wardround.learn.blobs import FolderBlobs
from wardround.learn.journal import model_name, update_name
from wardround.learn.messages import Order
from wardround.learn.models import decode_model, encode_model
from wardround.simulation.toy import toy_training

RUNS = int(os.environ.get("WARDROUND_BLIND_RUNS", "2"))
WARD = int(os.environ.get("WARDROUND_BLIND_EDGES", "10"))
WARD_RUNS = int(os.environ.get("WARDROUND_BLIND_WARD_RUNS", "1"))
GROUP_RUNS = int(os.environ.get("WARDROUND_BLIND_GROUP_RUNS", "0"))
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


def played(home, mode, n=4):
    home.mkdir()
    with World(home, STUDY.format(rounds=3, deadline=20.0, mode=mode), edges(n)) as world:
        assert world.wait(world.finished, 150), f"stuck after {world.rounds()} rounds"
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


@pytest.mark.timeout(360)
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


def check_sums(world):
    """Every round is the exact mean of those it names, or comes to nothing and leaves the model as it was; how many are.

    Before the first model there is none to leave: where the sums of round 0 come to nothing, the next round asks for them again.
    """
    committed, blobs = world.journal().committed(), FolderBlobs(world.home / "study")
    for before, after in itertools.pairwise(itertools.dropwhile(lambda c: not c.model, committed)):
        base, made = (decode_model(blobs.read(model_name(c.model))) for c in (before, after))
        order = Order("blind", after.number, 1, "train", before.model, b"", 1.0)
        done = [toy_training(edge, order, encode_model(base), b"") for edge in after.folded]
        whole = sum(d.examples for d in done)
        for name in ("w", "b"):
            step = sum(d.examples * decode_model(d.data)[name].astype(float) for d in done) / max(1, whole)
            np.testing.assert_allclose(made[name] - base[name], step, atol=2e-6, err_msg=f"round {after.number}")
    return sum(1 for c in committed if c.folded)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + WARD_RUNS))
def test_a_fifth_of_a_ward_and_the_hub_killed_at_any_step_leave_exact_sums_or_none(seed, tmp_path):
    names, rounds = edges(WARD), 3
    quorum = 2 * WARD // 3 + 1
    text = STUDY.format(rounds=rounds, deadline=60.0, mode="blind").replace("edges_min = 3", f"edges_min = {quorum}")
    chance = random.Random(f"ward/{seed}")
    due = due_kills(chance, chance.sample(names, WARD // 5), (1, 2))
    said = f"WARDROUND_SEED={seed}, killed at {due}"
    with World(tmp_path, text, names, seed=seed, train_s=0.3) as world:
        play_kills(world, due, said)
        done = check_sums(world)
        print(f"{said}: {done} of {len(world.journal().committed())} rounds folded")
        assert done >= rounds - 1, said


@pytest.mark.timeout(900)
@pytest.mark.skipif(not GROUP_RUNS, reason="36 processes: make test-blind")
@pytest.mark.parametrize("seed", range(FIRST, FIRST + GROUP_RUNS))
def test_groups_over_real_processes_withstand_kills_of_edges_and_the_hub(seed, tmp_path):
    """The middle of the groups' means lies, in each coordinate, between the least and the largest update of its edges."""
    chance, names, rounds = random.Random(f"groups/{seed}"), edges(36), 3
    text = STUDY.format(rounds=rounds, deadline=60.0, mode="blind-groups").replace("edges_min = 3", "edges_min = 30")
    text += '[strategy]\nname = "coordinate-median"\n'
    due = due_kills(chance, chance.sample(names, 3), (1, 2))
    with World(tmp_path, text, names, seed=seed, train_s=0.3) as world:
        play_kills(world, due, f"WARDROUND_SEED={seed}, killed at {due}")
        committed, blobs = world.journal().committed(), FolderBlobs(world.home / "study")
        for before, after in itertools.pairwise(itertools.dropwhile(lambda c: not c.model, committed)):
            base, made = (decode_model(blobs.read(model_name(c.model))) for c in (before, after))
            assert len(after.folded) >= 21 or not after.folded  # three groups of a quorum of ten
            order = Order("blind", after.number, 1, "train", before.model, b"", 1.0)
            updates = [decode_model(toy_training(edge, order, encode_model(base), b"").data) for edge in after.folded]
            for name in ("w", "b") if updates else ():
                all_ = np.stack([update[name] for update in updates])
                step = made[name] - base[name]
                assert (step >= all_.min(0) - 2e-6).all()
                assert (step <= all_.max(0) + 2e-6).all()
                assert np.abs(step).max() > 0
