"""Jobs on three real nodes, in real containers: the same rows as on one machine, whatever is killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time

import psutil
import pytest

from nodes_under_test import JOB, T0, Home, again, differences, ecg, rows
from wardround.clock import SystemClock
from wardround.demo.nodes import RehearsalNode
from wardround.hub import known
from wardround.process.dask_runner import HereRunner
from wardround.process.jobs import Jobs
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows

RUNS = int(os.environ.get("WARDROUND_FAULT_RUNS", "2"))  # `make test-durability` plays 20
SUBJECTS = 24
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session")
def filled(home):
    """Bronze in the hub's lake."""
    lake = Lake(home / "lake")
    for i in range(SUBJECTS):
        lake.append(BRONZE, observation_rows([(ecg(f"s{i:02d}", i), "b", i, T0)]), app="inbox", version=i + 1)
    return lake


@pytest.fixture(scope="session")
def local(filled, tmp_path_factory):
    """The same job in this process, on a copy of the lake."""
    folder = tmp_path_factory.mktemp("local")
    lake = copy_of(filled, folder / "lake")
    Jobs(lake, HereRunner(), SystemClock(), folder / "staging", known()).run(JOB)
    return rows(lake)


def copy_of(lake, folder):
    copied = Lake(folder)
    whole = lake.read(BRONZE)
    copied.append(BRONZE, whole, app="inbox", version=1)
    return copied


@pytest.fixture
def opened(home, filled, three_nodes):
    made = Home(home)
    yield made
    made.close()


def test_the_result_of_three_nodes_is_that_of_one_machine_though_a_node_dies(opened, local, three_nodes):
    opened.ready()
    cut = threading.Thread(target=three_nodes["two"].power_cut)

    def when_work_is_under_way(done, of):
        if 0 < done < of and cut.ident is None:
            cut.start()

    report = again(opened, when_work_is_under_way)
    cut.join()
    assert report.failed == ()
    assert report.place == "3 nodes, 3 workers"
    assert differences(rows(opened.processing.lake), local) == []
    assert len(local) > SUBJECTS * 1_700
    until = time.monotonic() + 30
    while time.monotonic() < until and {s.name: s.state for s in opened.processing.fleet.statuses()}["two"] != "unreachable":
        time.sleep(0.2)
    states = {s.name: s for s in opened.processing.fleet.statuses()}
    assert states["two"].state == "unreachable"
    assert states["two"].remedy
    three_nodes["two"].start()  # the power is back
    opened.ready()
    assert len(three_nodes["two"].containers()) == 1  # the one that the cut left behind is cleared away


def test_containers_are_confined_and_go_with_the_hub(opened, home, three_nodes, command):
    opened.ready()
    assert [len(node.containers()) for node in three_nodes.values()] == [1, 1, 1]
    for name in three_nodes:
        checks = {c["what"]: c for c in json.loads(command("node", "doctor", name, "--home", str(home), "--json").stdout)}
        assert all(c["good"] is not False for c in checks.values()), checks
        assert "0 capabilities, root read-only, 0 networks" in checks["confined"]["found"]
        assert checks["lake"]["good"]
    opened.close()
    assert [node.containers() for node in three_nodes.values()] == [[], [], []]


def worker_pids(node):
    return [p.pid for p in node.processes() if "wardround.process.worker" in " ".join(p.cmdline())]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(RUNS))
def test_seeded_faults_end_whole_or_named(opened, local, three_nodes, seed):
    chance = random.Random(seed)
    opened.ready()
    ends = []
    for _ in range(chance.randint(1, 3)):
        fault, node = chance.choice(["worker", "service", "power"]), three_nodes[chance.choice(list(three_nodes))]
        ends.append(threading.Timer(chance.uniform(0.0, 3.0), harm, (fault, node)))
        ends[-1].start()
    report = again(opened)
    for end in ends:
        end.join()
    named = {part.key for part, words in report.failed if words}
    expected = [r for r in local if r["part"] not in named]
    assert differences(rows(opened.processing.lake), expected) == [], f"seed {seed}"
    assert len(named) == len(report.failed)
    for node in three_nodes.values():
        if node.process.poll() is not None:
            node.start()
    opened.ready()
    assert [len(node.containers()) for node in three_nodes.values()] == [1, 1, 1], f"seed {seed}"


def harm(fault, node):
    if fault == "power":
        node.power_cut()
    elif fault == "service":
        node.process.kill()
        node.process.wait(10)
    else:
        for pid in worker_pids(node)[:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_part_that_needs_more_memory_than_there_is_is_named_and_the_others_complete(opened, local, home):
    lake = opened.processing.lake
    monster = ecg("monster", 99, seconds=3 * 3600, rate_hz=4_000.0, t0_us=T0 - T0 % (24 * 3_600_000_000))
    version = lake.transaction_version(BRONZE, "inbox") + 1
    lake.append(BRONZE, observation_rows([(monster, "b", 1_000, T0)]), app="inbox", version=version)
    try:
        for record in opened.store.nodes():
            opened.store.put_node(with_memory(record, 700_000_000))
        opened.processing.look()
        opened.ready()
        report = again(opened)
        assert {part.subject for part, _ in report.failed} == {"monster"}
        assert "killed, or out of memory" in report.failed[0][1]
        assert differences(rows(lake), local) == []
    finally:
        lake.delete(BRONZE, "subject = 'monster'")
        for record in opened.store.nodes():
            opened.store.put_node(with_memory(record, 1_500_000_000))


def with_memory(record, memory_bytes):
    from dataclasses import replace

    assert psutil.virtual_memory().available > 3 * memory_bytes
    return replace(record, memory_bytes=memory_bytes)


def test_a_node_whose_disk_is_full_is_not_taken_and_says_so(worker_image, tmp_path, command):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(small)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.decode().strip()}")
    node = RehearsalNode("small", small / "n")
    home = ["--home", str(tmp_path / "hub")]
    try:
        node.start()
        command("hub", "init", *home)
        refused = command("node", "add", "small", node.url, *home, timeout=120)
        assert refused.returncode == 1
        assert "the node's disk is full" in refused.stderr
        assert "No nodes" in command("node", "list", *home).stdout
    finally:
        node.stop()
        subprocess.run(["umount", str(small)], check=True)
