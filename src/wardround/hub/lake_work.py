"""What a hub does with its lake: commits of the inbox; and, one after the other, jobs that are due, erasures and backups."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Sequence

import structlog

from wardround.automation import Automation
from wardround.backup.service import Backups
from wardround.clock import Clock
from wardround.collect.commit_pace import CommitPace
from wardround.collect.inbox import Inbox, InboxBatch
from wardround.collect.intake import Committer
from wardround.erasing.hub import HubErasing
from wardround.errors import WardroundError
from wardround.hub.recorder import Recorder
from wardround.process.catalogue import Job
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, GOLD, observation_rows
from wardround.process.upkeep import Tidying
from wardround.processing import Processing
from wardround.settings import ProcessingSettings
from wardround.studies import Studies
from wardround.threads import to_its_end
from wardround.trust.consent import ConsentRegister
from wardround.trust.erasures import ErasureBook

log = structlog.get_logger(__name__)
APPENDS_MAX = 100_000
AGAIN_S = 1.0  # after a disk that was full


class LakeCommits:
    """Inbox into bronze, and how far gold is behind."""

    def __init__(self, inbox: Inbox, lake: Lake, consents: ConsentRegister, clock: Clock, settings: ProcessingSettings) -> None:
        """Nothing moves until `run`."""
        self._lake, self._consents, self._clock = lake, consents, clock
        self.committer = Committer(
            inbox=inbox,
            lake_version=lambda app: lake.transaction_version(BRONZE, app),
            lake_append=self._append,
            rows_max=settings.lake_commit_rows_max,
        )
        self._pace = CommitPace(clock, settings.lake_commit_interval_s, settings.lake_commits_an_hour)
        self._tidying = Tidying(lake)
        self._not_in_gold_s: collections.deque[float] = collections.deque(maxlen=APPENDS_MAX)  # when commits were made

    async def run(self) -> None:
        """Move what comes, until cancelled."""
        while True:
            try:
                moved = await to_its_end(self.committer.run_once)
            except WardroundError as error:  # a full disk: everything stays in the inbox, and is tried again
                log.error("the lake takes nothing", error=str(error))
                moved = 0
                await asyncio.sleep(AGAIN_S)
            await self._tidy()
            await asyncio.sleep(self._pace.wait_s(moved, large=self.committer.large))

    async def _tidy(self) -> None:
        """Beside jobs, and not after them: a job over thousands of patients takes the longer the more files there are."""
        try:
            await to_its_end(self._tidying.look)
        except WardroundError as error:  # the lake is slower for it, and it is tried again after as many commits
            log.error("small files could not be put together", error=str(error))

    def behind_s(self) -> float:
        """How long the oldest commit that is not in gold yet has waited."""
        waiting = tuple(self._not_in_gold_s)
        return self._clock.monotonic_s() - waiting[0] if waiting else 0.0

    def in_gold(self, job: Job, started_s: float) -> None:
        """A job that was started then has ended."""
        if job.source == BRONZE and job.target == GOLD:
            while self._not_in_gold_s and self._not_in_gold_s[0] <= started_s:
                self._not_in_gold_s.popleft()

    def _append(self, batches: Sequence[InboxBatch], app: str, version: int) -> None:
        waiting = (row for batch in batches for row in batch.observations())
        rows = observation_rows(row for row in waiting if not self._consents.erased(row[0].subject))
        self._lake.append(BRONZE, rows, app=app, version=version)
        self._not_in_gold_s.append(self._clock.monotonic_s())


class LakeJobs:
    """What may not run beside each other. Call it from one thread at a time."""

    def __init__(
        self,
        *,
        clock: Clock,
        commits: LakeCommits,
        processing: Processing,
        automation: Automation,
        backups: Backups,
        erasing: HubErasing,
        erasures: ErasureBook,
        studies: Studies,
        recorder: Recorder,
    ) -> None:
        """The parts of one hub."""
        self._clock, self._commits, self._processing, self._automation = clock, commits, processing, automation
        self._backups, self._erasing, self._erasures = backups, erasing, erasures
        self._studies, self._recorder = studies, recorder

    def look(self) -> None:
        """Erase, process, back up: what is asked for and what is due."""
        self._erase()
        self._process()
        self.back_up()

    def back_up(self) -> None:
        """Make the backups that are asked for or due. Not while `look` runs."""
        self._backups.answer()
        try:
            self._automation.back_up()
        except (WardroundError, OSError) as error:  # earlier ones stay; it is late until one succeeds
            self._recorder.happened("The backup failed", str(error))
            log.error("backup failed", error=str(error))

    def _erase(self) -> None:
        """The hub's part of what is asked for, while no job runs."""
        try:
            done = self._erasing.look()
        except (WardroundError, OSError) as error:  # a full disk: nothing is settled, and it is tried again
            log.error("an erasure could not be carried out", error=str(error))
            return
        for erasure in done:
            settled = self._erasures.get(erasure.number)
            if settled is not None and settled.receipt is not None:
                self._recorder.erased(erasure.number, settled.receipt)

    def _process(self) -> None:
        """What is asked for, then what is due."""
        processing = self._processing
        processing.answer()
        started_s = self._clock.monotonic_s()
        tasks = {running.task.name for running in list(self._studies.running.values()) if running.task is not None}
        for job in processing.due(tasks):
            try:
                with self._automation.running(f"job:{job.name}") as run:
                    report = processing.run(job)
                    run.detail = f"{report.parts} parts, {report.rows} rows" if report.parts else "nothing was new"
            except WardroundError as error:  # what is done is kept; the next turn goes on from there
                self._recorder.happened(f"{job.title}: not finished", str(error))
                log.error("job failed", job=job.name, error=str(error))
            self._commits.in_gold(job, started_s)
        try:
            self._automation.keep_up()
        except WardroundError as error:  # the lake is slower for it, and the next hour tries again
            log.error("upkeep failed", error=str(error))
