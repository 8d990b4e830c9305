"""Runs jobs: only what changed, each part exactly once, what is done kept when the rest is killed, what fails named.

A plan looks at the rows that came to the job's source since the version it last worked through, and finds the parts that see
them: late data open their parts again, and no others. Parts go to workers in groups. What comes back is staged in files beside
the lake; when all is there, one commit puts the new rows in the place of the parts' old ones, and carries the version worked
through. A hub that dies goes on from the staged files. A part that fails goes to the dead letters with its error, and is made
again when its data change, or when someone says `retry`.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import structlog

from wardround.clock import Clock
from wardround.malformed import MALFORMED
from wardround.process.catalogue import Job
from wardround.process.dask_runner import Outcome, Runner, never
from wardround.process.lake import BrokenFile, Lake
from wardround.process.tables import DAY_US, DEAD, DEAD_LETTERS, GOLD, day_of, rows_to_examples, start_of
from wardround.process.transforms import Task
from wardround.process.work import Known, Made, Part, make
from wardround.records import Examples, bucket_of

log = structlog.get_logger(__name__)
GROUPS = 24  # a job is cut into about so many tasks, so that progress shows and no worker waits long for the last
GROUP_MAX = 32
_FILE = "file in bucket "  # the subject of a part that stands for a file nobody can look into
Progress = Callable[[int, int], None]


class Plan(msgspec.Struct, frozen=True):
    """What a run will do. `whole`: everything is made anew, as for a first run or other code."""

    job: str
    code: str
    after: int  # versions of the source: worked through, and to be worked through
    upto: int
    whole: bool
    parts: list[Part]
    retry: bool = False
    broken: list[tuple[Part, str]] = []  # files whose rows could not even be looked at


class JobReport(msgspec.Struct, frozen=True):
    """What one run did."""

    job: str
    input_version: int
    output_version: int
    parts: int
    rows: int
    failed: tuple[tuple[Part, str], ...]  # with the words of the error
    code: str
    place: str
    stopped: bool = False  # somebody asked it to; what is done is kept for the next run


def _quiet(_done: int, _all: int) -> None:
    """Nobody looks."""


class Jobs:
    """Plans and runs jobs over one lake. One job at a time; the caller sees to that."""

    def __init__(self, lake: Lake, runner: Runner, clock: Clock, staging: Path, known: Known, image: str = "") -> None:
        """`staging` is a folder of the hub's own; `image` names the workers' image, for the lineage."""
        self._lake, self._runner, self._clock = lake, runner, clock
        self._staging, self._known, self._image = staging, known, image
        self._nothing_until: dict[str, int] = {}  # by job and code: up to this version nothing concerns it
        self._known_digest = hashlib.sha256(msgspec.json.encode(known.ranges, order="sorted")).hexdigest()[:6]

    def plan(self, job: Job) -> Plan:
        """What a run would do now."""
        code = self._code(job)
        after, upto = self._done(job), self._lake.version(job.source)
        looked = max(after, self._nothing_until.get(self._app(job), -1))
        broken: list[tuple[Part, str]] = []
        parts = self._changed(job, looked, upto, broken) if upto > looked else []
        if not parts and not broken:
            self._nothing_until[self._app(job)] = upto
        return Plan(job.name, code, after, upto, after < 0, parts, broken=broken)

    def run(self, job: Job, progress: Progress = _quiet, stop: Callable[[], bool] = never) -> JobReport:
        """Work through what is new."""
        staged = _Staged(self._staging / job.name)
        plan = staged.plan()
        if plan is None or plan.code != self._code(job) or plan.after != self._done(job):
            plan = self.plan(job)
            staged.begin(plan)
        if not plan.parts and not plan.broken:
            staged.end()  # and no commit: the table's log would grow with every look
            return self._report(job, plan, 0, [])
        return self._carry_out(job, plan, staged, progress, stop)

    def retry(self, job: Job, progress: Progress = _quiet, stop: Callable[[], bool] = never) -> JobReport:
        """Make the parts again that are in the dead letters."""
        dead, upto = [part for part, _ in self.dead(job)], self._lake.version(job.source)
        parts = {p for p in dead if not p.subject.startswith(_FILE)}
        broken: list[tuple[Part, str]] = []
        for file in (p for p in dead if p.subject.startswith(_FILE)):  # now perhaps it can be read
            bucket, end_us = int(file.subject.removeprefix(_FILE)), file.start_us + DAY_US
            parts.update(self._changed(job, -1, upto, broken, buckets=[bucket], since_us=file.start_us, until_us=end_us))
        plan = Plan(job.name, self._code(job), self._done(job), upto, False, sorted(parts), retry=True, broken=broken)
        if not dead:
            return self._report(job, plan, 0, [])
        staged = _Staged(self._staging / f"{job.name}-retry")
        staged.begin(plan)
        return self._carry_out(job, plan, staged, progress, stop)

    def dead(self, job: Job) -> list[tuple[Part, str]]:
        """The parts that failed, with their errors."""
        rows = self._lake.read(DEAD, columns=["subject", "start_us", "error"], jobs=[job.name]).to_pylist()
        return sorted((Part(r["subject"], r["start_us"], r["start_us"] + job.span_us), r["error"]) for r in rows)

    def _carry_out(self, job: Job, plan: Plan, staged: _Staged, progress: Progress, stop: Callable[[], bool]) -> JobReport:
        failed = [*plan.broken, *self._make(job, plan, staged, progress, stop)]
        if set(plan.parts) - staged.done - {part for part, _ in failed}:  # somebody said stop
            return self._report(job, plan, 0, failed, stopped=True)
        rows = self._commit(job, plan, staged, [part for part, _ in failed])
        self._bury(job, plan, failed)
        staged.end()
        return self._report(job, plan, rows, failed)

    def _make(
        self, job: Job, plan: Plan, staged: _Staged, progress: Progress, stop: Callable[[], bool]
    ) -> list[tuple[Part, str]]:
        """Every part of the plan that is not staged yet; those that failed, with their errors."""
        failed: list[tuple[Part, str]] = []
        left = [p for p in plan.parts if p not in staged.done]
        done, total = len(plan.parts) - len(left), len(plan.parts)
        progress(done, total)
        size = int(np.clip(len(left) // GROUPS, 1, GROUP_MAX))
        groups = [tuple(left[i : i + size]) for i in range(0, len(left), size)]
        suspects: list[tuple[Part, ...]] = []  # their worker died, or hung: whose doing it was shows when each is alone
        for alone in (False, True):
            for outcome in self._outcomes(job, plan, groups, stop, alone=alone):
                if outcome.killed and not alone:
                    suspects += [(part,) for part in outcome.part]
                    continue
                made = outcome.result or [Made(part, None, outcome.error) for part in outcome.part]
                staged.keep(made)
                failed += [(m.part, m.error) for m in made if m.rows is None]
                done += len(made)
                progress(done, total)
            groups = suspects
        for part, words in failed:
            log.warning("part failed", job=job.name, bucket=bucket_of(part.subject), error=words)
        return failed

    def _outcomes(
        self, job: Job, plan: Plan, groups: Sequence[tuple[Part, ...]], stop: Callable[[], bool], *, alone: bool
    ) -> Iterable[Outcome[tuple[Part, ...]]]:
        if not groups or stop():
            return ()
        return self._runner.map(make, groups, self._lake.uri, job.name, plan.upto, self._known, stop=stop, alone=alone)

    def _commit(self, job: Job, plan: Plan, staged: _Staged, failed: Sequence[Part]) -> int:
        """One commit of everything staged. Parts that failed keep the rows they had."""
        gone = set(failed)
        made = [part for part in plan.parts if part not in gone]
        notes = {
            "job": job.name,
            "source": f"{job.source}@{plan.upto}",
            "code": plan.code,
            "image": self._image,
            "place": self._runner.place,
            "parts": str(len(made)),
        }
        transaction = None if plan.retry else (self._app(job), plan.upto)
        predicate = _predicate(job, plan, made, gone)
        self._lake.replace(job.target, staged.batches, predicate=predicate, transaction=transaction, notes=notes)
        return staged.rows

    def _bury(self, job: Job, plan: Plan, failed: Sequence[tuple[Part, str]]) -> None:
        """The dead letters of the plan's parts are those that failed now."""
        if not failed and not self.dead(job):
            return
        now_us = self._clock.now_us()
        letters = [
            {
                "job": job.name,
                "part": part.key,
                "subject": part.subject,
                "start_us": part.start_us,
                "error": words,
                "input_version": plan.upto,
                "t_us": now_us,
                "day": day_of(part.start_us),
                "bucket": bucket_of(part.subject),
                "made": None,
            }
            for part, words in failed
        ]
        rows = pa.Table.from_pylist(letters, schema=DEAD_LETTERS)
        everything = plan.whole or plan.retry
        predicate = f"job = '{job.name}'" if everything else _among(job, [*plan.parts, *(p for p, _ in plan.broken)])
        self._lake.replace(DEAD, rows.to_batches, predicate=predicate)

    def _report(self, job: Job, plan: Plan, rows: int, failed: Sequence[tuple[Part, str]], *, stopped: bool = False) -> JobReport:
        return JobReport(
            job=job.name,
            input_version=plan.upto,
            output_version=self._lake.version(job.target),
            parts=len(plan.parts) + len(plan.broken) - len(failed),
            rows=rows,
            failed=tuple(failed),
            code=plan.code,
            place=self._runner.place,
            stopped=stopped,
        )

    def _changed(self, job: Job, after: int, upto: int, broken: list[tuple[Part, str]], **where: Any) -> list[Part]:
        """The parts that see a row that came after one version and up to another, by day, bucket and subject.

        A file that cannot be read goes to `broken`, as a part of its own: a day of a bucket, whoever was in it.
        """
        columns = ["subject", "t0_us", "t1_us"]
        since = after if after >= 0 else None
        unread: list[BrokenFile] = []
        rows = self._lake.read(
            job.source, columns=columns, codes=job.codes, made_after=since, version=upto, broken=unread, **where
        )
        for file in unread:
            start_us = start_of(file.day)
            broken.append((Part(f"{_FILE}{file.bucket}", start_us, start_us + DAY_US), file.words))
        if not rows.num_rows:
            return []
        first = rows.column("t0_us").to_numpy()
        last = np.maximum(first, rows.column("t1_us").to_numpy())
        lows, highs = (first - job.margin_us) // job.span_us, (last + job.margin_us) // job.span_us
        spanned = pa.table({"subject": rows.column("subject"), "low": lows, "high": highs})
        distinct = spanned.group_by(["subject", "low", "high"]).aggregate([])
        found = {
            Part(subject, k * job.span_us, (k + 1) * job.span_us)
            for subject, low, high in zip(*(distinct.column(c).to_pylist() for c in ("subject", "low", "high")), strict=True)
            for k in range(low, high + 1)
        }
        return sorted(found, key=lambda p: (p.start_us, bucket_of(p.subject), p.subject))

    def _code(self, job: Job) -> str:
        return f"{job.code}{self._known_digest}"

    def _done(self, job: Job) -> int:
        return self._lake.transaction_version(job.target, self._app(job))

    def _app(self, job: Job) -> str:
        return f"job-{job.name}-{self._code(job)}"


class _Staged:
    """Results on disk until they are committed, with the plan they belong to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.done: set[Part] = set()
        self.rows = 0

    def plan(self) -> Plan | None:
        """The plan of a run that did not come to its end, with what it had done; None when there is none."""
        try:
            plan = msgspec.msgpack.decode((self._folder / "plan").read_bytes(), type=Plan)
        except (OSError, *MALFORMED):
            return None
        for file in self._files():
            with contextlib.suppress(OSError, pa.ArrowInvalid), pa.OSFile(str(file)) as source:
                opened = pa.ipc.open_file(source)
                self.done.update(msgspec.json.decode(opened.schema.metadata[b"parts"], type=list[Part]))
                self.rows += int(opened.schema.metadata[b"rows"])
                continue
            file.unlink(missing_ok=True)  # half written: its parts are made again
        return plan

    def begin(self, plan: Plan) -> None:
        """Start anew."""
        self.end()
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / "plan.partial"
        partial.write_bytes(msgspec.msgpack.encode(plan))
        partial.replace(self._folder / "plan")

    def keep(self, made: Sequence[Made]) -> None:
        """Put away the rows of parts that came back; what failed is tried again by whoever goes on."""
        good = [m for m in made if m.rows is not None]
        if not good:
            return
        parts = [m.part for m in good]
        rows = pa.concat_tables([m.rows for m in good if m.rows is not None])
        about = {"parts": msgspec.json.encode(parts), "rows": str(rows.num_rows)}
        rows = rows.replace_schema_metadata({**(rows.schema.metadata or {}), **about})
        name = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:24]
        partial = self._folder / f"{name}.partial"
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
        partial.replace(self._folder / f"{name}.arrow")
        self.done.update(parts)
        self.rows += rows.num_rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Everything put away, file by file."""
        for file in self._files():
            with pa.OSFile(str(file)) as source:
                yield from pa.ipc.open_file(source).read_all().to_batches()

    def end(self) -> None:
        """Committed: nothing is left to keep."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self.done, self.rows = set(), 0

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.arrow"))


def _predicate(job: Job, plan: Plan, made: Sequence[Part], failed: Iterable[Part]) -> str:
    """The old rows that go. With other code all of the job's do, except those of parts that could not be made.

    Who was in a file that cannot be read is not known: then only what was made goes.
    """
    if not plan.whole or plan.broken:
        return _among(job, made)
    kept = ", ".join(_quoted(p.key) for p in failed)
    return f"job = '{job.name}'" + (f" AND part NOT IN ({kept})" if kept else "")


def _among(job: Job, parts: Sequence[Part]) -> str:
    if not parts:
        return "false"
    days = ", ".join(sorted({f"'{day_of(p.start_us)}'" for p in parts}))
    buckets = ", ".join(sorted({str(bucket_of(p.subject)) for p in parts}))
    keys = ", ".join(_quoted(p.key) for p in parts)
    return f"day IN ({days}) AND bucket IN ({buckets}) AND job = '{job.name}' AND part IN ({keys})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def gold_examples(lake: Lake, task: Task, subjects: Sequence[str] | None = None) -> Examples:
    """The examples of a task that are in gold."""
    columns = ["subject", "t_us", "label", "features"]
    return rows_to_examples(
        lake.read(GOLD, columns=columns, jobs=[f"examples-{task.name}"], subjects=subjects), task.feature_names
    )
