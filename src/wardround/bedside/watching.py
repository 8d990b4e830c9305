"""What an edge runs at the bedside: vital signs, devices and certificates go in; alerts come out, on the disk and to people.

It needs no hub. Vital signs are read from the local store by a cursor that is kept with what the detectors remember: after a
crash, what came since is read again, in order and once. The memory is kept with every alert and at least once a minute, so a
crash costs at most a minute of votes, never an alert and never a second one for the same cause. Where the cursor is older than a
day (a new edge, a long stop), it begins a day ago: so much a patient's own usual is worth.

`turn` is called about once a second, in a thread; `kept` by the collector. Safe to use from several threads.
"""

from __future__ import annotations

import collections
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

import msgspec
import structlog

from wardround.bedside.findings import (
    certificate_finding,
    certificate_fingerprint,
    episode_finding,
    episode_fingerprint,
    live_finding,
)
from wardround.bedside.ledger import BedsideLedger
from wardround.bedside.live import WALKING, Said
from wardround.bedside.told import LIVE_TASKS, MayTell, load_of, told_of
from wardround.bedside.trends import PREFIX as TREND
from wardround.bedside.trends import Trends
from wardround.bedside.vitals import CODES, Scale, readings, scorer
from wardround.clock import Clock
from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.errors import StorageFull, WardroundError
from wardround.process.transforms import TASKS
from wardround.process.transforms.early_warning import HORIZON_US
from wardround.records import EdgeLoad, Observation, OpenAlert
from wardround.watch.acts import Acts, answer
from wardround.watch.alerts import Alert, AlertBook, Finding, Response, Silence
from wardround.watch.bedside import Bedside, Episode
from wardround.watch.delivery.outbox import Outbox, Route
from wardround.watch.detectors.sensors import SensorChange, Sensors
from wardround.watch.live_model import LiveModel
from wardround.watch.sensor_findings import FLAGGED, sensor_finding, sensor_fingerprint

log = structlog.get_logger(__name__)
FOLDER = "bedside"
SINKS, SILENCES, MEMORY = "alert-sinks", "alert-silences", "memory"
PREFIX = "B"
KEEP_US = 60_000_000
BACK_US = 86_400_000_000
TOLD_AGAIN_US = 86_400_000_000  # as long as an outbox tries
ROWS_MAX = 5_000  # of the local store a turn
CHANGES_MAX = 1_000  # of sensors between two turns
DAYS_MAX = 400
DAY_US = 86_400_000_000
WITHDRAWN = "consent does not allow to watch it any more"
Certificates = Mapping[Literal["identity", "listener"], tuple[int, int]]  # what: from when to when, us since 1970


class _Memory(msgspec.Struct):
    """What is kept across restarts beside the alerts."""

    cursor: int
    watch: bytes
    minutes: dict[int, int]  # by day since 1970: patient minutes that were judged
    live: bytes = b""


def patient_minutes(ledger: BedsideLedger) -> dict[int, int]:
    """By day since 1970, the minutes in which a patient was judged, as they were last kept."""
    data = ledger.state(MEMORY)
    return msgspec.msgpack.decode(data, type=_Memory).minutes if data else {}


class BedsideWatch:
    """One edge's."""

    def __init__(
        self,
        edge: str,
        home: Path,
        *,
        local: LocalStore,
        routes: Sequence[Route],
        watches: Callable[[str, str], bool],
        certificates: Callable[[], Certificates],
        signal_title: Callable[[str], str],
        record: Callable[..., object],
        clock: Clock,
        may_tell: MayTell = lambda _subject, _codes: False,
        trends: bool = False,
    ) -> None:
        """`watches(subject, code)` says whether consent allows to watch it now, `may_tell(subject, codes)` whether the hub may
        know of whom an alert is; `record` adds an entry to the audit log; `trends`: also what was never seen of a vital sign.

        Raises:
            StorageFull: what was kept before cannot be read.
        """
        self._edge, self._local, self._clock, self._may_tell = edge, local, clock, may_tell
        self._watches, self._certificates, self._signal_title, self._record = watches, certificates, signal_title, record
        self._lock, self._sensor_lock = threading.RLock(), threading.Lock()
        self._ledger = BedsideLedger(FolderStorage(home / FOLDER))
        self._book = AlertBook(prefix=PREFIX)
        self._ledger.load(self._book)
        self._scales: Mapping[str, int] = {}
        self._trends = Trends(edge, on=trends, now_us=clock.now_us, tell=self._raise, clear=self._clear)
        scored = scorer(lambda s: cast(Scale, self._scales.get(s, 1)))
        self._vitals = Bedside(scored, horizon_us=HORIZON_US, on_hour=self._trends.hour)
        self._live = LiveModel()
        self._sensors = Sensors()
        self._changes: collections.deque[SensorChange] = collections.deque(maxlen=CHANGES_MAX)
        self._cursor, self._minutes = -1, dict[int, int]()
        self._remember()
        self._changed: dict[str, Alert] = {}  # since the last turn, by id
        self._shown: dict[str, bytes] = {}
        self._kept_us = self._looked_us = 0
        self.facts: tuple[OpenAlert, ...] = ()  # what the hub is told of what is open; as of the last turn, without waiting
        self.load: tuple[EdgeLoad, ...] = ()  # and of the alarm load, as of the last minute
        self._outbox = Outbox(home / FOLDER / "outbox.sqlite", routes, clock, self.open_alerts)
        self._acts = Acts(
            acknowledge=self._acknowledge,
            judge=self._judge,
            undo=lambda _alert, _who, _reason: False,
            silence=self._silence,
            unsilence=self._book.unsilence,
            test=self._outbox.test,
            settings="edge.toml",
            command="wardround edge alerts",
        )

    def start(self) -> None:
        """Begin to tell people: first what a kill came before."""
        with self._lock:
            self._tell_again()
        self._outbox.start()

    def close(self) -> None:
        """Keep what is remembered, and stop."""
        with self._lock:
            try:
                self._keep(self._clock.now_us(), all_of_it=True)
            except (StorageFull, sqlite3.Error) as error:
                log.error("the bedside watch could not be kept", edge_id=self._edge, reason=str(error))
        self._outbox.close()  # without the lock: a sink that is just told what is open asks for it
        self._ledger.close()

    # -- what comes in

    def kept(self, observations: Sequence[Observation]) -> None:
        """Observations that are on this edge's disk now; called by the collector, and quick."""
        with self._sensor_lock:
            now_us = self._clock.now_us()
            for observation in observations:
                if not observation.imported:  # a recording ends, and no sensor has died
                    change = self._sensors.observe(observation, now_us)
                    if change is not None:
                        self._changes.append(change)

    def turn(self) -> None:
        """Look at everything once; call it about once a second. What a disk refuses is tried again with the next turn."""
        with self._lock:
            now_us = self._clock.now_us()
            try:
                self._scales = self._ledger.scales()
                self._read(now_us)
                self._answer()
            except sqlite3.Error as error:
                log.error("the bedside watch cannot read", edge_id=self._edge, reason=str(error))
            for episode in self._vitals.tick(now_us):
                self._episode(episode)
            self._count(now_us)
            self._devices(now_us)
            if now_us - self._looked_us >= KEEP_US or now_us < self._looked_us:
                self._looked_us = now_us
                self._look(now_us)
            for alert in self._book.tick(now_us):
                self._note(alert)
            self._tell(now_us)
            self.facts = told_of(self._book.open_alerts(), self._may_tell)

    def hear(self, said: Iterable[Said]) -> None:
        """What the held models say of the last minutes. Making it is slow, and done before the lock is taken."""
        heard = list(said)
        with self._lock:
            for one in heard:
                classes = TASKS[one.task].classes
                if not self._may_watch(one.subject, one.task):
                    continue
                if one.task == "ventricular-beats":
                    beats = self._live.beats(one.subject, one.t_us, one.p[:, classes.index("ventricular")].tolist())
                    for episode in beats:
                        self._raise(live_finding(self._edge, episode))
                elif one.task == "activity":
                    walking = one.p[:, [classes.index(c) for c in WALKING]].sum(axis=1)
                    self._live.windows(one.subject, one.t_us, walking.tolist(), one.p.max(axis=1).tolist())
            for episode in self._live.tick(self._clock.now_us()):
                if episode.over:
                    self._clear(episode_fingerprint(self._edge, episode.kind, episode.subject))
                else:
                    self._raise(live_finding(self._edge, episode))
            self._tell(self._clock.now_us())

    def ask(self, alert_id: str, who: str) -> None:
        """Somebody at the hub is on an alert: it is acknowledged with the next turn, like one from the command line."""
        self._ledger.ask("acknowledge", {"alert": alert_id}, who, self._clock.now_us())

    def forget(self, subject: str) -> int:
        """A patient is erased: nothing of them stays, in memory or in a file; how many alerts went."""
        with self._lock:
            gone = self._book.forget(subject)
            self._vitals.forget(subject)
            self._trends.forget(subject, "")
            self._live.forget(subject)
            self._changed = {i: a for i, a in self._changed.items() if i not in gone}
            self._keep(self._clock.now_us(), all_of_it=True)
            self._ledger.forget(subject)
            self.facts = told_of(self._book.open_alerts(), self._may_tell)
            return len(gone)

    # -- what can be seen

    def alerts(self) -> list[Alert]:
        """Every alert, newest first."""
        with self._lock:
            return self._book.alerts()

    def open_alerts(self) -> list[Alert]:
        """What is open, who needs a person first."""
        with self._lock:
            return self._book.open_alerts()

    # -- detectors

    def _remember(self) -> None:
        self._trends.restore(self._ledger.states(TREND))
        data = self._ledger.state(MEMORY)
        if not data:
            return
        try:
            memory = msgspec.msgpack.decode(data, type=_Memory)
            self._vitals.restore(memory.watch)
            if memory.live:
                self._live.restore(memory.live)
        except (msgspec.DecodeError, ValueError) as error:  # of an older version: a patient's own usual is learned anew
            log.warning("what the bedside watch remembered cannot be read", edge_id=self._edge, reason=str(error))
            return
        self._cursor, self._minutes = memory.cursor, memory.minutes

    def _read(self, now_us: int) -> None:
        """Vital signs that were kept since the last turn."""
        observations, self._cursor = self._local.tail(list(CODES), after=self._cursor, since_us=now_us - BACK_US, limit=ROWS_MAX)
        for o in observations:
            if self._watches(o.subject, o.code):
                for vital, t_us, value in readings(o):
                    self._vitals.observe(o.subject, vital, t_us, value)

    def _episode(self, episode: Episode) -> None:
        if episode.over:
            why = "" if episode.values else "no vital sign comes any more"
            self._clear(episode_fingerprint(self._edge, episode.kind, episode.subject), why)
        else:
            self._raise(episode_finding(self._edge, episode))

    def _count(self, now_us: int) -> None:
        """Patient minutes, for the alarm load."""
        if self._vitals.patient_minutes:
            day = now_us // DAY_US
            self._minutes[day] = self._minutes.get(day, 0) + self._vitals.patient_minutes
            self._vitals.patient_minutes = 0
            self._minutes = {d: n for d, n in self._minutes.items() if d > day - DAYS_MAX}

    def _devices(self, now_us: int) -> None:
        with self._sensor_lock:
            changes = [*self._changes, *self._sensors.tick(now_us)]
            self._changes.clear()
        for change in changes:
            if change.over:
                self._clear(sensor_fingerprint(change))
            else:
                flagged = FLAGGED if change.what == "flat" else None
                self._raise(sensor_finding(change, self._signal_title, now_us), flagged)

    def _look(self, now_us: int) -> None:
        """Once a minute: certificates, patients who may not be watched any more, trends that are new no more; the alarm load."""
        for what, (not_before_us, not_after_us) in self._certificates().items():
            finding = certificate_finding(self._edge, what, not_before_us=not_before_us, not_after_us=not_after_us, now_us=now_us)
            if finding is not None:
                self._raise(finding)
            else:
                self._clear(certificate_fingerprint(self._edge, what))
        for subject in dict.fromkeys([*self._vitals.subjects(), *self._trends.subjects()]):
            if not any(self._watches(subject, code) for code in CODES):
                self._vitals.forget(subject)
                self._trends.forget(subject, WITHDRAWN)
                for kind in ("news2", "own-baseline"):
                    self._clear(episode_fingerprint(self._edge, kind, subject), WITHDRAWN)
        for subject in self._live.subjects():
            if not any(self._may_watch(subject, task) for task in LIVE_TASKS.values()):
                self._live.forget(subject)
                for kind in LIVE_TASKS:
                    self._clear(episode_fingerprint(self._edge, kind, subject), WITHDRAWN)
        self._trends.look(self._book.open_alerts())
        self.load = load_of(self._book.alerts(), self._minutes, now_us)

    def _may_watch(self, subject: str, task: str) -> bool:
        return any(self._watches(subject, code) for code in TASKS[task].signals)

    # -- people

    def _answer(self) -> None:
        for request in self._ledger.asked():
            try:
                said = answer(self._acts, request.act, request.body, request.who)
            except (WardroundError, KeyError, TypeError, ValueError) as error:
                self._ledger.answer(request.request_id, str(error), refused=True)
            else:
                self._note_all()  # what it changed is on the disk before it is answered
                self._tell(self._clock.now_us())
                self._ledger.answer(request.request_id, said)

    def _acknowledge(self, alert_id: str, who: str) -> bool:
        return self._note(self._book.acknowledge(alert_id, who, self._clock.now_us()))

    def _judge(self, alert_id: str, actionable: bool, who: str) -> bool:
        return self._book.judge(alert_id, actionable=actionable, who=who, now_us=self._clock.now_us()) is not None

    def _silence(self, matchers: Mapping[str, str], *, until_us: int, who: str, reason: str) -> Silence:
        return self._book.silence(matchers, until_us=until_us, who=who, reason=reason, now_us=self._clock.now_us())

    def _note_all(self) -> None:
        for alert in self._book.tick(self._clock.now_us()):
            self._note(alert)

    # -- alerts

    def _raise(self, finding: Finding, response: Response | None = None) -> None:
        self._note(self._book.raise_(finding, self._clock.now_us(), response))

    def _clear(self, fingerprint: str, why: str = "") -> None:
        self._note(self._book.clear(fingerprint, self._clock.now_us(), why))

    def _note(self, alert: Alert | None) -> bool:
        """People are to be told of this change once it is on the disk."""
        if alert is None:
            return False
        self._changed[alert.alert_id] = alert
        state, kind = alert.state.value, alert.finding.kind
        log.warning("alert", alert_id=alert.alert_id, state=state, kind=kind, edge_id=self._edge)
        return True

    def _tell(self, now_us: int) -> None:
        """Keep what has changed, then tell of it: told and not kept would be told again under another id."""
        try:
            self._keep(now_us)
        except (StorageFull, sqlite3.Error) as error:  # a patient is worth telling of all the same
            log.error("the bedside watch could not be kept", edge_id=self._edge, reason=str(error))
        changed, self._changed = list(self._changed.values()), {}
        for alert in changed:
            self._outbox.put(alert)
            try:
                self._record("system", f"alert {alert.history[-1].what}", self._edge, alert=alert.alert_id)
            except WardroundError as error:
                log.error("an alert could not be recorded", edge_id=self._edge, reason=str(error))
        if self._outbox.behind:
            self._tell_again()

    def _keep(self, now_us: int, *, all_of_it: bool = False) -> None:
        states = {}
        for key, value in ((SINKS, self._outbox.states()), (SILENCES, self._book.silences())):
            data = msgspec.json.encode(value)
            if self._shown.get(key) != data:
                states[key] = data
        due = now_us - self._kept_us >= KEEP_US or now_us < self._kept_us
        if all_of_it or due or self._changed:
            states[MEMORY] = msgspec.msgpack.encode(
                _Memory(self._cursor, self._vitals.state(), self._minutes, self._live.state())
            )
            states |= self._trends.states()  # with the cursor: what comes after it is read again, and judged once
        self._ledger.keep(self._book, states)
        self._shown |= {k: v for k, v in states.items() if k in (SINKS, SILENCES)}
        if MEMORY in states:
            self._kept_us = now_us
            self._trends.kept()

    def _tell_again(self) -> None:
        """Put every alert that matters now into the outbox; what a sink has is not sent again."""
        self._outbox.behind = False
        recent_us = self._clock.now_us() - TOLD_AGAIN_US
        for alert in reversed(self._book.alerts()):
            if alert.open or alert.changed_us > recent_us:
                self._outbox.put(alert)
