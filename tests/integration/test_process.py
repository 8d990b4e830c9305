"""Jobs on real Dask workers that are killed in the middle: the result is whole, or says what failed; never twice, never half."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from wardround.clock import SystemClock
from wardround.process.catalogue import JOBS
from wardround.process.dask_runner import DaskRunner, HereRunner
from wardround.process.jobs import Jobs
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, GOLD, observation_rows
from wardround.process.work import Known
from wardround.records import Observation

RUNS = int(os.environ.get("WARDROUND_FAULT_RUNS", "3"))  # `make test-durability` plays 20
JOB = JOBS["examples-ventricular-beats"]
SUBJECTS = 6


def ecg(subject, seed):
    """Five minutes of a lead with a beat a second."""
    rng, n = np.random.default_rng(seed), 250 * 300
    t = np.arange(n) / 250.0
    x = rng.normal(0, 0.01, n) + np.exp(-np.square((t % 1.0 - 0.5) / 0.012) / 2)
    counts = np.round(x * 200).astype("<i2")
    common = {"subject": subject, "device": "d", "edge": "e", "unit": "mV", "t0_device_us": 0}
    return Observation(
        **common, code="mdc:131330", t0_us=1_700_000_000_000_000, n=n, period_us=4000.0, values=counts.tobytes(), scale=1 / 200
    )


def filled(folder):
    lake = Lake(folder)
    rows = [(ecg(f"s{i}", i), "b", i, 1_700_000_000_000_000) for i in range(SUBJECTS)]
    lake.append(BRONZE, observation_rows(rows), app="inbox", version=1)
    return lake


def gold(lake):
    rows = lake.read(GOLD, columns=["subject", "t_us", "features"], jobs=[JOB.name]).to_pylist()
    return sorted((r["subject"], r["t_us"], tuple(np.round(r["features"], 4))) for r in rows)


def run(lake, runner):
    return Jobs(lake, runner, SystemClock(), Path(lake.uri).parent / "staging", Known()).run(JOB)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    lake = filled(tmp_path_factory.mktemp("calm") / "lake")
    run(lake, HereRunner())
    return gold(lake)


@pytest.mark.timeout(60 + 40 * RUNS)
def test_killed_workers_cost_time_and_nothing_else(tmp_path, undisturbed):
    assert len(undisturbed) > SUBJECTS * 200
    runner = DaskRunner(workers=2, memory_bytes=1_500_000_000)
    try:
        runner.start()
        for seed in range(RUNS):
            chance = random.Random(seed)
            lake = filled(tmp_path / f"{seed}" / "lake")
            victims = runner.pids

            killer = threading.Timer(chance.uniform(0.0, 0.6), os.kill, (chance.choice(victims), signal.SIGKILL))
            killer.start()
            report = run(lake, runner)
            killer.join(10)
            named = {part.subject for part, _ in report.failed}
            assert gold(lake) == [row for row in undisturbed if row[0] not in named], f"seed {seed}"
            assert all(words for _, words in report.failed)
            until = time.monotonic() + 100
            while len(runner.pids) < 2 and time.monotonic() < until:
                time.sleep(0.2)  # the nanny starts another
            assert len(runner.pids) == 2
            run(lake, runner)
            assert gold(lake) == [row for row in undisturbed if row[0] not in named]
    finally:
        runner.close()
