"""The lake writes exactly once; a job works through what is new, and only that, whatever the clocks say."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.clock import ManualClock
from wardround.process.dask_runner import HereRunner
from wardround.process.jobs import GoldJob, gold_examples
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, DEAD, EXAMPLES, GOLD, observation_rows
from wardround.process.transforms import TASKS
from wardround.records import Observation

TASK = TASKS["activity"]
RATE_HZ = 50.0
T0 = 1_700_000_000_000_000


def motion(subject, start_s=0.0, seconds=20.0, label=1, seed=0):
    """Six axes and a label, in one run each."""
    rng, n = np.random.default_rng(seed), round(seconds * RATE_HZ)
    common = {"subject": subject, "device": f"d-{subject}", "edge": "e", "t0_device_us": 0, "n": n, "period_us": 20_000.0}
    t0_us = T0 + round(start_s * 1e6)
    out = []
    for axis in "xyz":
        for kind, unit in (("accel", "m/s2"), ("gyro", "deg/s")):
            values = rng.normal(0, 200, n).astype("<i2")
            out.append(
                Observation(**common, code=f"wr:{kind}-{axis}", unit=unit, t0_us=t0_us, values=values.tobytes(), scale=0.01)
            )
    labels = np.full(n, label, "<i2")
    out.append(Observation(**common, code="wr:activity-label", unit="1", t0_us=t0_us, values=labels.tobytes()))
    return out


class Hub:
    """A lake with its committer's numbering."""

    def __init__(self, folder):
        self.lake = Lake(folder / "lake")
        self.version = 0

    def commit(self, observations, t_hub_us=T0):
        self.version += 1
        decoded = [(o, "boot", self.version * 1_000 + i, t_hub_us) for i, o in enumerate(observations)]
        assert self.lake.append(BRONZE, observation_rows(decoded), app="inbox", version=self.version)

    def job(self, runner=None):
        return GoldJob(self.lake, TASK, runner or HereRunner(), ManualClock())

    def gold(self):
        columns = [c for c in EXAMPLES.names if c != "features"]
        rows = self.lake.read(GOLD, columns=EXAMPLES.names, task=TASK.name).to_pylist()
        return sorted((tuple(str(r[c]) for c in columns), tuple(np.round(r["features"], 5))) for r in rows)


@pytest.fixture
def hub(tmp_path):
    return Hub(tmp_path)


def test_a_commit_that_is_repeated_is_there_once(hub):
    rows = observation_rows([(o, "b", i, T0) for i, o in enumerate(motion("s"))])
    assert hub.lake.append(BRONZE, rows, app="inbox-1", version=7)
    assert not hub.lake.append(BRONZE, rows, app="inbox-1", version=7)
    assert not Lake(hub.lake.uri).append(BRONZE, rows, app="inbox-1", version=6)  # another process, after a restart
    assert hub.lake.count(BRONZE) == len(rows)
    assert hub.lake.transaction_version(BRONZE, "inbox-1") == 7
    assert hub.lake.transaction_version(BRONZE, "nobody") == -1


def test_an_earlier_version_can_be_read(hub):
    hub.commit(motion("a"))
    before = hub.lake.version(BRONZE)
    hub.commit(motion("b"))
    assert set(hub.lake.read(BRONZE, columns=["subject"], version=before).column("subject").to_pylist()) == {"a"}


def test_only_what_is_new_is_made_anew(hub):
    hub.commit(motion("a") + motion("b"))
    assert hub.job().plan() == ["a", "b"]
    report = hub.job().run()
    assert (report.subjects, report.failed) == (2, ())
    assert report.rows == len(hub.gold()) > 0
    assert hub.job().plan() == []
    hub.commit(motion("b", start_s=30.0))
    assert hub.job().plan() == ["b"]
    before = [row for row in hub.gold() if "a" in row[0]]
    hub.job().run()
    assert [row for row in hub.gold() if "a" in row[0]] == before
    assert len(gold_examples(hub.lake, TASK, ["b"])) > report.rows / 2


def test_a_clock_that_was_set_back_hides_nothing(hub):
    hub.commit(motion("a"), t_hub_us=T0 + 3_600_000_000)
    hub.job().run()
    hub.commit(motion("b"), t_hub_us=T0)  # arrived later, stamped earlier
    assert hub.job().plan() == ["b"]


def test_late_data_opens_its_window_again(hub, tmp_path):
    whole = motion("a", seconds=40.0)
    hub.commit([o for o in whole if o.code != "wr:accel-x"])
    hub.job().run()
    hub.commit([o for o in whole if o.code == "wr:accel-x"])
    hub.job().run()
    at_once = Hub(tmp_path / "other")
    at_once.commit(whole)
    at_once.job().run()
    assert hub.gold() == at_once.gold()
    assert hub.gold()


def test_compaction_makes_work_but_loses_none(hub):
    for i in range(4):
        hub.commit(motion("a", start_s=30.0 * i, seed=i))
    hub.job().run()
    gold = hub.gold()
    hub.lake.compact(BRONZE)
    hub.commit(motion("b"))
    assert set(hub.job().plan()) >= {"b"}
    hub.job().run()
    assert [row for row in hub.gold() if "d-b" not in str(row) and "b" not in row[0]] == gold


def test_a_job_that_dies_before_its_commit_is_done_again_and_gives_the_same(hub, tmp_path, monkeypatch):
    hub.commit(motion("a") + motion("b"))

    def die(*_args, **_named):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Lake, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            hub.job().run()
    assert hub.gold() == []
    hub.job().run()
    undisturbed = Hub(tmp_path / "other")
    undisturbed.commit(motion("a") + motion("b"))
    undisturbed.job().run()
    assert hub.gold() == undisturbed.gold()


class Failing(HereRunner):
    """One part raises."""

    def map(self, function, parts, *arguments):
        def one(part, *rest):
            if part == "b":
                raise ValueError("bad row")
            return function(part, *rest)

        return super().map(one, parts, *arguments)


def test_a_partition_that_fails_is_a_dead_letter_with_its_words_and_the_others_complete(hub):
    hub.commit(motion("a") + motion("b") + motion("c"))
    report = hub.job(Failing()).run()
    assert report.failed == (("b", "ValueError: bad row"),)
    assert set(gold_examples(hub.lake, TASK).subjects) == {"a", "c"}
    [letter] = hub.lake.read(DEAD, columns=["job", "partition", "error"]).to_pylist()
    assert letter == {"job": TASK.name, "partition": "b", "error": "ValueError: bad row"}


def test_reading_some_subjects_opens_only_their_buckets(hub):
    hub.commit([o for i in range(30) for o in motion(f"s{i}", seconds=2.0)])
    rows = hub.lake.read(BRONZE, columns=["subject", "bucket"], subjects=["s3", "s4"])
    assert set(rows.column("subject").to_pylist()) == {"s3", "s4"}
    assert len(set(rows.column("bucket").to_pylist())) <= 2
