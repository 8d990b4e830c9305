"""Processing as the console shows it, over a real lake and store: what failed is grouped, no subject is named, roles decide."""

from __future__ import annotations

import pyarrow as pa
import pytest

from wardround.clock import ManualClock
from wardround.console import processing
from wardround.console.looking import Looking
from wardround.console.model import Overview
from wardround.desks.processing import ProcessingDesk
from wardround.errors import NotAllowed, ProcessError
from wardround.process import tables
from wardround.process.lake import Lake
from wardround.records import bucket_of
from wardround.store import Quarantined, open_store
from wardround.store.records import JobRunRecord

SUBJECT = "q7k4-m2xd-aaaa-bbbb-cccc"


@pytest.fixture
def world(tmp_path):
    class World:
        clock, store, lake, entries = ManualClock(), open_store(tmp_path / "hub.sqlite"), Lake(tmp_path / "lake"), []
        roles = {"olga": "operator", "vi": "viewer", "cleo": "clinician"}  # noqa: RUF012

    made = World()
    made.desk = ProcessingDesk(
        made.lake, made.store, made.clock, every_s=lambda _: 30.0, off=["sketches"], place=lambda: "2 workers beside the hub",
        role=lambda who: made.roles.get(who, ""), record=lambda *entry, **facts: made.entries.append((*entry, facts)),
    )  # fmt: skip
    yield made
    made.store.close()


def bury(world, n):
    day = tables.day_of(world.clock.now_us())
    row = {
        "subject": SUBJECT,
        "start_us": 0,
        "error": "MemoryError: no room",
        "input_version": 1,
        "t_us": world.clock.now_us(),
        "job": "trends",
    }
    rows = [row | {"part": f"p{i}", "day": day, "bucket": bucket_of(SUBJECT)} for i in range(n)]
    world.lake.append(tables.DEAD, pa.Table.from_pylist(rows, schema=tables.DEAD_LETTERS), app="t", version=0)


def test_an_empty_hub_has_nothing_to_show_and_says_so(world):
    view = world.desk.view("vi")
    assert [s.rows for s in view.stages] == [0, 0, 0, 0]
    assert view.dead == view.aside == ()
    parts = processing.sections(Overview(1, "h", "1", "s", simulated=False, subjects=0), view, Looking("olga", "operator"))
    assert "no row yet" in parts["flow"]
    assert "Every part was made." in parts["dead"]


def test_what_failed_is_one_line_a_cause_and_names_nobody(world):
    bury(world, 3)
    now_us = world.clock.now_us()
    facts = {"input_version": 7, "output_version": 9, "code": "abc", "place": "here"}
    world.store.put_job_run(JobRunRecord("r1", "trends", "done", now_us - 2_000_000, now_us, 13, 16, 3, 120, facts))
    world.store.set_aside(Quarantined(now_us, "cardio-2", "observation", "unknown-unit", "d"))
    view = world.desk.view("vi")
    [dead] = view.dead
    assert (dead.job, dead.count, dead.error) == ("trends", 3, "MemoryError: no room")
    job = {j.name: j for j in view.jobs}["trends"]
    assert (job.state, job.done, job.parts, job.failed, job.seconds) == ("done", 13, 16, 3, 2.0)
    assert "code abc" in job.source
    parts = processing.sections(Overview(now_us, "h", "1", "s", simulated=False, subjects=1), view, Looking("vi", "viewer"))
    assert SUBJECT not in str(view)
    assert "3 parts could not be made and are kept." in parts["answer"]
    assert 'disabled title="Needs the role operator or admin"' in parts["dead"]
    assert "cardio-2" in parts["aside"]


def test_asking_is_for_operators_and_is_recorded_first(world):
    for who in ("vi", "cleo", "nobody"):
        with pytest.raises(NotAllowed):
            world.desk.ask(who, "retry", "trends")
    with pytest.raises(NotAllowed):
        world.desk.view("nobody")
    for kind, job in (("retry", "no-such-job"), ("stop", "trends")):
        with pytest.raises(ProcessError):
            world.desk.ask("olga", kind, job)
    assert world.store.job_requests() == []
    world.desk.ask("olga", "retry", "trends")
    [request] = world.store.job_requests()
    assert (request.kind, request.job) == ("retry", "trends")
    assert world.entries == [("change", "failed parts tried again", "olga", {"job": "trends"})]
