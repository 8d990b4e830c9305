"""A lake that is kept up stays readable at every version it promises, and holds no more than it should."""

from __future__ import annotations

import pytest
from deltalake import DeltaTable

from wardround.errors import ProcessError
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, PARTITIONS, SCHEMAS, VERSIONS_HOURS, observation_rows
from wardround.process.upkeep import FILES_A_BUCKET, Tidying, keep_up
from wardround.records import Observation
from wardround.settings import RetentionSettings

DAY_US = 86_400_000_000
T0 = 1_700_006_400_000_000 - 1_700_006_400_000_000 % DAY_US


def reading(k, day=0):
    common = {"subject": "s", "device": "d", "edge": "e", "code": "loinc:8867-4", "unit": "/min", "t0_device_us": 0}
    return Observation(**common, t0_us=T0 + day * DAY_US + k * 1_000_000, value=float(k))


@pytest.fixture
def lake(tmp_path):
    made = Lake(tmp_path / "lake")
    for k in range(2 * FILES_A_BUCKET):
        rows = observation_rows([(reading(k, day), "b", 10 * k + day, T0) for day in (0, 2)])
        made.append(BRONZE, rows, app="inbox", version=k)
    return made


def values(lake, **where):
    return sorted(lake.read(BRONZE, columns=["value", "t0_us"], **where).to_pylist(), key=lambda r: r["t0_us"])


def test_days_that_are_over_are_compacted_and_today_is_left_alone(lake):
    before = values(lake)
    done = keep_up(lake, RetentionSettings(), now_us=T0 + 2 * DAY_US)
    assert done.days_compacted == 1
    files = {day: n for day, (n, _buckets) in lake.files_by_day(BRONZE).items()}
    assert sorted(files.values()) == [1, 2 * FILES_A_BUCKET]
    assert values(lake) == before
    assert keep_up(lake, RetentionSettings(), now_us=T0 + 2 * DAY_US).days_compacted == 0


def test_an_earlier_version_can_be_read_until_it_is_forgotten(lake, monkeypatch):
    early = lake.version(BRONZE) - 5
    before = values(lake, version=early)
    keep_up(lake, RetentionSettings(), now_us=T0 + 3 * DAY_US)
    assert values(lake, version=early) == before
    monkeypatch.setitem(VERSIONS_HOURS, BRONZE, 0)
    keep_up(lake, RetentionSettings(), now_us=T0 + 3 * DAY_US)
    assert len(values(lake)) == 4 * FILES_A_BUCKET
    with pytest.raises(ProcessError, match="cannot be read"):
        values(Lake(lake.uri), version=early)


def test_of_versions_that_are_forgotten_no_file_and_no_page_of_the_log_stays(tmp_path, monkeypatch):
    monkeypatch.setitem(VERSIONS_HOURS, BRONZE, 0)
    lake = Lake(tmp_path / "lake")
    folder = tmp_path / "lake" / BRONZE
    for k in range(10):
        lake.append(BRONZE, observation_rows([(reading(k), "b", k, T0)]), app="inbox", version=k)
    before = values(lake)
    (folder / "part-of-a-write-that-was-killed.parquet").touch()
    keep_up(lake, RetentionSettings(), now_us=T0 + 3 * DAY_US)
    assert len(list(folder.rglob("*.parquet"))) - len(list(folder.rglob("*.checkpoint*.parquet"))) == 1
    keep_up(lake, RetentionSettings(), now_us=T0 + 3 * DAY_US)  # the pages up to the checkpoint before
    assert len(list((folder / "_delta_log").glob("*.json"))) <= 3
    assert values(Lake(lake.uri)) == before
    assert Lake(lake.uri).transaction_version(BRONZE, "inbox") == 9


def test_a_table_that_an_older_version_made_keeps_what_it_keeps_for_as_long_as_a_new_one(tmp_path):
    where = tmp_path / "lake" / BRONZE
    where.mkdir(parents=True)
    DeltaTable.create(str(where), SCHEMAS[BRONZE], partition_by=PARTITIONS)
    old, new = Lake(tmp_path / "lake"), Lake(tmp_path / "new")
    for lake in (old, new):
        lake.append(BRONZE, observation_rows([(reading(0), "b", 0, T0)]), app="inbox", version=0)
    found = [DeltaTable(f"{lake.uri}/{BRONZE}").metadata().configuration for lake in (old, new)]
    assert found[0] == found[1]
    assert found[0]["delta.logRetentionDuration"] == f"interval {VERSIONS_HOURS[BRONZE]} hours"
    version = old.version(BRONZE)
    assert Lake(old.uri).version(BRONZE) == version  # it is said once


def test_what_is_past_its_retention_goes_by_its_day(lake):
    done = keep_up(lake, RetentionSettings(raw_days=1), now_us=T0 + 2 * DAY_US)
    assert done.rows_expired == 2 * FILES_A_BUCKET
    assert {r["t0_us"] // DAY_US for r in values(lake)} == {T0 // DAY_US + 2}


def test_exactly_once_outlives_a_clean_up(lake, monkeypatch):
    monkeypatch.setitem(VERSIONS_HOURS, BRONZE, 0)
    keep_up(lake, RetentionSettings(), now_us=T0 + 3 * DAY_US)
    again = observation_rows([(reading(0), "b", 0, T0)])
    assert not Lake(lake.uri).append(BRONZE, again, app="inbox", version=3)


def test_open_days_are_tidied_at_first_and_after_many_commits_and_not_in_between(lake, monkeypatch):
    monkeypatch.setattr("wardround.process.upkeep.COMMITS_MAX", 2 * FILES_A_BUCKET)
    tidying, before = Tidying(lake), values(lake)
    assert tidying.look() == 2, "two days had small files"
    assert [files for files, _ in lake.files_by_day(BRONZE).values()] == [1, 1]
    assert values(lake) == before
    for k in range(100, 100 + 2 * FILES_A_BUCKET):
        assert tidying.look() == 0
        lake.append(BRONZE, observation_rows([(reading(k, 2), "b", 10 * k, T0)]), app="inbox", version=k)
    assert tidying.look() == 1
    assert [files for files, _ in lake.files_by_day(BRONZE).values()] == [1, 1]
    assert len(values(lake)) == len(before) + 2 * FILES_A_BUCKET
    assert tidying.look() == 0, "the commits of compaction are not counted"


def test_a_file_that_is_large_enough_is_not_written_again(lake):
    day = max(lake.files_by_day(BRONZE))
    lake.compact(BRONZE, day=day, file_bytes=1)
    assert lake.files_by_day(BRONZE)[day][0] == 2 * FILES_A_BUCKET
    lake.compact(BRONZE, day=day)
    assert lake.files_by_day(BRONZE)[day][0] == 1


def test_where_there_is_no_table_yet_none_is_made(tmp_path):
    lake = Lake(tmp_path / "new")
    assert Tidying(lake).look() == 0
    assert lake.tables() == []
