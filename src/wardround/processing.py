"""A hub's data processing: the lake, its jobs, and where they run; one of it a hub's home, whoever opens it.

The hub has it open as long as it runs; `wardround process run` opens it when no hub does. A lock on the home keeps them apart,
so the lake has one writer.
"""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.compute as pc
import structlog

from wardround.clock import Clock
from wardround.collect.streams import HOUR_US, Hour, with_gaps
from wardround.errors import ProcessError, WardroundError
from wardround.process import upkeep
from wardround.process.catalogue import JOBS, Job
from wardround.process.dask_runner import DaskRunner, HereRunner
from wardround.process.jobs import JobReport, Jobs
from wardround.process.lake import Lake
from wardround.process.nodes import image
from wardround.process.nodes.fleet import Fleet, NodeStatus
from wardround.process.nodes.runner import HubRunner, NodesRunner
from wardround.process.tables import TREND
from wardround.process.work import Known
from wardround.settings import HubSettings, ProcessingSettings
from wardround.store import JobRequest, JobRunRecord, Store
from wardround.trust.certificates import Authority

log = structlog.get_logger(__name__)
NODES_STATE = "node-statuses"
NOTE_S = 0.5  # between two notes of a run's progress
UPKEEP_S = 3600.0
UPKEEP_SOON_S = 30.0  # after a start
EXAMPLES = "examples-"


class Processing:
    """Lake, nodes and jobs. Jobs run one at a time, in the caller's thread; the rest may be called from any."""

    def __init__(
        self,
        home: Path,
        settings: HubSettings,
        store: Store,
        clock: Clock,
        *,
        known: Known,
        say: Callable[[str, str], None],
    ) -> None:
        """`say` takes a title and a detail for "what happened"; `known` is what transforms ask of the hub.

        Raises:
            ProcessError: a setting names a job that there is not.
        """
        wanted = settings.processing
        for name in wanted.jobs_off:
            job_named(name)
        _check_memory(wanted)
        self._settings, self._store, self._clock, self._say = wanted, store, clock, say
        folder = home / "nodes"
        authority = processing_authority(folder)
        self.lake = open_lake(home, settings)
        self.fleet = Fleet(
            hub_id=hub_id(folder), keys=folder, authority=authority, lake=self.lake.uri, lake_options=wanted.lake_options
        )
        self.nodes = NodesRunner(self.fleet, folder / "tls", authority)
        here = DaskRunner(workers=wanted.workers, memory_bytes=wanted.memory_per_worker_bytes)
        self.runner = HubRunner(self.nodes, self.fleet, here, say=say)
        known = msgspec.structs.replace(known, lake_options=dict(wanted.lake_options))
        self._jobs = Jobs(self.lake, self.runner, clock, home / "staging", known, image.reference())
        self._due_s: dict[str, float] = {}
        self._upkeep_s = clock.monotonic_s() + UPKEEP_S
        self._running = threading.Lock()
        for record in store.job_runs():
            if record.state == "running":  # it holds the home alone, so whoever ran it is gone
                store.put_job_run(replace(record, state="cut off", changed_us=clock.now_us()))
        self._stop_asked = threading.Event()
        self._noted_nodes = b""

    def close(self) -> None:
        """End workers and containers."""
        self._stop_asked.set()
        self.runner.close()

    # -- nodes

    def look(self) -> None:
        """Follow the nodes as the store has them, and note there how they are."""
        records = self._store.nodes()
        self.fleet.set_nodes(records)
        if self.fleet.active and not self.fleet.barred:
            self.nodes.start()
        noted = msgspec.json.encode(self.fleet.statuses()) if records else b""
        if noted != self._noted_nodes:
            self._noted_nodes = noted
            self._store.save_state(NODES_STATE, noted)

    # -- jobs

    def run(
        self,
        job: Job,
        *,
        retry: bool = False,
        run_id: str = "",
        stop: Callable[[], bool] | None = None,
        watch: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> JobReport:
        """Run a job, and note its progress in the store, where anybody can follow it; `watch` gets it as well.

        Args:
            run_id: what somebody asked for is noted under this, even when there was nothing to do.

        Raises:
            WardroundError: it could not be brought to its end; what is done is kept for the next run.
        """
        with self._running:
            progress = _Progress(self._store, self._clock, self._record(job, run_id, retry=retry), watch)
            if run_id:
                progress.note(0, 0)
            act = self._jobs.retry if retry else self._jobs.run
            try:
                report = act(job, progress.note, stop or self._stop_asked.is_set)
            except WardroundError as error:
                progress.end("failed", {"error": str(error), "remedy": error.remedy, "place": self.runner.place})
                raise
            progress.report(report)
        if report.failed:
            words = f"{report.failed[0][1]} (see `wardround process status`)"
            self._say(f"{job.title}: {len(report.failed)} parts could not be made", words)
            log.warning("parts failed", job=job.name, parts=len(report.failed))
        return report

    def due(self, tasks: Collection[str]) -> Iterator[Job]:
        """The jobs whose time has come, of those that are `scheduled`."""
        for job in self.scheduled(tasks):
            now_s = self._clock.monotonic_s()
            if now_s >= self._due_s.get(job.name, 0.0):
                self._due_s[job.name] = now_s + self.every_s(job)
                yield job

    def answer(self) -> None:
        """Carry out what people have asked for since the last time."""
        for request in self._store.job_requests():
            if not self._store.take_job_request(request.request_id) or request.kind == "stop":
                continue
            job = JOBS.get(request.job)
            if job is None:
                log.warning("unknown job asked for", job=request.job)
                continue
            try:
                self.run(job, retry=request.kind == "retry", run_id=request.request_id, stop=self._stopping())
            except WardroundError as error:
                self._say(f"{job.title} failed", str(error))

    def upkeep_since(self, last_us: int) -> None:
        """When the lake was last put in order, by a hub that has ended: however often hubs are started, its turn comes."""
        if last_us:
            waits_s = max(UPKEEP_SOON_S, UPKEEP_S - (self._clock.now_us() - last_us) / 1e6)
            self._upkeep_s = self._clock.monotonic_s() + min(UPKEEP_S, waits_s)

    @property
    def upkeep_due(self) -> bool:
        """Whether the time of `keep_up` has come."""
        return self._clock.monotonic_s() >= self._upkeep_s

    def keep_up(self) -> upkeep.Done:
        """Compaction, retention and clean-up."""
        self._upkeep_s = self._clock.monotonic_s() + UPKEEP_S
        done = upkeep.keep_up(self.lake, self._settings.retention, now_us=self._clock.now_us())
        if done.anything:
            self._say("The lake was put in order", str(done))
        return done

    def every_s(self, job: Job) -> float:
        """How often a job runs by itself."""
        return max(job.interval_s or 0.0, self._settings.interval_s)

    def scheduled(self, tasks: Collection[str]) -> list[Job]:
        """The jobs that run by themselves; examples of those tasks alone that a study asks for."""
        return [
            job
            for job in JOBS.values()
            if (
                job.name.removeprefix(EXAMPLES) in tasks
                if job.name.startswith(EXAMPLES)
                else job.name not in self._settings.jobs_off
            )
        ]

    def _stopping(self) -> Callable[[], bool]:
        """Whether the hub ends, or somebody has asked for a stop since now; once yes, always yes."""
        asked = threading.Event()

        def stop() -> bool:
            for request in self._store.job_requests():
                if request.kind == "stop" and self._store.take_job_request(request.request_id):
                    asked.set()
            return asked.is_set() or self._stop_asked.is_set()

        return stop

    def _record(self, job: Job, run_id: str, *, retry: bool) -> JobRunRecord:
        now_us = self._clock.now_us()
        facts: dict[str, Any] = {"place": self.runner.place, "retry": retry}
        return JobRunRecord(run_id or new_id(self._clock), job.name, "running", now_us, now_us, 0, 0, 0, 0, facts)


class _Progress:
    """Notes a run in the store from its first step on, and not too often; a look that finds nothing to do leaves no note."""

    def __init__(self, store: Store, clock: Clock, record: JobRunRecord, watch: Callable[[int, int], None]) -> None:
        self._store, self._clock, self._record, self._watch = store, clock, record, watch
        self._noted_s: float | None = None

    def note(self, done: int, total: int) -> None:
        self._watch(done, total)
        self._record = replace(self._record, parts_done=done, parts=total, changed_us=self._clock.now_us())
        if self._noted_s is None or time.monotonic() - self._noted_s > NOTE_S:
            self._noted_s = time.monotonic()
            self._store.put_job_run(self._record)

    def end(self, state: str, facts: dict[str, Any]) -> None:
        facts = {**self._record.facts, **facts}
        self._store.put_job_run(replace(self._record, state=state, changed_us=self._clock.now_us(), facts=facts))

    def report(self, report: JobReport) -> None:
        if self._noted_s is None:
            return
        self._record = replace(self._record, failed=len(report.failed), rows=report.rows)
        facts = {
            "input_version": report.input_version,
            "output_version": report.output_version,
            "code": report.code,
            "image": image.reference(),
            "place": report.place,
            "failed": [[str(part), words] for part, words in report.failed[:20]],
        }
        self.end("stopped" if report.stopped else "done", facts)


def open_lake(home: Path, settings: HubSettings) -> Lake:
    """The lake of a hub's home: a folder in it, or where its settings say."""
    wanted = settings.processing
    return Lake(wanted.lake or home / "lake", dict(wanted.lake_options) or None)


def completeness(lake: Lake, now_us: int, *, since_us: int | None = None) -> list[Hour]:
    """How much of each signal of each subject is in the lake and good, by hour, with the hours in which nothing is."""
    if lake.version(TREND) < 0:
        return []
    columns = ["subject", "code", "t_us", "width_us", "n", "completeness"]
    rows = lake.read(TREND, columns=columns, since_us=since_us).filter(pc.field("width_us") == HOUR_US)
    own = (rows.column(name).to_pylist() for name in columns if name != "width_us")
    found = (Hour(subject, code, t_us, n, 3600.0 * share) for subject, code, t_us, n, share in zip(*own, strict=True))
    return with_gaps(found, now_us)


def onlooker(home: Path, settings: HubSettings, clock: Clock, known: Known) -> Jobs:
    """The jobs of a home, to look at: what would run, and what failed."""
    return Jobs(open_lake(home, settings), HereRunner(), clock, home / "staging", known)


def node_statuses(store: Store) -> list[NodeStatus]:
    """The nodes as the running hub last saw them."""
    saved = store.load_state(NODES_STATE)
    return msgspec.json.decode(saved, type=list[NodeStatus]) if saved else []


def ask(store: Store, clock: Clock, kind: str, job: str = "") -> str:
    """Ask the running hub to `run` or `retry` a job, or to `stop` the one that runs; the run's id."""
    request = JobRequest(new_id(clock), kind, job, clock.now_us())
    store.ask_job(request)
    return request.request_id


def new_id(clock: Clock) -> str:
    """Of a run or a request."""
    return f"{clock.now_us():x}-{secrets.token_hex(2)}"


def job_named(name: str) -> Job:
    """A job by its name.

    Raises:
        ProcessError: there is none.
    """
    if name not in JOBS:
        raise ProcessError(f"no job is called {name!r}", remedy=f"jobs are: {', '.join(JOBS)}")
    return JOBS[name]


def _check_memory(settings: ProcessingSettings) -> None:
    """Whether the hub's own workers can hold a part of every job that runs by itself."""
    for job in JOBS.values():
        if job.memory_bytes > settings.memory_per_worker_bytes and job.name not in settings.jobs_off:
            raise ProcessError(
                f"processing.memory_per_worker_bytes is too small for {job.name}, which needs {job.memory_bytes}",
                remedy=f"raise it, or put {job.name} into processing.jobs_off",
            )


def hub_id(folder: Path) -> str:
    """What this hub's containers are labelled with."""
    path = folder / "hub-id"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(secrets.token_hex(4), encoding="ascii")
    return path.read_text(encoding="ascii").strip()


def processing_authority(folder: Path) -> Authority:
    """The authority of scheduler and workers: another one than the edges', so no edge can pass for a worker."""
    if not (folder / "pki" / "ca.key").exists():
        return Authority.create(folder / "pki", "processing")
    return Authority.load(folder / "pki")


@contextlib.contextmanager
def only_one(home: Path, *, wait_s: float = 1.0) -> Iterator[None]:
    """Hold a hub's home: one program at a time writes its lake. It waits a moment: somebody may just be looking (`held`).

    Raises:
        WardroundError: another program holds it.
    """
    until = time.monotonic() + wait_s
    with (home / "lock").open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as exc:
                if time.monotonic() >= until:
                    remedy = "stop it first, or give --home another folder"
                    raise WardroundError(f"a hub runs in {home} already", remedy=remedy) from exc
            time.sleep(0.05)
        yield


def held(home: Path) -> bool:
    """Whether a hub runs in this home."""
    try:
        with only_one(home, wait_s=0.0):
            return False
    except WardroundError:
        return True
