"""The lake's tables: columns, types and units, and the way from observations to rows and back.

Bronze is what was received, silver is clean, gold is what was made of it. Waveforms of bronze stay as the device's integers in
one binary cell: 6 to 9 times smaller and 4 to 8 times faster to write than one row a sample, and lossless. Every table is
partitioned by `day` (UTC date of the first sample) and `bucket` (records.bucket_of). Every row has `made`: the version of its
table that brought it, so what is new since a version is a question of values, which a compaction does not change. Rows that a
job made have `part`, the part of the job they belong to, and are replaced as a whole with it.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wardround.process.transforms.cleaning import Clean
from wardround.process.transforms.vitals import VitalWindows
from wardround.records import Examples, Observation, bucket_of

DAY_US = 86_400_000_000
AT_ONCE = 1_000  # observations, as the processor's cache holds them: three times as fast as 50 000
PARTITIONS = ["day", "bucket"]
BRONZE, SILVER, DEAD = "bronze_observations", "silver_signals", "dead_letters"
GOLD, VITALS, TREND, HEART = "gold_examples", "gold_vitals", "gold_trends", "gold_rhythm"
BREATH, PULSE, WARNING, SKETCH = "gold_breathing", "gold_pulse", "gold_early_warning", "gold_sketches"


def _field(name: str, kind: pa.DataType, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit} if unit else None)


_PLACE = (_field("day", pa.string()), _field("bucket", pa.int32()), _field("made", pa.int64()))
_OF_A_JOB = (_field("job", pa.string()), _field("part", pa.string()), *_PLACE)

OBSERVATIONS = pa.schema(
    [
        _field("subject", pa.string()),
        _field("device", pa.string()),
        _field("edge", pa.string()),
        _field("code", pa.string()),
        _field("unit", pa.string()),
        _field("t0_us", pa.int64(), "us"),
        _field("t0_device_us", pa.int64(), "us"),
        _field("clock_offset_us", pa.int64(), "us"),
        _field("clock_error_us", pa.int64(), "us"),
        _field("t_edge_us", pa.int64(), "us"),
        _field("t_hub_us", pa.int64(), "us"),
        _field("n", pa.int32()),
        _field("period_us", pa.float64(), "us"),
        _field("offsets_us", pa.binary(), "us"),
        _field("value", pa.float64()),
        _field("values", pa.binary()),
        _field("values_type", pa.string()),
        _field("scale", pa.float64()),
        _field("origin", pa.float64()),
        _field("value_text", pa.string()),
        _field("validity", pa.int8()),
        _field("flags", pa.int32()),
        _field("low", pa.float64()),
        _field("high", pa.float64()),
        _field("device_boot", pa.string()),
        _field("device_seq", pa.int64()),
        _field("device_index", pa.int32()),
        _field("consent_version", pa.int64()),
        _field("boot", pa.string()),
        _field("edge_seq", pa.int64()),
        *_PLACE,
        _field("t1_us", pa.int64(), "us"),  # the last sample
    ]
)

CLEAN = pa.schema(
    [
        _field("subject", pa.string()),
        _field("code", pa.string()),
        _field("unit", pa.string()),
        _field("t0_us", pa.int64(), "us"),
        _field("t1_us", pa.int64(), "us"),
        _field("period_us", pa.float64(), "us"),  # 0: irregular, then times_us holds a time a sample
        _field("times_us", pa.binary(), "us"),  # int64, little-endian
        _field("n", pa.int32()),
        _field("values", pa.binary()),  # float32, little-endian, in `unit`; NaN where nothing was measured
        _field("flags", pa.binary()),  # uint16 a sample, little-endian: bits of records.Quality; null: none is set
        _field("good", pa.int32()),  # samples that are there and not flagged
        _field("expected", pa.int32()),  # samples that a chunk of this signal has when nothing is missing
        _field("clock_error_us", pa.int64(), "us"),
        *_OF_A_JOB,
    ]
)

VITAL_WINDOWS = pa.schema(
    [
        _field("subject", pa.string()),
        _field("code", pa.string()),
        _field("t_us", pa.int64(), "us"),  # start of the minute
        _field("mean", pa.float64()),  # in the unit of the code
        _field("low", pa.float64()),
        _field("high", pa.float64()),
        _field("n", pa.int32()),
        *_OF_A_JOB,
    ]
)


def _measures(*names: str) -> list[pa.Field]:
    return [_field(name, pa.float64()) for name in names]


TRENDS = pa.schema(
    [
        _field("subject", pa.string()),
        _field("code", pa.string()),
        _field("unit", pa.string()),
        _field("t_us", pa.int64(), "us"),  # start of the window
        _field("width_us", pa.int64(), "us"),
        _field("n", pa.int64()),
        _field("expected", pa.int64()),
        _field("completeness", pa.float64()),  # 0 to 1
        *_measures("mean", "std", "low", "p05", "median", "p95", "high", "slope_per_h", "first", "last"),  # in `unit`
        *_OF_A_JOB,
    ]
)

RHYTHM = pa.schema(
    [
        _field("subject", pa.string()),
        _field("code", pa.string()),  # the lead
        _field("t_us", pa.int64(), "us"),
        _field("beats", pa.int32()),
        *_measures("normal_share", "covered", "heart_rate"),  # 1, 1, /min
        *_measures("mean_nn", "sdnn", "rmssd", "sdsd", "pnn50", "sd1", "sd2"),  # ms, pnn50 in %
        *_measures("vlf", "lf", "hf"),  # ms2
        *_OF_A_JOB,
    ]
)

BREATHING = pa.schema(
    [
        _field("subject", pa.string()),
        _field("code", pa.string()),  # what it was derived from
        _field("t_us", pa.int64(), "us"),
        *_measures("rate", "variation"),  # /min, 1
        _field("good", pa.bool_()),
        *_OF_A_JOB,
    ]
)

PULSES = pa.schema(
    [
        _field("subject", pa.string()),
        _field("t_us", pa.int64(), "us"),
        _field("pulses", pa.int32()),
        *_measures("rate", "template", "skewness", "perfusion"),  # /min, 1, 1, %
        _field("doubt", pa.int32()),  # bits of transforms.pulse.Doubt; 0: a saturation of this minute may be believed
        *_OF_A_JOB,
    ]
)

EARLY_WARNING = pa.schema(
    [
        _field("subject", pa.string()),
        _field("t_us", pa.int64(), "us"),  # end of the hour it is of
        _field("total", pa.int32()),  # the score when `missing` is empty, else at least this
        _field("red", pa.bool_()),
        _field("points", pa.string()),  # JSON: by parameter
        _field("missing", pa.string()),  # names, with commas
        *_OF_A_JOB,
    ]
)

SKETCHES = pa.schema(
    [
        _field("subject", pa.string()),
        _field("code", pa.string()),
        _field("t_us", pa.int64(), "us"),  # start of the day
        _field("low", pa.float64()),
        _field("high", pa.float64()),
        _field("counts", pa.list_(pa.int64())),
        _field("missing", pa.int64()),
        _field("total", pa.float64()),
        *_OF_A_JOB,
    ]
)

EXAMPLES = pa.schema(
    [
        _field("task", pa.string()),
        _field("subject", pa.string()),
        _field("t_us", pa.int64(), "us"),
        _field("label", pa.int32()),
        _field("features", pa.list_(pa.float32())),
        *_OF_A_JOB,
    ]
)

DEAD_LETTERS = pa.schema(
    [
        _field("subject", pa.string()),
        _field("start_us", pa.int64(), "us"),
        _field("error", pa.string()),
        _field("input_version", pa.int64()),
        _field("t_us", pa.int64(), "us"),
        *_OF_A_JOB,
    ]
)

SCHEMAS = {
    BRONZE: OBSERVATIONS,
    SILVER: CLEAN,
    VITALS: VITAL_WINDOWS,
    TREND: TRENDS,
    HEART: RHYTHM,
    BREATH: BREATHING,
    PULSE: PULSES,
    WARNING: EARLY_WARNING,
    SKETCH: SKETCHES,
    GOLD: EXAMPLES,
    DEAD: DEAD_LETTERS,
}
# How long an earlier version of a table can be read: a week of what studies are trained on, a day of what jobs write every few
# seconds. Bronze has most versions, of small files that are put together soon; a job reads one of them, for as long as it runs.
VERSIONS_HOURS = dict.fromkeys(SCHEMAS, 24) | {GOLD: 24 * 7, DEAD: 24 * 7, BRONZE: 6}
GOLD_TABLES = tuple(name for name in SCHEMAS if name.startswith("gold_"))
_PLACED = frozenset(f.name for f in _OF_A_JOB)
_GETTERS = [(f, attrgetter(f)) for f in Observation.__struct_fields__]
_SAME = [f for f in Observation.__struct_fields__ if f in OBSERVATIONS.names]


def day_of(t_us: int) -> str:
    """The UTC date of a time, as it stands in the partition."""
    return str(np.datetime64(t_us, "us").astype("datetime64[D]"))


def start_of(day: str) -> int:
    """The first microsecond of a UTC date; the inverse of day_of."""
    return int(np.datetime64(day, "us").astype(np.int64))


def observation_rows(observations: Iterable[tuple[Observation, str, int, int]]) -> pa.Table:
    """Rows of bronze from (observation, boot, edge_seq, t_hub_us), by subject, signal and time."""
    waiting = iter(observations)
    parts = [OBSERVATIONS.empty_table()]
    while some := list(itertools.islice(waiting, AT_ONCE)):
        parts.append(_observation_rows(some))
    table = pa.concat_tables(parts)
    return table.sort_by([("subject", "ascending"), ("code", "ascending"), ("t0_us", "ascending")])


def _observation_rows(observations: Sequence[tuple[Observation, str, int, int]]) -> pa.Table:
    known, boots, sequences, hub_times = zip(*observations, strict=True)
    # field by field, each in one pass in C: no tuple a row, which the collector of garbage would walk over
    columns: dict[str, Sequence[Any]] = {name: list(map(get, known)) for name, get in _GETTERS}
    columns["boot"], columns["edge_seq"], columns["t_hub_us"] = boots, sequences, hub_times
    columns["t1_us"] = [o.t0_us if o.n == 1 and o.offsets_us is None else last_us(o) for o in known]
    times = np.array(columns["t0_us"], np.int64)
    days, which = np.unique(times // DAY_US, return_inverse=True)
    columns["day"] = np.array([day_of(d * DAY_US) for d in days.tolist()], object)[which].tolist()
    buckets = {subject: bucket_of(subject) for subject in set(columns["subject"])}
    columns["bucket"] = [buckets[s] for s in columns["subject"]]
    columns["made"] = [None] * len(known)  # the lake knows
    return pa.Table.from_arrays([_array(columns[f.name], f.type) for f in OBSERVATIONS], schema=OBSERVATIONS)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """A column; one that says the same all along, as most do in a batch, costs no conversion by value."""
    if values.count(values[0]) == len(values):
        return pa.repeat(pa.scalar(values[0], kind), len(values))
    return pa.array(values, kind)


def rows_to_observations(table: pa.Table) -> list[Observation]:
    """Observations out of rows of bronze."""
    columns = [table.column(name).to_pylist() for name in _SAME]
    return [Observation(**dict(zip(_SAME, row, strict=True))) for row in zip(*columns, strict=True)]


def parquet_of(observations: Sequence[Observation]) -> bytes:
    """A Parquet file of observations, a row each: every field as it was received, and `samples` in `unit` beside them."""
    columns = {f.name: pa.array([getattr(o, f.name) for o in observations], f.type) for f in OBSERVATIONS if f.name in _SAME}
    columns["samples"] = pa.array([o.samples().tolist() for o in observations], pa.list_(pa.float64()))
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def last_us(o: Observation) -> int:
    """The time of an observation's last sample."""
    if o.offsets_us is not None:
        return o.t0_us + int(np.frombuffer(o.offsets_us, "<i4").max(initial=0))
    return o.t0_us + round((o.n - 1) * (o.period_us or 0.0))


def example_rows(task: str, examples: Examples) -> pa.Table:
    """Rows of gold from examples, without the columns that say where they lie."""
    n, width = examples.features.shape
    offsets = pa.array(np.arange(0, (n + 1) * width, width or 1, dtype=np.int32)[: n + 1])
    features = pa.ListArray.from_arrays(offsets, pa.array(examples.features.reshape(-1), pa.float32()))
    return pa.table(
        {
            "task": pa.array([task] * n, pa.string()),
            "subject": pa.array([str(s) for s in examples.subjects], pa.string()),
            "t_us": pa.array(examples.t_us, pa.int64()),
            "label": pa.array(examples.labels, pa.int32()),
            "features": features,
        }
    )


def clean_rows(chunks: Iterable[Clean]) -> pa.Table:
    """Rows of silver, without the columns that say where they lie."""
    own = list(chunks)
    flagged = [c.flags.astype("<u2").tobytes() if c.flags.any() else None for c in own]
    return pa.table(
        {
            "subject": pa.array([c.subject for c in own], pa.string()),
            "code": pa.array([c.code for c in own], pa.string()),
            "unit": pa.array([c.unit for c in own], pa.string()),
            "t0_us": pa.array([int(c.times_us[0]) for c in own], pa.int64()),
            "t1_us": pa.array([int(c.times_us[-1]) for c in own], pa.int64()),
            "period_us": pa.array([c.period_us for c in own], pa.float64()),
            "times_us": pa.array([None if c.period_us else c.times_us.astype("<i8").tobytes() for c in own], pa.binary()),
            "n": pa.array([len(c.values) for c in own], pa.int32()),
            "values": pa.array([c.values.astype("<f4").tobytes() for c in own], pa.binary()),
            "flags": pa.array(flagged, pa.binary()),
            "good": pa.array([int(c.good.sum()) for c in own], pa.int32()),
            "expected": pa.array([c.expected for c in own], pa.int32()),
            "clock_error_us": pa.array([c.clock_error_us for c in own], pa.int64()),
        }
    )


def rows_to_clean(table: pa.Table) -> list[Clean]:
    """Chunks out of rows of silver, by signal and time."""
    table = table.sort_by([("subject", "ascending"), ("code", "ascending"), ("t0_us", "ascending")])
    found: list[Clean] = []
    for row in table.to_pylist():
        n, period_us = row["n"], row["period_us"]
        if row["times_us"] is not None:
            times = np.frombuffer(row["times_us"], "<i8")
        else:
            times = row["t0_us"] + np.round(np.arange(n) * period_us).astype(np.int64)
        found.append(
            Clean(
                subject=row["subject"],
                code=row["code"],
                unit=row["unit"],
                t0_us=row["t0_us"],
                period_us=period_us,
                times_us=times,
                values=np.frombuffer(row["values"], "<f4"),
                flags=np.zeros(n, np.uint16) if row["flags"] is None else np.frombuffer(row["flags"], "<u2"),
                expected=row["expected"],
                clock_error_us=row["clock_error_us"],
            )
        )
    return found


def vital_rows(windows: VitalWindows) -> pa.Table:
    """Rows of the vital signs, without the columns that say where they lie."""
    return pa.table(
        {
            "subject": pa.array(windows.subjects.tolist(), pa.string()),
            "code": pa.array(windows.codes.tolist(), pa.string()),
            "t_us": pa.array(windows.t_us, pa.int64()),
            "mean": pa.array(windows.mean, pa.float64()),
            "low": pa.array(windows.low, pa.float64()),
            "high": pa.array(windows.high, pa.float64()),
            "n": pa.array(windows.count.astype(np.int32), pa.int32()),
        }
    )


def rows_of(table: str, rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of a table that a job makes, without the columns that say where they lie."""
    fields = [f for f in SCHEMAS[table] if f.name not in _PLACED]
    return pa.Table.from_pylist(list(rows), schema=pa.schema(fields))


def rows_to_examples(table: pa.Table, feature_names: Sequence[str]) -> Examples:
    """Examples out of rows of gold, ordered by subject and time."""
    table = table.sort_by([("subject", "ascending"), ("t_us", "ascending")])
    flat = table.column("features").combine_chunks().flatten() if table.num_rows else pa.array([], pa.float32())
    return Examples(
        features=flat.to_numpy(zero_copy_only=False).reshape(table.num_rows, len(feature_names)),
        labels=table.column("label").to_numpy(),
        subjects=np.array(table.column("subject").to_pylist(), np.str_),
        t_us=table.column("t_us").to_numpy(),
        feature_names=tuple(feature_names),
    )
