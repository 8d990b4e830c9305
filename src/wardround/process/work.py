"""What a worker does: read the observations of its parts, apply the job's transform, give back rows.

A part is one subject's span of time, aligned to the clock in UTC. This module and what it imports is all that a worker's
container needs of Wardround: no scheduler, no Podman, no store.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa

from wardround.clock import utc
from wardround.process.lake import reader
from wardround.process.tables import SCHEMAS, SILVER, day_of, rows_to_clean
from wardround.records import bucket_of


class Part(msgspec.Struct, frozen=True, order=True):
    """One subject's span of time: the unit that a job makes, replaces and reports."""

    subject: str
    start_us: int
    end_us: int

    @property
    def key(self) -> str:
        """As it stands in the column `part`."""
        return f"{self.subject}@{self.start_us}"

    def __str__(self) -> str:
        return f"{self.subject} from {utc(self.start_us):%Y-%m-%d %H:%M} UTC"


class Known(msgspec.Struct, frozen=True):
    """What the hub knows and transforms ask for."""

    ranges: dict[str, tuple[float | None, float | None]] = {}  # plausible, by code, in the code's unit
    lake_options: dict[str, str] = {}  # of an object store


class Made(msgspec.Struct, frozen=True):
    """What became of one part: rows, or the words of its error."""

    part: Part
    rows: pa.Table | None
    error: str = ""


def make(parts: tuple[Part, ...], uri: str, job_name: str, version: int, known: Known) -> list[Made]:
    """Make the parts of a job, one after the other; one that fails is said, and the others go on."""
    return [make_one(part, uri, job_name, version, known) for part in parts]


def make_one(part: Part, uri: str, job_name: str, version: int, known: Known) -> Made:
    """One part, from the version of the job's source that the plan names."""
    from wardround.process.catalogue import JOBS  # noqa: PLC0415 - it names the functions that are defined with this

    job = JOBS[job_name]
    try:
        lake = reader(uri, tuple(sorted(known.lake_options.items())))
        where: dict[str, Any] = {
            "subjects": [part.subject],
            "codes": job.codes,
            "since_us": part.start_us - job.margin_us,
            "until_us": part.end_us + job.margin_us,
            "version": version,
        }
        inputs = rows_to_clean(lake.read(SILVER, **where)) if job.source == SILVER else lake.observations(**where)
        return Made(part, placed(job.rows(inputs, part, known), job_name, job.target, part))
    except Exception as error:  # noqa: BLE001 - it becomes a dead letter with these words
        return Made(part, None, f"{type(error).__name__}: {error}"[:500])


def placed(rows: pa.Table, job: str, target: str, part: Part) -> pa.Table:
    """Rows with the columns that say whose they are and where they lie, in the order of the table."""
    schema, n = SCHEMAS[target], rows.num_rows
    whose = {
        "job": pa.repeat(job, n),
        "part": pa.repeat(part.key, n),
        "day": pa.repeat(day_of(part.start_us), n),
        "bucket": pa.repeat(pa.scalar(bucket_of(part.subject), pa.int32()), n),
        "made": pa.nulls(n, pa.int64()),
    }
    columns = [whose[name] if name in whose else rows.column(name) for name in schema.names]
    return pa.table(columns, schema=schema)


def between(rows: pa.Table, part: Part, time: str = "t_us") -> pa.Table:
    """The rows whose time lies in the part: those of its margins belong to its neighbours."""
    import pyarrow.compute as pc  # noqa: PLC0415

    column = rows.column(time)
    return rows.filter(pc.and_(pc.greater_equal(column, part.start_us), pc.less(column, part.end_us)))
