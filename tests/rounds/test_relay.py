"""The design's picture as a study: hub -> edge 1 -> edges 2 and 3, whose updates go straight to the hub."""

from __future__ import annotations

import json

import pytest
from tests.rounds.programs import World
from tests.rounds.test_kills import violations

EDGES = ["edge-1", "edge-2", "edge-3"]
STUDY = """\
name = "relayed"
task = "activity"
[rounds]
count = {rounds}
edges_min = 2
deadline_s = 5.0
examples_min = 1
[relay.children]
edge-1 = ["edge-2", "edge-3"]
"""


def sent_by(world: World, edge: str) -> dict:
    return json.loads((world.home / edge / "fetched.json").read_text())["sent"]


@pytest.mark.timeout(360)
def test_the_model_goes_through_edge_1_and_the_updates_do_not(tmp_path):
    with World(tmp_path, STUDY.format(rounds=5), EDGES, relays=["edge-1"]) as world:
        assert world.wait(world.finished, 60)
        said, passed = world.said()["sent"], sent_by(world, "edge-1")
    assert not violations(world)
    done = world.journal().committed()
    assert all(set(c.folded) == set(EDGES) for c in done)
    model = (world.home / "study" / "models" / f"{done[-1].model}.safetensors").stat().st_size
    assert said["edge-1"] == 5 * model  # one model a round, however many edges are behind it
    assert not said.get("edge-2")
    assert not said.get("edge-3")
    assert passed["edge-2"] >= 4 * model
    assert passed["edge-3"] >= 4 * model


@pytest.mark.timeout(360)
def test_it_survives_edge_1_being_killed_in_the_middle_of_a_round(tmp_path):
    with World(tmp_path, STUDY.format(rounds=12), EDGES, relays=["edge-1"], train_s=0.3) as world:
        assert world.wait(lambda: world.rounds() >= 3, 60)
        world.kill("edge-1")
        before = world.rounds()
        assert world.wait(lambda: world.rounds() >= before + 3, 60), "edges 2 and 3 stopped with their relay"
        alone = world.said()["sent"]
        assert alone.get("edge-2")  # from the hub, while there is no relay
        world.start("edge-1")
        assert world.wait(world.finished, 90)
    assert not violations(world)
    folded = [set(c.folded) for c in world.journal().committed()]
    assert {"edge-2", "edge-3"} in folded
    assert folded[-1] == set(EDGES)


DEEP = """\
name = "deep"
task = "activity"
[rounds]
count = {rounds}
edges_min = {quorum}
deadline_s = 5.0
examples_min = 1
[relay.children]
edge-1 = ["edge-2"]
edge-2 = ["edge-3", "edge-4"]
"""
FOUR = [*EDGES, "edge-4"]


@pytest.mark.timeout(360)
def test_the_hub_gives_one_model_a_round_to_a_tree_of_any_depth(tmp_path):
    with World(tmp_path, DEEP.format(rounds=5, quorum=4), FOUR, relays=["edge-1", "edge-2"]) as world:
        assert world.wait(world.finished, 60)
        said = world.said()["sent"]
    assert not violations(world)
    done = world.journal().committed()
    model = (world.home / "study" / "models" / f"{done[-1].model}.safetensors").stat().st_size
    assert {edge: size for edge, size in said.items() if size} == {"edge-1": 5 * model}


@pytest.mark.timeout(360)
def test_a_relay_of_relays_is_killed_and_those_below_go_on(tmp_path):
    with World(tmp_path, DEEP.format(rounds=10, quorum=2), FOUR, relays=["edge-1", "edge-2"], train_s=0.3) as world:
        assert world.wait(lambda: world.rounds() >= 3, 60)
        world.kill("edge-2")
        before = world.rounds()
        assert world.wait(lambda: world.rounds() >= before + 3, 60), "edges 3 and 4 stopped with their relay"
        world.start("edge-2")
        assert world.wait(world.finished, 90)
    assert not violations(world)
    assert any({"edge-3", "edge-4"} <= set(c.folded) for c in world.journal().committed()[4:])
