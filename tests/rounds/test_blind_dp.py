"""Noise under masks over real processes, files and mutual TLS: a round is the clipped mean with noise and paid for, or nothing.

`make test-blind` plays more seeds among more edges; a failure names its seed.
"""

from __future__ import annotations

import itertools
import math
import os
import random

import msgspec
import numpy as np
import pytest
from tests.rounds.blind_wards import due_kills, edges, play_kills
from tests.rounds.programs import World

from wardround.learn.blobs import FolderBlobs
from wardround.learn.journal import model_name
from wardround.learn.messages import Order
from wardround.learn.models import decode_model, encode_model
from wardround.learn.privacy.ledger import NAME, read_ledger
from wardround.simulation.toy import toy_training

RUNS = int(os.environ.get("WARDROUND_BLIND_DP_RUNS", "1"))
WARD = int(os.environ.get("WARDROUND_BLIND_DP_EDGES", "6"))
FIRST = int(os.environ.get("WARDROUND_SEED", "0"))
ROUNDS, CLIP, NOISE = 3, 0.2, 4.0
STUDY = f"""\
name = "noisy"
task = "activity"
[rounds]
count = {ROUNDS}
edges_min = {2 * WARD // 3 + 1}
deadline_s = 60.0
examples_min = 1
[watch]
row_counts = false
[privacy]
mode = "blind-dp"
population = {WARD}
noise = {NOISE}
clip_norm = {CLIP}
delta = 0.001
target_epsilon = 50.0
"""


def opened_by_edges(world):
    """The newest round in which each edge has opened a sum, as its own disk says."""
    found = set()
    for name in world.edges:
        try:
            found.add(msgspec.msgpack.decode((world.home / name / "masks" / "noisy.masks").read_bytes())["opened"])
        except FileNotFoundError:  # it has said nothing yet
            continue
    return found - {-1}


def clipped_mean(edges_, number, before, base):
    """What the round's edges have sent, each scaled down to the clip, over the population."""
    order = Order("noisy", number, 1, "train", before, b"", 1.0)
    total = {name: np.zeros_like(tensor, dtype=float) for name, tensor in base.items()}
    for edge in edges_:
        update = decode_model(toy_training(edge, order, encode_model(base), b"").data)
        norm = math.sqrt(sum(float((tensor.astype(float) ** 2).sum()) for tensor in update.values()))
        for name, tensor in update.items():
            total[name] += tensor * min(1.0, CLIP / norm) / WARD
    return total


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_kills_at_any_step_leave_noisy_sums_that_are_paid_for_or_none(seed, tmp_path):
    """A fifth of the edges and the hub are killed. Of the noise no less may be in a round than was reckoned, and no more than
    all edges add: its mean square lies so far from both bounds below that chance comes there once in ten million runs.
    """
    chance = random.Random(f"noisy/{seed}")
    due = due_kills(chance, chance.sample(edges(WARD), max(1, WARD // 5)), (1, 2))
    said = f"WARDROUND_SEED={seed}, killed at {due}"
    path, opened, highest = tmp_path / "study" / NAME, set(), 0
    with World(tmp_path, STUDY, edges(WARD), seed=seed, train_s=0.2) as world:

        def look():
            nonlocal highest
            opened.update(opened_by_edges(world))
            found = len(read_ledger(path))
            assert found >= highest, f"{said}: {found} releases, there were {highest}"
            highest = found

        play_kills(world, due, said, look=look)
        look()
        committed, blobs = world.journal().committed(), FolderBlobs(world.home / "study")
    paid = {entry.round for entry in read_ledger(path)}
    folded = [c for c in committed if c.folded]
    assert {c.number for c in folded} | opened <= paid, f"{said}: opened and not paid for"
    assert len(folded) >= ROUNDS - 1, said
    squares = []
    for before, after in itertools.pairwise(committed):
        base, made = (decode_model(blobs.read(model_name(c.model))) for c in (before, after))
        step = clipped_mean(after.folded, after.number, before.model, base)
        if not after.folded:
            assert before.model == after.model, said
            continue
        for name, tensor in step.items():
            squares += list(((made[name] - base[name] - tensor).ravel() / (NOISE * CLIP / WARD)) ** 2)
    assert 0.2 < np.mean(squares) < 1.5 * 3, said
