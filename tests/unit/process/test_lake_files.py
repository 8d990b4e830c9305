"""The files that a reader opens: no row that it wants is missed, and what is kept of a file is small."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import fs

from wardround.process import lake_files
from wardround.process.lake import Lake
from wardround.process.lake_files import Condition, Files, rows_where
from wardround.process.tables import BRONZE, DAY_US, SCHEMAS, observation_rows
from wardround.records import Observation

START_US = 20_000 * DAY_US
CODES = ("loinc:8867-4", "loinc:2708-6", "loinc:9279-1")
SUBJECTS = [f"P-{k}" for k in range(6)]


def observation(number: int) -> Observation:
    """One of a stretch of three days, of a few patients and signals."""
    t_us = START_US + number * DAY_US // 12
    return Observation(
        subject=SUBJECTS[number % len(SUBJECTS)], device="d", edge="e", code=CODES[number // 7 % 3], unit="/min", t0_us=t_us,
        t0_device_us=t_us, t_edge_us=t_us, value=60.0, device_boot="b", device_seq=number,
    )  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    made = Lake(tmp_path_factory.mktemp("lake"))
    for version in range(1, 7):
        rows = [observation(number) for number in range(version, 40, 6)]
        made.append(BRONZE, observation_rows((o, "b", o.device_seq, 0) for o in rows), app="test", version=version)
    return made


def files_of(lake: Lake) -> tuple[Files, fs.FileSystem]:
    return Files(pa.table(lake._fresh(BRONZE).get_add_actions(flatten=True))), fs.SubTreeFileSystem(
        f"{lake.uri}/{BRONZE}", fs.LocalFileSystem()
    )


WHERE = st.fixed_dictionaries(
    {},
    optional={
        "subjects": st.lists(st.sampled_from([*SUBJECTS, "P-other"]), max_size=3, unique=True),
        "codes": st.lists(st.sampled_from([*CODES, "loinc:0"]), max_size=3, unique=True),
        "since_us": st.integers(-DAY_US, 5 * DAY_US).map(lambda t: START_US + t),
        "until_us": st.integers(-DAY_US, 5 * DAY_US).map(lambda t: START_US + t),
        "made_after": st.integers(-1, 8),
    },
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=WHERE)
def test_a_reader_finds_what_a_look_at_every_row_finds(lake, where):
    def wanted(row: dict[str, object]) -> bool:
        return (
            ("subjects" not in where or row["subject"] in where["subjects"])
            and ("codes" not in where or row["code"] in where["codes"])
            and row["t1_us"] >= where.get("since_us", 0)
            and row["t0_us"] < where.get("until_us", 1 << 62)
            and row["made"] > where.get("made_after", -1)
        )

    columns = ["device_seq", "subject", "code", "t0_us", "t1_us", "made"]
    every = lake.read(BRONZE, columns=columns).to_pylist()
    found = lake.read(BRONZE, columns=columns, **where).to_pylist()
    assert len(every) == 39
    assert sorted(r["device_seq"] for r in found) == sorted(r["device_seq"] for r in every if wanted(r))


def test_files_that_cannot_hold_a_row_are_not_opened(lake):
    files, place = files_of(lake)
    told: dict[str, int] = {}

    def with_sizes(sizes: dict[str, int]) -> fs.FileSystem:
        told.update(sizes)
        return place

    def opened(*conditions: Condition) -> int:
        return sum(len(list(one.get_fragments())) for one in files.datasets(SCHEMAS[BRONZE], with_sizes, conditions))

    assert opened() == len(files) > 6
    assert told == {path: (Path(lake.uri) / BRONZE / path).stat().st_size for path in told}
    assert len(told) == len(files), "who opens them is told every size: an object store need not be asked"
    assert 0 < opened(Condition("made", ">", 5)) < len(files)
    assert 0 < opened(Condition("day", "<=", "2024-10-04")) < len(files)
    assert 0 < opened(Condition("t1_us", ">=", START_US + 3 * DAY_US)) < len(files)
    assert opened(Condition("bucket", "in", [])) == opened(Condition("code", "in", [])) == 0
    assert opened(Condition("unit", "in", ["/min"])) == len(files), "of units nothing is kept"


def test_a_file_without_statistics_is_read(lake):
    files, place = files_of(lake)
    names = files._table.column_names
    known = zip(names, files._table.columns, strict=True)
    blank = [pa.nulls(len(files), column.type) if name.startswith(("min.", "max.")) else column for name, column in known]
    files._table = pa.Table.from_arrays(blank, names)
    conditions = [Condition("made", ">", 5), Condition("code", "in", [CODES[0]])]
    (dataset,) = files.datasets(SCHEMAS[BRONZE], lambda _sizes: place, conditions)
    assert len(list(dataset.get_fragments())) == len(files)
    assert dataset.to_table(filter=rows_where(conditions)).num_rows > 0


def test_many_files_are_read_a_few_at_a_time_and_none_is_missed(lake, monkeypatch):
    monkeypatch.setattr(lake_files, "AT_ONCE", 4)
    files, place = files_of(lake)
    parts = [len(list(one.get_fragments())) for one in files.datasets(SCHEMAS[BRONZE], lambda _sizes: place, [])]
    assert sum(parts) == len(files)
    assert max(parts) == 4
    assert sorted(lake.read(BRONZE, columns=["device_seq"]).column(0).to_pylist()) == list(range(1, 40))
    assert [part.num_rows for part in [lake.read(BRONZE, columns=["device_seq"], codes=[])]] == [0]


def test_what_is_kept_of_a_file_is_small(lake):
    files, _place = files_of(lake)
    assert files._table.nbytes / len(files) < 500
    buffers = {b.address: b.size for c in files._table.columns for part in c.chunks for b in part.buffers() if b is not None}
    assert sum(buffers.values()) / len(files) < 1_000, "a view would hold the log's own batches"
