"""The inbox becomes bronze, and bronze stays in few files however many commits there are."""

from __future__ import annotations

import asyncio

import pytest

from wardround.clock import ManualClock
from wardround.collect.inbox import Inbox
from wardround.collect.storage import MemoryStorage
from wardround.hub.lake_work import LakeCommits
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.process.upkeep import FILES_A_BUCKET
from wardround.records import Observation, encode_observation
from wardround.settings import ProcessingSettings

WAIT_S = 120.0
T0_US = 1_700_000_000_000_000


class Everybody:
    """A consent register of which nobody was erased."""

    def erased(self, _subject):
        return False


def reading(seq):
    return encode_observation(
        Observation(
            subject="s",
            device="d",
            edge="e",
            code="loinc:8867-4",
            unit="/min",
            t0_us=T0_US + seq * 1_000_000,
            t0_device_us=0,
            value=float(seq),
            device_boot="b",
            device_seq=seq,
        )
    )


async def until(holds):
    while not holds():  # noqa: ASYNC110 - it is another thread that makes it so
        await asyncio.sleep(0.005)


async def commit(commits, inbox, count, wanted):
    task = asyncio.create_task(commits.run())
    try:
        async with asyncio.timeout(WAIT_S):
            for seq in range(1, count + 1):
                assert inbox.put("e", "b", seq, [reading(seq)], after=seq - 1, upto=seq)
                await until(lambda: not inbox.waiting())  # one commit each
            await until(wanted)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def inbox():
    made = Inbox(MemoryStorage())
    yield made
    made.close()


def test_after_many_commits_small_files_are_put_together_while_more_come_in(tmp_path, inbox, monkeypatch):
    monkeypatch.setattr("wardround.process.upkeep.COMMITS_MAX", FILES_A_BUCKET + 2)
    lake = Lake(tmp_path)
    commits = LakeCommits(inbox, lake, Everybody(), ManualClock(), ProcessingSettings(lake_commit_interval_s=0.01))
    count = 3 * (FILES_A_BUCKET + 2)

    def files():
        return sum(n for n, _ in lake.files_by_day(BRONZE).values())

    asyncio.run(commit(commits, inbox, count, lambda: files() < count // 2))
    assert sorted(o.value for o in lake.observations()) == [float(seq) for seq in range(1, count + 1)]


def test_a_store_that_refuses_to_be_tidied_takes_what_comes_all_the_same(tmp_path, inbox, monkeypatch):
    monkeypatch.setattr("wardround.process.upkeep.COMMITS_MAX", 2)
    lake = Lake(tmp_path)
    asked = []

    def refuse(*_args, **_named):
        asked.append(1)
        raise OSError("no space left on device")

    monkeypatch.setattr("deltalake.table.TableOptimizer.compact", refuse)
    monkeypatch.setattr("wardround.process.upkeep.FILES_A_BUCKET", 1)
    commits = LakeCommits(inbox, lake, Everybody(), ManualClock(), ProcessingSettings(lake_commit_interval_s=0.01))
    asyncio.run(commit(commits, inbox, 5, lambda: len(asked) >= 2))
    assert sorted(o.value for o in lake.observations()) == [1.0, 2.0, 3.0, 4.0, 5.0]
