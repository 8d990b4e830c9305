"""The lake writes exactly once; a job works through what is new, and only that, whatever the clocks say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from wardround.clock import ManualClock
from wardround.process.catalogue import JOBS
from wardround.process.dask_runner import HereRunner
from wardround.process.jobs import Jobs, gold_examples
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, DEAD, GOLD, observation_rows
from wardround.process.transforms import TASKS
from wardround.process.work import Known, make_one
from wardround.records import Observation, bucket_of

TASK = TASKS["activity"]
JOB = JOBS["examples-activity"]
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
        self.folder = folder
        self.lake = Lake(folder / "lake")
        self.version = 0

    def commit(self, observations, t_hub_us=T0):
        self.version += 1
        decoded = [(o, "boot", self.version * 1_000 + i, t_hub_us) for i, o in enumerate(observations)]
        assert self.lake.append(BRONZE, observation_rows(decoded), app="inbox", version=self.version)

    def jobs(self, runner=None):
        return Jobs(self.lake, runner or HereRunner(), ManualClock(), self.folder / "staging", Known())

    def run(self, runner=None, **named):
        return self.jobs(runner).run(JOB, **named)

    def planned(self):
        return sorted({part.subject for part in self.jobs().plan(JOB).parts})

    def gold(self):
        rows = self.lake.read(GOLD, columns=["subject", "t_us", "label", "part", "features"], jobs=[JOB.name]).to_pylist()
        return sorted((r["subject"], r["t_us"], r["label"], r["part"], tuple(np.round(r["features"], 5))) for r in rows)


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
    assert hub.planned() == ["a", "b"]
    report = hub.run()
    assert (report.parts, report.failed) == (2, ())
    assert report.rows == len(hub.gold()) > 0
    assert hub.planned() == []
    hub.commit(motion("b", start_s=30.0))
    assert hub.planned() == ["b"]
    before = [row for row in hub.gold() if row[0] == "a"]
    hub.run()
    assert [row for row in hub.gold() if row[0] == "a"] == before
    assert len(gold_examples(hub.lake, TASK, ["b"])) > report.rows / 2


def test_looking_for_news_writes_nothing(hub):
    hub.commit(motion("a"))
    hub.run()
    before = hub.lake.version(GOLD)
    hub.commit([o for o in motion("b") if o.code == "none of the job's"])
    for _ in range(3):
        hub.run()
    assert hub.lake.version(GOLD) == before


def test_a_clock_that_was_set_back_hides_nothing(hub):
    hub.commit(motion("a"), t_hub_us=T0 + 3_600_000_000)
    hub.run()
    hub.commit(motion("b"), t_hub_us=T0)  # arrived later, stamped earlier
    assert hub.planned() == ["b"]


def test_late_data_opens_its_window_again(hub, tmp_path):
    whole = motion("a", seconds=40.0)
    hub.commit([o for o in whole if o.code != "wr:accel-x"])
    hub.run()
    hub.commit([o for o in whole if o.code == "wr:accel-x"])
    hub.run()
    at_once = Hub(tmp_path / "other")
    at_once.commit(whole)
    at_once.run()
    assert hub.gold() == at_once.gold()
    assert hub.gold()


def test_compaction_makes_no_work_and_loses_nothing(hub):
    for i in range(4):
        hub.commit(motion("a", start_s=30.0 * i, seed=i))
    hub.run()
    gold = hub.gold()
    hub.lake.compact(BRONZE)
    hub.commit(motion("b"))
    assert hub.planned() == ["b"]
    hub.run()
    assert [row for row in hub.gold() if row[0] == "a"] == gold


def test_a_job_that_dies_before_its_commit_is_done_again_and_gives_the_same(hub, tmp_path, monkeypatch):
    hub.commit(motion("a") + motion("b"))

    def die(*_args, **_named):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Lake, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            hub.run()
    assert hub.gold() == []
    hub.run()
    undisturbed = Hub(tmp_path / "other")
    undisturbed.commit(motion("a") + motion("b"))
    undisturbed.run()
    assert hub.gold() == undisturbed.gold()


class Failing(HereRunner):
    """One subject's parts raise, until it is told otherwise."""

    def __init__(self, subject="b"):
        self.subject = subject

    def map(self, function, parts, uri, *arguments, **how):
        def one(group, *rest):
            made = [make_one(part, *rest) for part in group]
            return [
                msgspec.structs.replace(m, rows=None, error="ValueError: bad row") if m.part.subject == self.subject else m
                for m in made
            ]

        return super().map(one, parts, uri, *arguments, **how)


def test_a_part_that_fails_is_a_dead_letter_with_its_words_and_the_others_complete(hub):
    hub.commit(motion("a") + motion("b") + motion("c"))
    report = hub.run(Failing())
    assert [(part.subject, words) for part, words in report.failed] == [("b", "ValueError: bad row")]
    assert set(gold_examples(hub.lake, TASK).subjects) == {"a", "c"}
    [letter] = hub.lake.read(DEAD, columns=["job", "subject", "error"]).to_pylist()
    assert letter == {"job": JOB.name, "subject": "b", "error": "ValueError: bad row"}
    assert hub.planned() == []  # it is not tried again and again


def test_retry_makes_dead_letters_again_and_buries_those_that_come_right(hub, tmp_path):
    hub.commit(motion("a") + motion("b"))
    hub.run(Failing())
    assert [str(part.subject) for part, _ in hub.jobs().dead(JOB)] == ["b"]
    assert len(hub.jobs(Failing()).retry(JOB).failed) == 1
    assert len(hub.jobs().dead(JOB)) == 1
    assert hub.jobs().retry(JOB).failed == ()
    assert hub.jobs().dead(JOB) == []
    calm = Hub(tmp_path / "calm")
    calm.commit(motion("a") + motion("b"))
    calm.run()
    assert hub.gold() == calm.gold()


def test_a_part_that_fails_keeps_the_rows_it_had(hub):
    hub.commit(motion("b"))
    hub.run()
    before = hub.gold()
    hub.commit(motion("b", start_s=60.0))
    assert len(hub.run(Failing()).failed) == 1
    assert hub.gold() == before


class Dying(HereRunner):
    """The hub dies after some parts have come back."""

    def __init__(self, after):
        self.after = after
        self.seen = 0

    def map(self, function, parts, uri, *arguments, **how):
        for outcome in super().map(function, parts, uri, *arguments, **how):
            if self.seen == self.after:
                raise KeyboardInterrupt
            self.seen += 1
            yield outcome


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_run_goes_on_from_what_was_done(hub, tmp_path, after):
    hub.commit([o for s in "abcd" for o in motion(s)])
    with pytest.raises(KeyboardInterrupt):
        hub.run(Dying(after))
    assert hub.gold() == []
    counting = Dying(after=99)
    report = hub.run(counting)
    assert (report.parts, counting.seen) == (4, 4 - after)
    calm = Hub(tmp_path / "calm")
    calm.commit([o for s in "abcd" for o in motion(s)])
    calm.run()
    assert hub.gold() == calm.gold()


def test_a_run_that_is_stopped_shows_nothing_and_goes_on_later(hub):
    hub.commit([o for s in "abcd" for o in motion(s)])
    asked = []
    report = hub.run(stop=lambda: len(asked) > 2 or asked.append(1) is not None)
    assert report.stopped
    assert hub.gold() == []
    hub.run()
    assert {row[0] for row in hub.gold()} == set("abcd")


def test_a_stop_that_is_said_once_is_a_stop(hub):
    hub.commit([o for s in "abcd" for o in motion(s)])
    hub.run()
    before = hub.gold()
    hub.commit([o for s in "abcd" for o in motion(s, start_s=60.0)])
    answers = iter([False, False, True])
    report = hub.run(stop=lambda: next(answers, False))
    assert report.stopped
    assert hub.gold() == before  # the parts that were not made keep what they had
    hub.run()
    assert {row[0] for row in hub.gold()} == set("abcd")
    assert len(hub.gold()) > len(before)


def test_a_rebuild_keeps_the_rows_of_a_file_that_cannot_be_read(hub):
    hub.commit([o for s in "abcd" for o in motion(s)])
    hub.run()
    before = hub.gold()
    [file] = Path(hub.lake.uri, BRONZE).glob(f"day=*/bucket={bucket_of('b')}/*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    hub.lake = Lake(hub.lake.uri)  # a hub that has just started
    jobs = hub.jobs()
    jobs._known_digest = "other"  # as other code would: everything is made anew
    report = jobs.run(JOB)
    assert [part.subject for part, _ in report.failed] == [f"file in bucket {bucket_of('b')}"]
    assert hub.gold() == before


def test_a_half_written_result_is_made_again(hub):
    hub.commit([o for s in "abcd" for o in motion(s)])
    with pytest.raises(KeyboardInterrupt):
        hub.run(Dying(3))
    files = sorted((hub.folder / "staging" / JOB.name).glob("*.arrow"))
    files[0].write_bytes(files[0].read_bytes()[:200])
    counting = Dying(after=99)
    hub.run(counting)
    assert counting.seen == 2
    assert {row[0] for row in hub.gold()} == set("abcd")


def test_the_history_of_a_table_says_what_made_it(hub):
    hub.commit(motion("a"))
    report = hub.run()
    [newest, *_] = hub.lake.history(GOLD)
    assert newest["job"] == JOB.name
    assert newest["source"] == f"{BRONZE}@{report.input_version}"
    assert newest["code"] == report.code


def test_a_table_of_an_older_release_gets_its_new_columns(tmp_path):
    from deltalake import DeltaTable, write_deltalake

    old = Hub(tmp_path)
    rows = observation_rows([(o, "b", i, T0) for i, o in enumerate(motion("old"))])
    older = rows.drop_columns(["made", "t1_us"])
    write_deltalake(str(tmp_path / "lake" / BRONZE), older, partition_by=["day", "bucket"])
    old.commit(motion("new"))
    assert {f.name for f in DeltaTable(str(tmp_path / "lake" / BRONZE)).schema().fields} >= {"made", "t1_us"}
    assert set(old.lake.read(BRONZE, columns=["subject"]).column("subject").to_pylist()) == {"old", "new"}


def test_reading_some_subjects_opens_only_their_buckets(hub):
    hub.commit([o for i in range(30) for o in motion(f"s{i}", seconds=2.0)])
    rows = hub.lake.read(BRONZE, columns=["subject", "bucket"], subjects=["s3", "s4"])
    assert set(rows.column("subject").to_pylist()) == {"s3", "s4"}
    assert len(set(rows.column("bucket").to_pylist())) <= 2
