"""Jobs: from bronze to gold, incremental, idempotent, and honest about what failed.

A job looks at what has come to bronze since the version it last worked through, makes the subjects concerned anew from all
their observations (so late data open their windows again), and puts each one's rows in the place of its old ones.
The version worked through is part of the same commit, so a job that is killed starts again where it was.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import structlog

from wardround.clock import Clock
from wardround.process.dask_runner import Outcome, Runner
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, DEAD, DEAD_LETTERS, EXAMPLES, GOLD, day_of, example_rows, rows_to_examples
from wardround.process.transforms import TASKS, Task
from wardround.records import Examples, bucket_of, concatenate

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JobReport:
    """What one run did."""

    task: str
    input_version: int
    subjects: int
    rows: int
    failed: tuple[tuple[str, str], ...]  # subject, words of the error
    code: str  # digest of the transform's source


class GoldJob:
    """Makes `gold_examples` for one task. One instance a task; `run` is called by one thread at a time."""

    def __init__(self, lake: Lake, task: Task, runner: Runner, clock: Clock) -> None:
        self._lake, self._task, self._runner, self._clock = lake, task, runner, clock
        self._app = f"job-{task.name}-{code_digest(task)}"

    def plan(self) -> list[str]:
        """The subjects that have something new."""
        done, upto = self._done_version(), self._lake.version(BRONZE)
        return self._changed(done, upto) if upto > done else []

    def run(self, progress: Callable[[int, int], None] = lambda _done, _all: None) -> JobReport:
        """Work through what is new; subjects that fail go to the dead letters, the others complete."""
        upto, done = self._lake.version(BRONZE), self._done_version()
        subjects = self._changed(done, upto) if upto > done else []
        failed: list[tuple[str, str]] = []
        parts: list[Examples] = []
        made: list[str] = []
        outcomes = self._runner.map(make_examples, subjects, self._lake.uri, self._task.name, upto) if subjects else iter(())
        for number, outcome in enumerate(outcomes, 1):
            self._take(outcome, parts, made, failed)
            progress(number, len(subjects))
        rows = self._commit(made, parts, upto) if upto > done else 0
        if failed:
            self._dead_letters(failed, upto)
        return JobReport(self._task.name, upto, len(made), rows, tuple(failed), code_digest(self._task))

    def _take(self, outcome: Outcome[str], parts: list[Examples], made: list[str], failed: list[tuple[str, str]]) -> None:
        if outcome.error:
            log.warning("partition failed", task=self._task.name, error=outcome.error)
            failed.append((outcome.part, outcome.error))
        else:
            made.append(outcome.part)
            parts.append(outcome.result)

    def _commit(self, subjects: Sequence[str], parts: Sequence[Examples], upto: int) -> int:
        rows = example_rows(self._task.name, concatenate(parts, self._task.feature_names))
        if not subjects:
            self._lake.append(GOLD, rows, app=self._app, version=upto)
            return 0
        names = ", ".join(f"'{s}'" for s in sorted(subjects))
        buckets = ", ".join(str(b) for b in sorted({bucket_of(s) for s in subjects}))
        predicate = f"bucket IN ({buckets}) AND task = '{self._task.name}' AND subject IN ({names})"
        self._lake.replace(GOLD, rows, predicate=predicate, app=self._app, version=upto)
        return int(rows.num_rows)

    def _done_version(self) -> int:
        return self._lake.transaction_version(GOLD, self._app)

    def _changed(self, done: int, upto: int) -> list[str]:
        """Subjects with something new since version `done`."""
        return self._lake.subjects_since(BRONZE, done, upto=upto, codes=self._task.signals)

    def _dead_letters(self, failed: Sequence[tuple[str, str]], upto: int) -> None:
        now_us = self._clock.now_us()
        rows = pa.Table.from_pylist(
            [
                {
                    "job": self._task.name,
                    "partition": subject,
                    "error": error,
                    "input_version": upto,
                    "t_us": now_us,
                    "day": day_of(now_us),
                    "bucket": bucket_of(subject),
                }
                for subject, error in failed
            ],
            schema=DEAD_LETTERS,
        )
        self._lake.append(DEAD, rows, app=self._app, version=upto)


def make_examples(subject: str, uri: str, task_name: str, version: int) -> Examples:
    """One subject's examples from all its observations; runs on a worker, which reads the lake itself."""
    task = TASKS[task_name]
    return task.examples(Lake(uri).observations(subjects=[subject], codes=task.signals, version=version))


def gold_examples(lake: Lake, task: Task, subjects: Sequence[str] | None = None) -> Examples:
    """The examples of a task that are in gold."""
    return rows_to_examples(lake.read(GOLD, columns=EXAMPLES.names, task=task.name, subjects=subjects), task.feature_names)


def code_digest(task: Task) -> str:
    """Names the code that makes a task's examples: with other code, everything is made anew."""
    module = inspect.getmodule(task.examples)
    source = inspect.getsource(module) if module is not None else task.name
    return hashlib.sha256(source.encode()).hexdigest()[:12]
