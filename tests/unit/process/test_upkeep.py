"""A lake that is kept up stays readable at every version it promises, and holds no more than it should."""

from __future__ import annotations

import pytest

from wardround.errors import ProcessError
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
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


def test_an_earlier_version_can_be_read_until_it_is_forgotten(lake):
    early = lake.version(BRONZE) - 5
    before = values(lake, version=early)
    keep_up(lake, RetentionSettings(), now_us=T0 + 3 * DAY_US)
    assert values(lake, version=early) == before
    keep_up(lake, RetentionSettings(), now_us=T0 + 3 * DAY_US, keep_hours=0)
    assert len(values(lake)) == 4 * FILES_A_BUCKET
    with pytest.raises(ProcessError, match="cannot be read"):
        values(Lake(lake.uri), version=early)


def test_what_is_past_its_retention_goes_by_its_day(lake):
    done = keep_up(lake, RetentionSettings(raw_days=1), now_us=T0 + 2 * DAY_US)
    assert done.rows_expired == 2 * FILES_A_BUCKET
    assert {r["t0_us"] // DAY_US for r in values(lake)} == {T0 // DAY_US + 2}


def test_exactly_once_outlives_a_clean_up(lake):
    keep_up(lake, RetentionSettings(), now_us=T0 + 3 * DAY_US, keep_hours=0)
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
