"""An identity that is renewed in the middle of rounds, trainings and uploads costs no update. Real processes and TLS."""

from __future__ import annotations

import pytest
from tests.rounds.programs import World
from tests.rounds.test_kills import violations

EDGES = ["edge-1", "edge-2", "edge-3"]
STUDY = """\
name = "rotated"
task = "activity"
[rounds]
count = 15
edges_min = 2
deadline_s = 20.0
examples_min = 1
"""


@pytest.mark.timeout(360)
def test_every_edge_counts_in_every_round_while_all_renew_again_and_again(tmp_path):
    """Several times a round, each time a new key; the quorum is two, so that a round goes on without whoever loses its place."""
    world = World(tmp_path, STUDY, EDGES, train_s=0.4)
    for edge, every_s in zip(EDGES, ("0.25", "0.4", "0.55"), strict=True):
        (tmp_path / edge / "rotate_s").write_text(every_s)
    with world:
        assert world.wait(world.finished, 120)
        rotations = {edge: int((tmp_path / edge / "rotations").read_text()) for edge in EDGES}
    assert not violations(world)
    done = world.journal().committed()
    assert len(done) >= 15
    assert all(number > 10 for number in rotations.values()), rotations
    # The first round may open before all have attached; from then on nobody is missing.
    assert [set(c.folded) for c in done[1:]] == [set(EDGES)] * (len(done) - 1)
