"""Flower apps, unchanged, over a real hub and real edges: processes, mutual TLS, Flower in an environment of its own."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from motion import recording
from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.demo.programs import Program
from wardround.edge import EdgeHome
from wardround.learn.study import ScoreSettings, is_held_back
from wardround.records import Consent

APPS = Path(__file__).parents[1] / "flower_apps"
TRUE = [1.5, -2.0, 0.5]
EDGES = 3


@pytest.fixture(scope="module")
def flower_python():
    python = Path(sys.prefix) / "flower" / "bin" / "python"
    if not python.exists():
        pytest.skip("Flower is not installed: make .venv/flower/.ready")
    return str(python)


@pytest.fixture(scope="module")
def flower_site(tmp_path_factory, flower_python):
    """A hub with three edges that run the apps of tests/flower_apps."""
    from programs_under_test import Site

    made = Site(tmp_path_factory.mktemp("site"))
    try:
        made.start_hub()
        edges = [made.edge(f"edge-{i}") for i in range(EDGES)]
        for i, edge in enumerate(edges):
            settings = made.folder / f"edge-{i}" / "edge.toml"
            settings.write_text(
                settings.read_text()
                + f'[flower]\npython = "{flower_python}"\napps = "{APPS}"\n[flower.node_config]\npartition-id = {i}\n'
            )
            edge.start()
        for edge in edges:
            edge.wait_ready(60)
        yield made
    finally:
        made.stop()


@pytest.fixture
def run_app(flower_site, flower_python, command, tmp_path):
    """Run one of the apps; its result, what the terminal saw, and its exit code."""

    def run(app, config="", *options):
        out = tmp_path / "out.json"
        done = command(
            "flower",
            "run",
            str(APPS / app),
            "--home",
            str(flower_site.home),
            "--python",
            flower_python,
            "-c",
            f'nodes={EDGES} out="{out}" {config}',
            *options,
            timeout=200,
        )
        result = json.loads(out.read_text()) if out.exists() else None
        return result, done.stdout + done.stderr, done.returncode

    return run


@pytest.mark.timeout(300)
def test_a_server_app_with_each_of_its_own_strategies_trains_over_our_edges(run_app):
    results, said, code = run_app("ward-numpy", "strategy='fedavg krum trimmed fedadam'")
    assert code == 0, said
    assert [r["strategy"] for r in results] == ["fedavg", "krum", "trimmed", "fedadam"]
    for result in results[:3]:
        assert result["weights"] == pytest.approx(TRUE, abs=0.05)
        assert result["evaluate"]["3"]["loss"] < result["evaluate"]["1"]["loss"] < 1.0
    assert results[3]["evaluate"]["3"]["loss"] < results[3]["evaluate"]["1"]["loss"]
    assert results[0]["train"]["3"]["seen"] == 3.0  # Context.state goes from round to round at its edge
    assert results[1]["train"]["3"]["seen"] == 6.0
    assert "round 1 (train): 3 of 3 edges" in said


@pytest.mark.timeout(300)
def test_a_numpy_client_with_the_older_server_runs(run_app):
    result, said, code = run_app("ward-legacy")
    assert code == 0, said
    assert result["weights"] == pytest.approx(TRUE, abs=0.05)
    assert result["failures"] == 0


FAULTS = {
    "nan": "refused: not-finite",
    "shape": "refused: shape",
    "examples": "refused: examples",
    "raise": "this node has no luck",
    "crash": "process ended",
}


@pytest.mark.timeout(300)
def test_one_bad_edge_costs_its_own_reply_and_nothing_else(run_app):
    results, said, code = run_app("ward-numpy", f"fault='{' '.join(FAULTS)}' num-server-rounds=2", "--quorum", "2")
    assert code == 0, said
    assert [r["fault"] for r in results] == list(FAULTS)
    for result in results:
        assert result["weights"] == pytest.approx(TRUE, abs=0.2)
    for words in FAULTS.values():
        assert words in said
    assert "round 1 (train): 2 of 3 edges" in said


@pytest.mark.timeout(300)
def test_a_slow_edge_is_left_behind_at_the_deadline(run_app):
    results, said, code = run_app("ward-numpy", "fault='slow' num-server-rounds=1", "--quorum", "2", "--deadline", "12")
    assert code == 0, said
    assert "no reply before the round was decided" in said
    (result,) = results
    assert result["evaluate"]["1"]["loss"] < 1.0


@pytest.mark.timeout(300)
def test_an_app_is_given_the_edges_own_examples_without_who_is_held_back(run_app, flower_site):
    names = [f"subject-{i}" for i in range(40)]
    held_back = [n for n in names if is_held_back(ScoreSettings(held_back=0.5), n, "edge-0")][:1]
    others = [n for n in names if not is_held_back(ScoreSettings(held_back=0.5), n, "edge-0")][:2]
    for i in range(EDGES):
        store = LocalStore(FolderStorage(flower_site.folder / f"edge-{i}" / "local"))
        for name in (*held_back, *others):
            store.keep(list(recording(name, f"edge-{i}", i)))
        store.close()
        consents = EdgeHome.open(flower_site.folder / f"edge-{i}").consents()
        for name in (*held_back, *others):
            consents.set(name, "*", Consent.LOCAL)
        consents.close()
    options = ("--task", "activity", "--held-back")
    rows = {}
    for share in ("0.0", "0.5"):
        (result,), said, code = run_app("ward-numpy", "num-server-rounds=1", *options, share)
        assert code == 0, said
        rows[share] = result["train"]["1"]["own-rows"]
        assert result["train"]["1"]["own-labelled"] > 0
    assert rows["0.5"] == pytest.approx(rows["0.0"] * 2 / 3)


@pytest.mark.timeout(300)
def test_an_app_that_the_edges_do_not_hold_is_refused_by_them(run_app, flower_site, flower_python, command, tmp_path):

    other = shutil.copytree(APPS / "ward-numpy", tmp_path / "ward-numpy", ignore=shutil.ignore_patterns("__pycache__"))
    task = other / "ward_numpy" / "task.py"
    task.write_text(task.read_text() + "\n# changed\n")
    done = command(
        "flower",
        "run",
        str(other),
        "--home",
        str(flower_site.home),
        "--python",
        flower_python,
        "-c",
        "num-server-rounds=1",
        timeout=200,
    )
    assert "another version here" in done.stdout + done.stderr


def test_a_hub_that_does_not_run_is_said_so(tmp_path, command, flower_python):
    done = command("flower", "run", str(APPS / "ward-numpy"), "--home", str(tmp_path), "--python", flower_python)
    assert done.returncode == 2
    assert "no hub runs" in done.stderr


@pytest.mark.timeout(300)
def test_a_hub_that_is_killed_in_the_middle_of_a_run_costs_no_round(flower_site, flower_python, tmp_path):
    out, log = tmp_path / "out.json", tmp_path / "log"
    arguments = ["flower", "run", str(APPS / "ward-numpy"), "--home", str(flower_site.home), "--python", flower_python]
    program = Program("run", ["wardround.cli.main", *arguments, "-c", f'nodes={EDGES} num-server-rounds=40 out="{out}"'], log)
    program.start()
    wait(lambda: "[ROUND 8/40]" in log.read_text(), program)
    flower_site.hub.kill()
    flower_site.start_hub()
    wait(lambda: not program.running, program)
    assert program.process.returncode == 0, log.read_text()[-3_000:]
    (result,) = json.loads(out.read_text())
    assert sorted(map(int, result["train"])) == list(range(1, 41))
    assert "the hub is away" in log.read_text()
    assert result["train"]["40"]["seen"] == 40.0  # nothing was trained twice, and no state was lost


def wait(holds, program, seconds=200):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, program.tail(40)
        time.sleep(0.05)
