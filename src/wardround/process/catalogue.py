"""Every job there is: what it reads, what it makes of it, in which parts, how often, with how much memory.

A transform is pure; the functions here only put its result into the columns of a table. Jobs are listed in the order in which
they run: what reads silver comes after what makes it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from wardround.process import tables
from wardround.process.tables import BRONZE, DAY_US, GOLD, SILVER, example_rows
from wardround.process.transforms import TASKS, Task
from wardround.process.transforms.cleaning import clean
from wardround.process.transforms.vitals import VITALS, vital_windows
from wardround.process.work import Known, Part, between
from wardround.records import Observation

HOUR_US = 3_600_000_000
MARGIN_US = 300_000_000  # filters settle and running medians fill in far less


@dataclass(frozen=True)
class Job:
    """One job. A part is one subject's span of `span_us`, which divides a day; it is made and replaced as a whole."""

    name: str
    title: str
    source: str  # the table it reads
    codes: frozenset[str] | None  # signals it reads; None: all
    target: str  # the table it writes
    rows: Callable[[Sequence[Any], Part, Known], pa.Table]  # pure: inputs of a part and its margins -> rows of the part
    span_us: int
    margin_us: int = 0  # of input around the span that the transform also sees
    interval_s: float | None = None  # between runs; None: the hub's own interval
    memory_bytes: int = 1_000_000_000  # that a part may need; a worker has at least so much

    @functools.cached_property
    def code(self) -> str:
        """Names the code behind the job: with other code everything is made anew."""
        return _digest(self.rows)


def _examples(task: Task) -> Job:
    """The examples of one task: made from what was received, by the code that edges run on the same."""

    def rows(inputs: Sequence[Observation], part: Part, _known: Known) -> pa.Table:
        return between(example_rows(task.name, task.examples(inputs)), part)

    return Job(
        name=f"examples-{task.name}",
        title=f"Examples of {task.name}",
        source=BRONZE,
        codes=task.signals,
        target=GOLD,
        rows=rows,
        span_us=4 * HOUR_US,
        margin_us=MARGIN_US,
    )


def _clean_rows(inputs: Sequence[Observation], part: Part, known: Known) -> pa.Table:
    return tables.clean_rows(clean(inputs, part.start_us, part.end_us, ranges=known.ranges))


def _vital_rows(inputs: Sequence[Observation], part: Part, _known: Known) -> pa.Table:
    return between(tables.vital_rows(vital_windows(inputs)), part)


_ALL = (
    Job(
        name="signals",
        title="Clean, aligned signals",
        source=BRONZE,
        codes=None,
        target=SILVER,
        rows=_clean_rows,
        span_us=4 * HOUR_US,
        margin_us=60_000_000,
        interval_s=30.0,
    ),
    Job(
        name="vitals",
        title="Vital signs by the minute",
        source=BRONZE,
        codes=frozenset(VITALS),
        target=tables.VITALS,
        rows=_vital_rows,
        span_us=DAY_US,
    ),
    *(_examples(task) for task in TASKS.values()),
)
JOBS: Mapping[str, Job] = MappingProxyType({job.name: job for job in _ALL})


def _digest(function: Callable[..., Any]) -> str:
    """Of the source of everything of ours that the function's module reaches in process/transforms, and of the tables."""
    package = Path(inspect.getfile(sys.modules[__name__])).parent
    digest = hashlib.sha256(function.__qualname__.encode())
    for path in sorted([*package.glob("transforms/*.py"), package / "tables.py", package / "catalogue.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
