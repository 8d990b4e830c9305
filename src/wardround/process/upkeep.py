"""Keeps the lake fast and no larger than it should be: compaction of closed days, retention by category, old versions.

Small files cost a reader more than large ones, and every commit adds some; each commit costs more, too, the more files there are.
A day is closed when it is over: nothing but late data comes then, so its files are put together once. Those of a day that is open
are put together after so many commits, up to a size that is not written again. Retention is by the day of the data, as consent
and law speak of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, DAY_US, DEAD, GOLD_TABLES, SCHEMAS, SILVER, day_of
from wardround.settings import RetentionSettings

FILES_A_BUCKET = 4  # more than that: compact
OPEN_FILE_BYTES = 16 << 20
COMMITS_MAX = 200  # to a table, until its small files are put together: one costs twice what it does after that, measured


@dataclass(frozen=True, slots=True)
class Done:
    """What upkeep did."""

    days_compacted: int
    rows_expired: int
    files_removed: int

    @property
    def anything(self) -> bool:
        """Whether it is worth a line."""
        return bool(self.days_compacted or self.rows_expired or self.files_removed)

    def __str__(self) -> str:
        return (
            f"{self.days_compacted} days compacted, {self.rows_expired} rows past their retention removed, "
            f"{self.files_removed} old files removed"
        )


def keep_up(lake: Lake, retention: RetentionSettings, *, now_us: int) -> Done:
    """All of it, over every table."""
    expired = sum(_expire(lake, table, days, now_us) for table, days in _days(retention).items())
    compacted = sum(_compact(lake, table, day_of(now_us)) for table in SCHEMAS)
    removed = sum(lake.clean_up(table) for table in SCHEMAS)
    return Done(compacted, expired, removed)


class Tidying:
    """Puts the small files of open days together: at the first look, as those of a hub that ended are there, and by commits."""

    def __init__(self, lake: Lake) -> None:
        self._lake, self._at = lake, dict.fromkeys(SCHEMAS, -COMMITS_MAX)

    def look(self) -> int:
        """Put together what tables have taken in many commits; how many days of how many tables were."""
        due = [table for table in SCHEMAS if self._lake.commits(table) - self._at[table] >= COMMITS_MAX]
        there = self._lake.tables() if due else ()
        for table in due:  # one that fails is tried again after as many commits, not at once
            self._at[table] = self._lake.commits(table)
        return sum(self._tidied(table) for table in due if table in there)

    def _tidied(self, table: str) -> int:
        full = _in_many_files(self._lake, table)
        for day in full:
            self._lake.compact(table, day=day, file_bytes=OPEN_FILE_BYTES)
        return len(full)


def _in_many_files(lake: Lake, table: str) -> list[str]:
    return [day for day, (files, buckets) in lake.files_by_day(table).items() if files > buckets * FILES_A_BUCKET]


def _days(retention: RetentionSettings) -> dict[str, int]:
    features = dict.fromkeys((*GOLD_TABLES, DEAD), retention.features_days)
    return {BRONZE: retention.raw_days, SILVER: retention.clean_days, **features}


def _expire(lake: Lake, table: str, days: int, now_us: int) -> int:
    if days <= 0:
        return 0
    return lake.delete(table, f"day < '{day_of(now_us - days * DAY_US)}'")


def _compact(lake: Lake, table: str, today: str) -> int:
    """Those of days that are closed, into files as large as delta-rs makes them."""
    closed = [day for day in _in_many_files(lake, table) if day < today]
    for day in closed:
        lake.compact(table, day=day)
    return len(closed)
