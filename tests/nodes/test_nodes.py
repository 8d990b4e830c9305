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

import numpy as np
import psutil
import pytest

from wardround.clock import SystemClock
from wardround.demo.nodes import RehearsalNode
from wardround.hub import known, open_processing
from wardround.process.catalogue import JOBS
from wardround.process.dask_runner import HereRunner
from wardround.process.jobs import Jobs
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, SCHEMAS, observation_rows
from wardround.records import Observation
from wardround.settings import HubSettings, load_settings
from wardround.store import open_store

RUNS = int(os.environ.get("WARDROUND_FAULT_RUNS", "2"))  # `make test-durability` plays 20
JOB = JOBS["examples-ventricular-beats"]
SUBJECTS = 24
T0 = 1_700_000_000_000_000
pytestmark = pytest.mark.timeout(300)


def ecg(subject, seed, *, seconds=1800, rate_hz=250.0, t0_us=T0):
    """A lead with a beat a second."""
    rng, n = np.random.default_rng(seed), round(seconds * rate_hz)
    t = np.arange(n) / rate_hz
    x = rng.normal(0, 0.01, n) + np.exp(-np.square((t % 1.0 - 0.5) / 0.012) / 2)
    counts = np.round(x * 200).astype("<i2")
    common = {"subject": subject, "device": "d", "edge": "e", "unit": "mV", "t0_device_us": 0, "period_us": 1e6 / rate_hz}
    return Observation(**common, code="mdc:131330", t0_us=t0_us, n=n, values=counts.tobytes(), scale=1 / 200)


@pytest.fixture(scope="session")
def filled(home):
    """Bronze in the hub's lake."""
    lake = Lake(home / "lake")
    for i in range(SUBJECTS):
        lake.append(BRONZE, observation_rows([(ecg(f"s{i:02d}", i), "b", i, T0)]), app="inbox", version=i + 1)
    return lake


def rows(lake, job=JOB):
    columns = [c for c in SCHEMAS[job.target].names if c != "made"]
    found = lake.read(job.target, columns=columns, jobs=[job.name]).to_pylist()
    return sorted(found, key=lambda r: (r["part"], r["t_us"]))


def differences(found, expected):
    """What is not the same, row by row. A container's linear algebra may round the last bit otherwise: features to 1e-5."""
    exact = [{k: v for k, v in row.items() if k != "features"} for rows_ in (found, expected) for row in rows_]
    half = len(found)
    wrong = [(a, b) for a, b in zip(exact[:half], exact[half:], strict=False) if a != b]
    wrong += [("rows", len(found), len(expected))] if len(found) != len(expected) else []
    if not wrong:
        a, b = (np.array([r["features"] for r in rows_]) for rows_ in (found, expected))
        wrong = [(found[i], expected[i]) for i in np.flatnonzero(~np.isclose(a, b, rtol=1e-5, atol=1e-5).all(axis=1))]
    return wrong[:3]


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


def forget(lake):
    """As if the job had never run."""
    lake.delete(JOB.target, f"job = '{JOB.name}'")


class Home:
    """The hub's processing, opened as `wardround process run` opens it."""

    def __init__(self, home):
        self.store = open_store(home / "hub.sqlite")
        self.said = []
        settings = load_settings(home / "hub.toml", HubSettings)
        self.processing = open_processing(home, settings, self.store, SystemClock(), say=lambda *words: self.said.append(words))
        self.processing.look()

    def ready(self, workers=3):
        """Wait until every node is; the hub looks so every second."""
        until = time.monotonic() + 60
        while {s.state for s in self.processing.fleet.statuses()} != {"ready"}:
            assert time.monotonic() < until, self.processing.fleet.statuses()
            self.processing.look()
            time.sleep(0.2)
        assert self.processing.nodes.wait_ready(10, workers=workers)

    def close(self):
        self.processing.close()
        self.store.close()


@pytest.fixture
def opened(home, filled):
    made = Home(home)
    yield made
    made.close()


def again(opened):
    """Run the job over everything, from nothing."""
    forget(opened.processing.lake)
    jobs = opened.processing._jobs
    staged = jobs._staging / JOB.name
    assert not staged.exists()
    jobs._known_digest = f"{random.randrange(1 << 24):06x}"  # as other code would: all is made anew
    return opened.processing.run(JOB)


def test_the_result_of_three_nodes_is_that_of_one_machine_though_a_node_dies(opened, local, three_nodes):
    opened.ready()
    cut = threading.Timer(1.0, three_nodes["two"].power_cut)
    cut.start()
    report = again(opened)
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
