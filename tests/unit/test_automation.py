"""The table of what runs by the clock, over a real home: who is expected, what a restart knows, what people are told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from wardround.automation import COMPACTION, RETENTION, Automation, shown_rows, shown_runs
from wardround.clock import ManualClock, SystemClock
from wardround.errors import ProcessError
from wardround.hub import create_home
from wardround.learn.study import parse_study
from wardround.settings import HubSettings, parse_settings
from wardround.store import CertificateRecord, RoundRecord, open_store
from wardround.watch.watcher import Watch

HOUR_US = 3_600_000_000
STUDY = 'name = "s"\ntask = "activity"\n[rounds]\ninterval_s = 30.0\ndeadline_s = 10.0\n'


class Work:
    """Processing, as far as the table asks it."""

    def __init__(self):
        self.upkeep_due, self.since = False, None
        self.done = "1 days compacted"

    def upkeep_since(self, last_us):
        self.since = last_us

    def scheduled(self, tasks):
        return [SimpleNamespace(name=n, title=n) for n in ("signals", *(f"examples-{t}" for t in tasks))]

    def every_s(self, job):
        return 10.0

    def keep_up(self):
        if isinstance(self.done, Exception):
            raise self.done
        return self.done


class Study:
    """A running study, as far as the table asks it."""

    def __init__(self):
        self.study = parse_study(STUDY, where="test")
        self.task = SimpleNamespace(name="activity")
        self.newest = self.releases = self.watched = None
        self.coordinator = SimpleNamespace(finished=False, paused=False, why_not=lambda _: "")


class Site:
    def __init__(self, folder):
        self.home, self.settings = folder / "hub", parse_settings("", HubSettings, where="test")
        if not self.home.exists():
            create_home(self.home, "", self.settings).close()
        self.clock = ManualClock(SystemClock().now_us())
        self.store = open_store(self.home / "hub.sqlite")
        self.watch = Watch(clock=self.clock, heartbeat_s=1.0, signal_title=str, on_change=lambda _: None)
        self.work, self.study, self.attached = Work(), Study(), set()
        self.start()

    def start(self):
        self.automation = Automation(
            self.home,
            self.settings,
            store=self.store,
            clock=self.clock,
            watch=self.watch,
            processing=self.work,
            studies=SimpleNamespace(running={"s": self.study}),
            backups=SimpleNamespace(by_the_clock=lambda: "made"),
            attached=lambda: self.attached,
        )

    def rows(self):
        self.automation.look()
        return {r.name: r for r in shown_rows(self.store)}

    def late(self):
        self.rows()
        return {a.finding.job for a in self.watch.open_alerts() if a.finding.kind == "job-late"}


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.store.close()


def test_everything_that_runs_by_the_clock_has_a_row(site):
    names = {"job:signals", "job:examples-activity", COMPACTION, RETENTION, "hub-certificate", "audit-heads", "study:s"}
    assert set(site.rows()) == names
    now_us = site.clock.now_us()
    site.store.joined(CertificateRecord("0a", "icu-a", now_us, now_us + 24 * HOUR_US))
    site.attached = {"icu-a"}
    row = site.rows()["edge-certificates"]
    assert (row.last.started_us, row.next_us) == (now_us, now_us + 16 * HOUR_US)
    site.attached = set()  # what is not there cannot renew
    assert site.rows()["edge-certificates"].next_us == 0


def test_a_job_that_fails_every_time_is_late_and_tells_why(site):
    site.study.coordinator.paused = True
    for _ in range(70):
        with pytest.raises(ProcessError), site.automation.running("job:signals"):
            raise ProcessError("the disk is full", remedy="")
        with site.automation.running("job:examples-activity") as run:
            run.detail = "3 parts, 7 rows"
        site.clock.advance(10.0)
    assert site.late() == {"job:signals"}
    assert "It last failed: the disk is full" in site.watch.open_alerts()[0].finding.detail
    assert site.rows()["job:examples-activity"].last.detail == "3 parts, 7 rows"
    with site.automation.running("job:signals"):
        pass
    assert not site.late()


def test_upkeep_is_noted_and_known_to_the_next_hub(site):
    site.automation.keep_up()
    assert site.rows()[COMPACTION].outcome == "never"
    site.work.upkeep_due = True
    site.automation.keep_up()
    assert site.rows()[RETENTION].last.detail == "1 days compacted"
    site.work.done = ProcessError("no room", remedy="")
    with pytest.raises(ProcessError):
        site.automation.keep_up()
    assert [r.ok for r in shown_runs(site.store, COMPACTION)] == [False, True]
    noted = shown_runs(site.store, COMPACTION)[1].started_us
    site.clock.advance(50.0)
    site.start()
    assert site.work.since == noted


def test_rounds_are_late_when_none_comes_and_never_while_nobody_may_ask(site):
    site.study.newest = RoundRecord("s", 7, site.clock.now_us(), 2.0, "m", {})
    row = site.rows()["study:s"]
    assert (row.last.detail, row.next_us) == ("round 7", site.clock.now_us() + 30_000_000)
    site.clock.advance(700.0)
    assert site.late() >= {"study:s"}
    for name in ("finished", "paused"):
        setattr(site.study.coordinator, name, True)
        assert "study:s" not in site.late()
        assert site.rows()["study:s"].schedule == name
        setattr(site.study.coordinator, name, False)
    site.study.study = parse_study(STUDY + '[schedule]\nwindows = ["22:00-06:00"]\n', where="test")
    assert site.rows()["study:s"].schedule == "outside its schedule"
    site.attached = {"icu-a"}  # and it may be asked
    assert site.late() >= {"study:s"}


def test_thresholds_say_how_far_they_are_and_when_they_were_found(site):
    report = SimpleNamespace(calibrated=False, rounds=12, needed=70)
    site.study.watched = SimpleNamespace(calibration=lambda: report)
    row = site.rows()["thresholds:s"]
    assert (row.schedule, row.outcome) == ("after 70 healthy rounds: 12 so far", "never")
    report.calibrated, report.rounds = True, 70
    row = site.rows()["thresholds:s"]
    assert (row.schedule, row.last.detail) == ("after 70 healthy rounds", "70 healthy rounds")
    site.clock.advance(60.0)
    assert site.rows()["thresholds:s"].last == row.last  # and not again


def test_scores_and_heads_have_their_last_time(site):
    site.study.releases = SimpleNamespace(measured_us=lambda: 5)
    assert site.rows()["calibration:s"].last.started_us == 5
