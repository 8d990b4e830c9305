"""The lake's tables: columns, types and units, and the way from observations to rows and back.

Waveforms stay as the device's integers in one binary cell: 6 to 9 times smaller and 4 to 8 times faster to write than one row
a sample, and lossless. Every table is partitioned by `day` (UTC date of the first sample) and `bucket` (records.bucket_of).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from wardround.records import Examples, Observation, bucket_of

DAY_US = 86_400_000_000
PARTITIONS = ["day", "bucket"]


def _field(name: str, kind: pa.DataType, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"unit": unit} if unit else None)


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
        _field("day", pa.string()),
        _field("bucket", pa.int32()),
    ]
)

EXAMPLES = pa.schema(
    [
        _field("task", pa.string()),
        _field("subject", pa.string()),
        _field("t_us", pa.int64(), "us"),
        _field("label", pa.int32()),
        _field("features", pa.list_(pa.float32())),
        _field("day", pa.string()),
        _field("bucket", pa.int32()),
    ]
)

DEAD_LETTERS = pa.schema(
    [
        _field("job", pa.string()),
        _field("partition", pa.string()),
        _field("error", pa.string()),
        _field("input_version", pa.int64()),
        _field("t_us", pa.int64(), "us"),
        _field("day", pa.string()),
        _field("bucket", pa.int32()),
    ]
)

SCHEMAS = {"bronze_observations": OBSERVATIONS, "gold_examples": EXAMPLES, "dead_letters": DEAD_LETTERS}
BRONZE, GOLD, DEAD = "bronze_observations", "gold_examples", "dead_letters"
_SAME = [f for f in Observation.__struct_fields__ if f in OBSERVATIONS.names]


def day_of(t_us: int) -> str:
    """The UTC date of a time, as it stands in the partition."""
    return str(np.datetime64(t_us, "us").astype("datetime64[D]"))


def observation_rows(observations: Sequence[tuple[Observation, str, int, int]]) -> pa.Table:
    """Rows of bronze from (observation, boot, edge_seq, t_hub_us)."""
    columns: dict[str, list[Any]] = {name: [getattr(o[0], name) for o in observations] for name in _SAME}
    columns["boot"] = [o[1] for o in observations]
    columns["edge_seq"] = [o[2] for o in observations]
    columns["t_hub_us"] = [o[3] for o in observations]
    days = np.array(columns["t0_us"], "datetime64[us]").astype("datetime64[D]").astype(str)
    buckets = {subject: bucket_of(subject) for subject in set(columns["subject"])}
    columns["day"] = days.tolist()
    columns["bucket"] = [buckets[s] for s in columns["subject"]]
    table = pa.Table.from_pydict({name: columns[name] for name in OBSERVATIONS.names}, schema=OBSERVATIONS)
    return table.sort_by([("subject", "ascending"), ("code", "ascending"), ("t0_us", "ascending")])


def rows_to_observations(table: pa.Table) -> list[Observation]:
    """Observations out of rows of bronze."""
    columns = [table.column(name).to_pylist() for name in _SAME]
    return [Observation(**dict(zip(_SAME, row, strict=True))) for row in zip(*columns, strict=True)]


def example_rows(task: str, examples: Examples) -> pa.Table:
    """Rows of gold from examples."""
    n, width = examples.features.shape
    offsets = pa.array(np.arange(0, (n + 1) * width, width or 1, dtype=np.int32)[: n + 1])
    features = pa.ListArray.from_arrays(offsets, pa.array(examples.features.reshape(-1), pa.float32()))
    buckets = {str(s): bucket_of(str(s)) for s in np.unique(examples.subjects)}
    subjects = [str(s) for s in examples.subjects]
    return pa.Table.from_arrays(
        [
            pa.array([task] * n, pa.string()),
            pa.array(subjects, pa.string()),
            pa.array(examples.t_us, pa.int64()),
            pa.array(examples.labels, pa.int32()),
            features,
            pa.array(examples.t_us.astype("datetime64[us]").astype("datetime64[D]").astype(str).tolist(), pa.string()),
            pa.array([buckets[s] for s in subjects], pa.int32()),
        ],
        schema=EXAMPLES,
    )


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
