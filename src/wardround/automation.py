"""One table of what the hub does by the clock: jobs, rounds of studies, upkeep of the lake, certificates, the audit log.

watch/timetable.py says what is late; this gathers what is expected, from those who do it, and keeps the runs in the store, so
that they are known across restarts. `wardround automation` and the console show the same rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from wardround.backup.service import Backups
from wardround.clock import Clock
from wardround.errors import WardroundError
from wardround.processing import UPKEEP_S, Processing
from wardround.records import EdgeId
from wardround.settings import HubSettings
from wardround.store import Store
from wardround.studies import RunningStudy, Studies
from wardround.trust import renewal
from wardround.trust.audit_files import HEADS_STATE, KeptHead
from wardround.trust.certificates import describe
from wardround.trust.duties import HEAD_S
from wardround.watch.timetable import Routine, Row, Run, Timetable
from wardround.watch.watcher import Watch

log = structlog.get_logger(__name__)
RUNS_STATE, ROWS_STATE = "routine-runs", "routine-rows"
COMPACTION, RETENTION, BACKUP = "compaction", "retention", "backup"
BACKUP_SOON_S, BACKUP_AGAIN_S = 30.0, 600.0  # after a start; after one that failed
LOOK_S = 5.0
HOUR_S = 3600.0
GRACE_S = 600.0
GRACE_INTERVALS = 5.0  # a job's: others may have their turn first


@dataclass(slots=True)
class Running:
    """A run in progress; what it came to is said here."""

    detail: str = ""


class Automation:
    """One hub's. Safe to use from several threads."""

    def __init__(
        self,
        home: Path,
        settings: HubSettings,
        *,
        store: Store,
        clock: Clock,
        watch: Watch,
        processing: Processing,
        studies: Studies,
        backups: Backups,
        attached: Callable[[], Collection[str]],
    ) -> None:
        """`attached` are the edges that are connected now."""
        self._home, self._settings, self._store, self._clock, self._watch = home, settings, store, clock, watch
        self._processing, self._studies, self._attached = processing, studies, attached
        self._started_us = clock.now_us()
        self._backups, self._backup_after_us = backups, clock.now_us() + round(BACKUP_SOON_S * 1e6)
        self._lock = threading.Lock()
        self._timetable = Timetable(clock.now_us(), store.load_state(RUNS_STATE) or b"")
        self._saved = self._shown = b""
        self._uncalibrated: set[str] = set()
        self._rows: tuple[Row, ...] = ()
        processing.upkeep_since(self._timetable.last_ok_us(COMPACTION))

    # -- what runs

    @contextlib.contextmanager
    def running(self, *names: str) -> Iterator[Running]:
        """Note a run of routines, how long it took, and what came of it; an error is theirs and goes on."""
        run, done = Running(), False
        with self._lock:
            for name in names:
                self._timetable.began(name, self._clock.now_us())
        try:
            yield run
            done = True
        except WardroundError as error:
            run.detail = str(error)
            raise
        finally:
            with self._lock:
                for name in names:
                    self._timetable.ended(name, self._clock.now_us(), ok=done, detail=run.detail)
            if not done:
                self._keep()

    def keep_up(self) -> None:
        """Put the lake in order when its time has come.

        Raises:
            WardroundError: it could not be; the next hour tries again.
        """
        if not self._processing.upkeep_due:
            return
        with self.running(RETENTION, COMPACTION) as run:
            run.detail = str(self._processing.keep_up())

    def back_up(self) -> None:
        """Make a backup when its time has come.

        Raises:
            WardroundError: it could not be made; the next try is after BACKUP_AGAIN_S.
        """
        if not self._settings.backup.folder or self._clock.now_us() < max(self._backup_due_us(), self._backup_after_us):
            return
        self._backup_after_us = self._clock.now_us() + round(BACKUP_AGAIN_S * 1e6)
        with self.running(BACKUP) as run:
            run.detail = self._backups.by_the_clock()

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Make the table anew, and tell people what is late."""
        expected = self._expected()
        with self._lock:
            self._rows = tuple(self._timetable.rows(expected, self._clock.now_us()))
        self._watch.late(self._rows)
        self._keep()

    def rows(self) -> Sequence[Row]:
        """The newest table."""
        return self._rows

    def _keep(self) -> None:
        """On disk, if anything has changed."""
        with self._lock:
            runs, rows = self._timetable.save(), msgspec.json.encode(self._rows)
            if runs != self._saved:
                self._store.save_state(RUNS_STATE, runs)
            if rows != self._shown:
                self._store.save_state(ROWS_STATE, rows)
            self._saved, self._shown = runs, rows

    # -- what is expected

    def _expected(self) -> list[Routine]:
        running = list(self._studies.running.values())
        found = [*self._jobs(running), *self._upkeep(), *self._backup(), *self._certificates(), self._audit()]
        for study in running:
            found += [self._rounds(study), *self._scores(study), *self._thresholds(study)]
        return found

    def _jobs(self, running: Collection[RunningStudy]) -> Iterator[Routine]:
        tasks = {r.task.name for r in running if r.task is not None}
        for job in self._processing.scheduled(tasks):
            every_s, name = self._processing.every_s(job), f"job:{job.name}"
            grace_s = max(GRACE_S, GRACE_INTERVALS * every_s)
            yield Routine(
                name=name, title=job.title, schedule=f"every {every_s:g} s", next_us=self._due_us(name, every_s), grace_s=grace_s
            )

    def _upkeep(self) -> Iterator[Routine]:
        kept = self._settings.processing.retention
        of = (("raw", kept.raw_days), ("clean", kept.clean_days), ("features", kept.features_days))
        days = [f"{what} {n} d" for what, n in of if n]
        words = f"every hour ({', '.join(days) or 'everything is kept'})"
        for name, title, schedule in (
            (COMPACTION, "Small files and old versions of the lake", "every hour"),
            (RETENTION, "Rows past their retention", words),
        ):
            yield Routine(name=name, title=title, schedule=schedule, next_us=self._due_us(name, UPKEEP_S), grace_s=HOUR_S)

    def _backup(self) -> Iterator[Routine]:
        wanted = self._settings.backup
        if wanted.folder:
            schedule = f"every {wanted.every_h:g} h, {wanted.keep} kept"
            yield Routine(name=BACKUP, title="Backup", schedule=schedule, next_us=self._backup_due_us(), grace_s=HOUR_S)

    def _backup_due_us(self) -> int:
        """An interval after the last; soon after a start where there is none."""
        with self._lock:
            last_us = self._timetable.last_ok_us(BACKUP)
        return last_us + round(self._settings.backup.every_h * HOUR_S * 1e6) if last_us else self._started_us

    def _certificates(self) -> Iterator[Routine]:
        own = describe((self._home / "pki" / "hub.pem").read_bytes())
        title = "The hub's certificate"
        self._known("hub-certificate", own.issued_us)
        due_us, schedule = renewal.due_us(own, 0.0), "at two thirds of its life"
        yield Routine(name="hub-certificate", title=title, schedule=schedule, next_us=due_us, grace_s=HOUR_S)
        by_serial = {c.serial: c for c in self._store.certificates()}
        attached = set(self._attached())
        newest = [(e.name, by_serial[e.serial]) for e in self._store.edges() if e.revoked_us is None and e.serial in by_serial]
        lives = {name: c.not_after_us - c.issued_us for name, c in newest}
        due = [c.issued_us + round(lives[name] * renewal.RENEW_AT) for name, c in newest if name in attached]
        if newest:
            self._known("edge-certificates", max(c.issued_us for _, c in newest))
            yield Routine(
                name="edge-certificates",
                title="Certificates of connected edges",
                schedule="each at two thirds of its life",
                next_us=min(due, default=0),
                grace_s=min(lives.values()) / 1e6 / 6,  # half of what is left then
            )

    def _audit(self) -> Routine:
        heads = msgspec.json.decode(self._store.load_state(HEADS_STATE) or b"{}", type=dict[str, KeptHead])
        self._known("audit-heads", max((h.t_us for h in heads.values()), default=0))
        title = "Heads of the audit log, kept at edges"
        return Routine(name="audit-heads", title=title, schedule=f"every {HEAD_S:g} s while it grows", next_us=0)

    def _rounds(self, running: RunningStudy) -> Routine:
        study, newest = running.study, running.newest
        if newest is not None:
            self._known(f"study:{study.name}", newest.committed_us, newest.seconds, f"round {newest.number}")
        coordinator = running.coordinator
        asked = [e for e in sorted(self._attached()) if not coordinator.why_not(EdgeId(e))]
        next_us = self._due_us(f"study:{study.name}", study.rounds.interval_s)
        state = "finished" if coordinator.finished else "paused" if coordinator.paused else ""
        if not state and study.schedule.windows and not asked:
            state = "outside its schedule"
        schedule = f"{study.rounds.interval_s:g} s after the last" if study.rounds.interval_s else "one after the other"
        return Routine(
            name=f"study:{study.name}",
            title=f"Rounds of {study.name}",
            schedule=state or schedule,
            next_us=0 if state else next_us,
            grace_s=max(GRACE_S, 3 * study.rounds.deadline_s),
            study=study.name,
        )

    def _scores(self, running: RunningStudy) -> Iterator[Routine]:
        measured = running.releases.measured_us() if running.releases is not None else 0
        if measured:
            name, title = f"calibration:{running.study.name}", f"Scores and calibration of {running.study.name}"
            self._known(name, measured)
            yield Routine(name=name, title=title, schedule="whenever a model is new", next_us=0, study=running.study.name)

    def _thresholds(self, running: RunningStudy) -> Iterator[Routine]:
        """Of the detectors of its training: calibrated once, and again when somebody says so."""
        if running.watched is None:
            return
        report, name = running.watched.calibration(), f"thresholds:{running.study.name}"
        if not report.calibrated:
            self._uncalibrated.add(name)
        elif name in self._uncalibrated:
            self._uncalibrated.discard(name)
            self._known(name, self._clock.now_us(), detail=f"{report.rounds} healthy rounds")
        title, schedule = f"Thresholds of the watch of {running.study.name}", f"after {report.needed} healthy rounds"
        schedule = schedule if report.calibrated else f"{schedule}: {report.rounds} so far"
        yield Routine(name=name, title=title, schedule=schedule, next_us=0, study=running.study.name)

    def _due_us(self, name: str, every_s: float) -> int:
        with self._lock:
            return self._timetable.due_us(name, every_s)

    def _known(self, name: str, ended_us: int, seconds: float = 0.0, detail: str = "") -> None:
        """A run that somebody else has noted: of what is known by what it made."""
        with self._lock:
            if ended_us > self._timetable.last_ok_us(name):
                self._timetable.began(name, ended_us - round(seconds * 1e6))
                self._timetable.ended(name, ended_us, ok=True, detail=detail)


def shown_rows(store: Store) -> list[Row]:
    """The table as a hub last showed it."""
    return msgspec.json.decode(store.load_state(ROWS_STATE) or b"[]", type=list[Row])


def shown_runs(store: Store, name: str) -> list[Run]:
    """The newest runs of one routine, newest first."""
    return Timetable(0, store.load_state(RUNS_STATE) or b"").runs(name)
