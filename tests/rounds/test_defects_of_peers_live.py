"""Defects of other systems that only real processes show: an edge killed and back, an order lost with it, a call that fails."""

from __future__ import annotations

import time

import pytest
from tests.rounds.programs import World
from tests.rounds.test_kills import violations

EDGES = ["edge-1", "edge-2"]
STUDY = """\
name = "defects"
task = "activity"
[rounds]
count = 3
edges_min = 2
deadline_s = 60.0
examples_min = 1
"""


@pytest.mark.timeout(360)
def test_a_killed_edge_attaches_again_at_once_under_its_key_and_gets_its_lost_order_again(tmp_path):
    """Another system refuses the same key for 60 s, and never delivers the order again; its round waits for the deadline."""
    attempts, kills = [], 0
    with World(tmp_path, STUDY, EDGES, train_s=1.5) as world:
        assert world.wait(lambda: world.rounds() >= 1, 30)
        while not world.finished():
            done = world.rounds()
            began = time.monotonic()
            time.sleep(0.15)  # the order is pulled, the training has begun, and nothing of it is on disk
            if not world.receipts() & {("edge-1", done)}:
                world.kill("edge-1")
                world.start("edge-1")
                kills += 1
            assert world.wait(lambda before=done: world.rounds() > before or world.finished(), 30), f"round {done} waits"
            attempts.append(time.monotonic() - began)
    assert kills
    assert max(attempts) < 30  # half of the round's deadline, and of the minute that the other system waits
    assert not violations(world)
    assert all(set(c.folded) == set(EDGES) for c in world.journal().committed())


@pytest.mark.timeout(360)
def test_no_failed_call_ends_an_edge(tmp_path):
    """For a while the hub's address answers every call with an error, each of gRPC's in turn; then the hub is back."""
    with World(tmp_path, STUDY, EDGES, train_s=0.3) as world:
        assert world.wait(lambda: world.rounds() >= 1, 30)
        world.kill("hub")
        world.start("sick")
        calls = tmp_path / "sick"
        assert world.wait(lambda: calls.exists() and int(calls.read_text() or 0) >= 8, 60)
        world.kill("sick")
        world.start("hub")
        assert world.wait(world.finished, 60)
        assert set(EDGES) <= set(world.running())
    assert not violations(world)
