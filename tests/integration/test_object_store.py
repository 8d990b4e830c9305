"""The lake in an S3-compatible object store, a real server in its own process: written once, read by workers, kept up."""

from __future__ import annotations

import numpy as np
import pytest

from s3_server import a_bucket
from wardround.clock import SystemClock
from wardround.process.catalogue import JOBS
from wardround.process.dask_runner import DaskRunner, HereRunner
from wardround.process.jobs import Jobs
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, GOLD, observation_rows
from wardround.process.upkeep import keep_up
from wardround.process.work import Known
from wardround.records import Observation
from wardround.settings import RetentionSettings

JOB = JOBS["examples-ventricular-beats"]
T0 = 1_700_000_000_000_000
DAY_US = 86_400_000_000


@pytest.fixture(scope="module")
def bucket():
    with a_bucket() as made:
        yield made


def ecg(subject, seed, t0_us=T0):
    rng, n = np.random.default_rng(seed), 250 * 120
    t = np.arange(n) / 250.0
    counts = np.round((rng.normal(0, 0.01, n) + np.exp(-np.square((t % 1.0 - 0.5) / 0.012) / 2)) * 200).astype("<i2")
    common = {"subject": subject, "device": "d", "edge": "e", "unit": "mV", "t0_device_us": 0, "period_us": 4000.0}
    return Observation(**common, code="mdc:131330", t0_us=t0_us, n=n, values=counts.tobytes(), scale=1 / 200)


def fill(lake):
    for i in range(4):
        rows = observation_rows([(ecg(f"s{i}", i), "b", i, T0)])
        assert lake.append(BRONZE, rows, app="inbox", version=i + 1)
        assert not lake.append(BRONZE, rows, app="inbox", version=i + 1)


def gold(lake):
    rows = lake.read(GOLD, columns=["subject", "t_us", "part"], jobs=[JOB.name]).to_pylist()
    return sorted((r["subject"], r["t_us"], r["part"]) for r in rows)


@pytest.mark.timeout(360)
def test_a_lake_in_an_object_store_is_as_one_in_a_folder(bucket, tmp_path):
    uri, options = bucket
    there, here = Lake(uri, options), Lake(tmp_path / "lake")
    for lake in (there, here):
        fill(lake)
    Jobs(here, HereRunner(), SystemClock(), tmp_path / "a", Known()).run(JOB)
    runner = DaskRunner(workers=1, memory_bytes=1_500_000_000)
    try:
        report = Jobs(there, runner, SystemClock(), tmp_path / "b", Known(lake_options=options)).run(JOB)
    finally:
        runner.close()
    assert report.failed == ()
    assert gold(there) == gold(here) != []
    before = there.version(BRONZE)
    done = keep_up(there, RetentionSettings(raw_days=1), now_us=T0 + 3 * DAY_US)
    assert done.rows_expired == 4
    assert there.read(BRONZE).num_rows == 0
    assert gold(there) == gold(here)  # features have a retention of their own
    assert there.version(BRONZE) > before
