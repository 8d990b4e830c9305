"""Processing as the console shows it: how far it is, where it runs, what broke; and asking for a job to be run or tried again."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wardround.clock import Clock
from wardround.console.processing_model import AsideView, DeadView, JobView, NodeView, ProcessingView, StageView
from wardround.errors import ProcessError
from wardround.process.catalogue import JOBS, Job
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, DEAD, SILVER, TREND
from wardround.processing import ask, node_statuses
from wardround.store import JobRunRecord, Store
from wardround.trust.roles import Act, check_act

RUNS, ASIDE, DEAD_SHOWN, ASIDE_SHOWN = 300, 1_000, 20, 12
STAGES = (
    (BRONZE, "as received, by one committer"),
    (SILVER, "clean, aligned, gaps flagged"),
    (TREND, "trends, by hour and day"),
    ("gold_examples", "what models are trained on"),
)
KINDS = {"run": "job asked for", "retry": "failed parts tried again"}


class ProcessingDesk:
    """The processing of one hub. May be called from any thread."""

    def __init__(
        self,
        lake: Lake,
        store: Store,
        clock: Clock,
        *,
        every_s: Callable[[Job], float],
        off: Sequence[str],
        place: Callable[[], str],
        role: Callable[[str], str],
        record: Callable[..., None],
    ) -> None:
        """`off` are jobs that run when asked alone; `place()` says where workers are when no node is there."""
        self._lake, self._store, self._clock = lake, store, clock
        self._every_s, self._off, self._place = every_s, frozenset(off), place
        self._role, self._record = role, record

    def view(self, who: str) -> ProcessingView:
        """Everything that the screen shows.

        Raises:
            NotAllowed: nobody of this name may look.
        """
        check_act(who, self._role(who), Act.LOOK)
        newest: dict[str, JobRunRecord] = {}
        for run in self._store.job_runs(limit=RUNS):
            newest.setdefault(run.job, run)
        nodes = [NodeView(s.name, s.state, s.workers, s.wanted, s.words, s.remedy) for s in node_statuses(self._store)]
        return ProcessingView(
            stages=tuple(self._stage(name, words) for name, words in STAGES),
            nodes=tuple(nodes) or (NodeView("this machine", self._place(), 0, 0),),
            jobs=tuple(self._job(job, newest.get(name)) for name, job in JOBS.items()),
            dead=self._dead(),
            aside=self._aside(),
        )

    def ask(self, who: str, kind: str, job: str) -> str:
        """Ask the hub to `run` a job or `retry` its failed parts; the run's id.

        Raises:
            NotAllowed: their role does not cover it. ProcessError: there is no such job.
        """
        check_act(who, self._role(who), Act.JOBS)
        if job not in JOBS or kind not in KINDS:
            raise ProcessError(f"there is no job {job[:40]!r}", remedy="choose one of the table")
        self._record("change", KINDS[kind], who, job=job)
        return ask(self._store, self._clock, kind, job)

    def _stage(self, table: str, words: str) -> StageView:
        newest: Mapping[str, Any] = next(iter(self._lake.history(table, 1)), {})
        return StageView(
            table, words, self._lake.version(table), self._lake.count(table), int(newest.get("timestamp", 0)) * 1_000
        )

    def _job(self, job: Job, run: JobRunRecord | None) -> JobView:
        every_s = 0.0 if job.name in self._off else self._every_s(job)
        view = JobView(job.name, job.title, job.source, job.target, every_s)
        if run is None:
            return view
        facts = run.facts
        source = ""
        if facts.get("output_version") is not None:
            source = f"{job.source} {facts.get('input_version')} to {job.target} {facts.get('output_version')}"
            source += f", code {str(facts.get('code'))[:8]}"
        return JobView(
            job.name, job.title, job.source, job.target, every_s, run.state, run.parts_done, run.parts, run.failed, run.rows,
            (run.changed_us - run.started_us) / 1e6, run.changed_us, source, str(facts.get("error", "")),
        )  # fmt: skip

    def _dead(self) -> tuple[DeadView, ...]:
        groups: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
        for row in self._lake.read(DEAD, columns=["job", "error", "t_us"]).to_pylist():
            groups[row["job"], row["error"]].append(row["t_us"])
        found = [DeadView(job, error, len(times), min(times)) for (job, error), times in groups.items()]
        return tuple(sorted(found, key=lambda d: (-d.count, d.job))[:DEAD_SHOWN])

    def _aside(self) -> tuple[AsideView, ...]:
        groups: dict[tuple[str, str, str], list[int]] = collections.defaultdict(list)
        for row in self._store.quarantined(limit=ASIDE):
            groups[row.edge, row.what, row.reason].append(row.t_us)
        found = [AsideView(*key, len(times), max(times)) for key, times in groups.items()]
        return tuple(sorted(found, key=lambda a: (-a.newest_us, a.edge))[:ASIDE_SHOWN])
