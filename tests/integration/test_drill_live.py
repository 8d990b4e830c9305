"""`wardround drill --live` on a real hub and real edges, over mutual TLS: `make test-drill` plays every fault that is ordered."""

from __future__ import annotations

import json
import os

import pytest

from wardround.drill.live import ORDERED

DEADLINE_S = 240.0
ALL = os.environ.get("WARDROUND_DRILL", "") != ""
pytestmark = pytest.mark.skipif(not ALL, reason="minutes on nine edges: make test-drill")


@pytest.fixture
def fleet(site):
    """Nine edges in one process; the first does not allow drills."""
    site.start_hub()
    names = [f"icu-{i}" for i in range(10)]
    for name in names:
        site.edge(name)
        with (site.folder / name / "edge.toml").open("a") as file:
            file.write(f"[learning]\ndrills = {str(name != names[0]).lower()}\n")
    homes = [part for name in names for part in ("--home", str(site.folder / name))]
    edges = site._program("edges", ["wardround.cli.main", "edge", "run", *homes], site.folder / names[0])
    edges.start()
    edges.wait_ready(DEADLINE_S)
    return names[1:]


@pytest.mark.timeout(3_000)
def test_every_fault_ordered_to_real_edges_is_seen_and_nothing_of_it_stays(site, command, fleet):
    home = ("--home", str(site.home))
    asked = ("drill", "--live", "--fault", "all", "--seeds", "0", "--from-round", "60", "--rounds", "100", "--json", *home)
    done = command(*asked, timeout=2_400)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["live"]["edges"] == fleet
    assert [row["fault"] for row in facts["faults"]] == list(ORDERED)
    assert list(facts["live"]["not_live"]) == ["server-step"]
    assert facts["totals"]["named"] == facts["totals"]["struck"]
    titles = [title for own in facts["live"]["drills"] for title in own["alerts"].values()]
    assert titles
    assert all(title.startswith("DRILL: ") for title in titles)
    assert list((site.home / "drills").iterdir()) == []
    assert json.loads(command("alert", "list", "--json", *home).stdout) == []
    for name in fleet:
        assert not list((site.folder / name / "learn").rglob("drill*"))
    entries = json.loads(command("audit", "show", "--home", str(site.folder / fleet[0]), "--json").stdout)
    assert [e["what"] for e in entries].count("takes part in a drill") == len(ORDERED) + 1
