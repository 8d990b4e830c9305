"""Schedules over real links: the hub asks by what edges say of their machines, and an edge's own schedule declines."""

from __future__ import annotations

import pytest
from tests.rounds.programs import World
from tests.rounds.test_kills import violations

EDGES = ["edge-1", "edge-2", "edge-3", "edge-4"]
STUDY = """\
name = "scheduled"
task = "activity"
[rounds]
count = 30
edges_min = 2
deadline_s = 5.0
examples_min = 1
[schedule]
charging = true
"""


def battery(world: World, edge: str, status: str) -> None:
    folder = world.home / edge / "root/sys/class/power_supply/BAT0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "type").write_text("Battery\n")
    (folder / "capacity").write_text("60\n")
    (folder / "status").write_text(f"{status}\n")


@pytest.mark.timeout(360)
def test_edges_train_when_they_charge_and_when_their_own_schedule_allows(tmp_path):
    world = World(tmp_path, STUDY, EDGES, train_s=0.2)
    battery(world, "edge-1", "Discharging")
    (tmp_path / "edge-4" / "schedule.toml").write_text('windows = ["mon 00:00-00:01"]\nmetered = false\n')  # no route: never
    with world:
        assert world.wait(lambda: world.rounds() >= 4, 60)
        battery(world, "edge-1", "Charging")
        assert world.wait(world.finished, 90)
    assert not violations(world)
    folded = [{*c.folded, *c.aside} for c in world.journal().committed()]
    assert folded[0] == {"edge-2", "edge-3"}
    assert folded[-1] == {"edge-1", "edge-2", "edge-3"}
    assert not any("edge-4" in f for f in folded)
