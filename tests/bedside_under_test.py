"""An edge's bedside watch on a disk of its own, a clock that is moved by hand, and a sink that remembers what it was sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wardround.bedside.watching import BedsideWatch
from wardround.clock import ManualClock
from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.records import Observation
from wardround.watch.delivery.outbox import Route
from wardround.watch.delivery.sinks import DeliveryFailed

HEALTHY = {"pulse": 75.0, "respiratory-rate": 16.0, "spo2": 97.0, "systolic": 125.0, "temperature": 36.8}
SICK = {"pulse": 135.0, "respiratory-rate": 26.0, "spo2": 90.0, "systolic": 88.0, "temperature": 38.6}
CODE = {
    "pulse": "loinc:8867-4",
    "respiratory-rate": "loinc:9279-1",
    "spo2": "loinc:59408-5",
    "systolic": "loinc:8480-6",
    "temperature": "loinc:8310-5",
}


@dataclass
class Sink:
    """Takes everything, unless it is told to refuse."""

    sent: list = field(default_factory=list)
    refuses: bool = False

    def send(self, messages):
        if self.refuses:
            raise DeliveryFailed("not now")
        self.sent += messages

    def refresh(self, alerts):
        pass


class World:
    """One edge. `restart` after `crash` finds what was on the disk, and nothing else."""

    def __init__(self, folder: Path, *, trends: bool = False) -> None:
        self.folder, self.clock, self.trends = folder, ManualClock(), trends
        self.local = LocalStore(FolderStorage(folder / "local"))
        self.refused: set[str] = set()  # subjects whom nobody may watch
        self.certificates = {"identity": (0, 10**18)}
        self.records: list = []
        self.sink, self.seq = Sink(), 0
        self.watch = self._open()

    def _open(self) -> BedsideWatch:
        return BedsideWatch(
            "icu-a",
            self.folder,
            local=self.local,
            routes=[Route("hook", self.sink, priority_min="info", group_s=0.0)],
            watches=lambda subject, _code: subject not in self.refused,
            certificates=lambda: self.certificates,
            signal_title=lambda code: code,
            record=lambda *words, **facts: self.records.append((words, facts)),
            clock=self.clock,
            trends=self.trends,
        )

    def crash(self) -> None:
        """As SIGKILL: nothing more is written."""
        self.watch._outbox._stop.set()
        self.watch._ledger._db.close()
        self.watch._outbox._db.close()

    def restart(self) -> None:
        self.watch = self._open()

    def close(self) -> None:
        self.watch.close()
        self.local.close()

    def keep(
        self, vital: str, value: float | None, *, subject: str = "p1", t_us: int | None = None, seen: bool = True, **facts: object
    ) -> None:
        """A reading, as the collector leaves it on the disk; `seen`: by the watch that runs."""
        self.seq += 1
        now_us = self.clock.now_us()
        observation = Observation(
            subject=subject,
            device="monitor-1",
            edge="icu-a",
            code=CODE.get(vital, vital),
            unit="1",
            t0_us=now_us if t_us is None else t_us,
            t0_device_us=now_us,
            t_edge_us=now_us,
            device_boot="boot",
            device_seq=self.seq,
            **({"value": value} | facts),
        )
        self.local.keep([observation])
        if seen:
            self.watch.kept([observation])

    def live(self, minutes: int, values: dict[str, float], *, subject: str = "p1") -> None:
        for _ in range(minutes):
            self.clock.advance(60)
            for vital, value in values.items():
                self.keep(vital, value, subject=subject)
            self.watch.turn()

    def physiological(self):
        return [a for a in self.watch.alerts() if a.finding.category == "physiological"]
