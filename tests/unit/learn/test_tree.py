"""The relay tree as the hub sees it, and as it is drawn."""

from __future__ import annotations

import io
import json

import msgspec
from rich.console import Console
from typer.testing import CliRunner

from wardround.cli.edge import app
from wardround.cli.relay_tree import draw
from wardround.learn.grpc_wire import Beat
from wardround.learn.study import parse_study
from wardround.learn.tree import STATE, Tree, study_tree
from wardround.store import open_store

NEW, OLD = "ab" * 32, "cd" * 32
STUDY = parse_study(
    'name = "s"\ntask = "activity"\n[relay.children]\nward-1 = ["ward-2"]\nward-2 = ["home-1", "home-2"]\n', where="test"
)
EDGES = ["home-1", "home-2", "home-3", "ward-1", "ward-2"]


def tree():
    return study_tree(
        STUDY,
        NEW,
        EDGES,
        attached={"ward-1", "ward-2", "home-1"},
        relays={"ward-1", "ward-2"},
        beats={
            "ward-1": Beat(0, 0, 0, "", model=NEW, passed_on={"ward-2": 5_000}),
            "ward-2": Beat(0, 0, 0, "", model=NEW, passed_on={"home-1": 5_000}),
            "home-1": Beat(0, 0, 0, "", model=OLD),
        },
        sent={"ward-1": 5_000},
        why_not=lambda edge: "not-charging" if edge == "home-1" else "",
    )


def test_every_edge_comes_after_the_one_above_it():
    found = tree().edges
    names = [e.name for e in found]
    assert sorted(names) == EDGES
    assert all(e.above == "" or names.index(e.above) < names.index(e.name) for e in found)
    assert {e.name: e.from_above_bytes for e in found if e.from_above_bytes} == {"ward-2": 5_000, "home-1": 5_000}
    assert sum(e.from_hub_bytes for e in found) == 5_000


def test_it_is_drawn():
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(draw(tree()))
    lines = console.export_text().splitlines()
    assert lines[0] == f"hub  s  model {NEW[:12]}  gave 5.0 kB"
    home = next(line for line in lines if "home-1" in line)
    assert "attached" in home
    assert f"model {OLD[:12]} (older)" in home
    assert "5.0 kB from ward-2" in home
    assert "not-charging" in home
    assert home.index("home-1") > next(line for line in lines if "ward-2  " in line).index("ward-2")
    assert "away" in next(line for line in lines if "home-3" in line)


def test_the_command_reads_what_the_hub_has_written(tmp_path):
    runner = CliRunner()
    store = open_store(tmp_path / "hub.sqlite")
    refused = runner.invoke(app, ["tree", "--home", str(tmp_path)])
    assert refused.exit_code != 0
    store.save_state(STATE, msgspec.json.encode(Tree(1, (tree(),))))
    store.close()
    answer = runner.invoke(app, ["tree", "--home", str(tmp_path), "--json"])
    assert answer.exit_code == 0
    said = json.loads(answer.stdout)
    assert {e["name"] for e in said["studies"][0]["edges"]} == set(EDGES)
    assert said["age_s"] > 1e6
