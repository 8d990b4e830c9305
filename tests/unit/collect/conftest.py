"""An edge's gate and a hub's inbox over memory."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest

from wardround.clock import ManualClock
from wardround.collect.gateway import Gateway
from wardround.collect.local_store import LocalStore
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import Device
from wardround.collect.signals import load_signals
from wardround.collect.spool import Spool
from wardround.collect.storage import MemoryStorage
from wardround.records import Consent, SubjectId, decode_observation
from wardround.settings import SpoolSettings
from wardround.trust.at_rest import PLAIN, Seal


@dataclass
class Gate:
    """A gateway with everything around it."""

    storage: MemoryStorage = field(default_factory=MemoryStorage)
    clock: ManualClock = field(default_factory=ManualClock)
    consents: dict[str, Consent] = field(default_factory=lambda: {"P1": Consent.RAW, "P2": Consent.LOCAL})
    settings: SpoolSettings = field(default_factory=SpoolSettings)
    seal: Seal = PLAIN

    def __post_init__(self):
        self.open()

    def open(self):
        """From disk, as after a restart."""
        self.spool = Spool(self.storage, self.settings, self.seal)
        self.local = LocalStore(self.storage, self.seal)
        self.quarantine = Quarantine(self.storage, self.seal, lambda device: {"d1": "P1", "d2": "P2"}.get(device, ""))
        self.gateway = Gateway(
            edge="icu-a",
            registry={"d1": Device("d1", "P1", "", ""), "d2": Device("d2", "P2", "", ""), "d3": Device("d3", "P3", "", "")},
            signals=load_signals(),
            consent=lambda subject, _code: (self.consents.get(subject, Consent.NONE), 1),
            pseudonym=SubjectId,
            spool=self.spool,
            local_store=self.local,
            quarantine=self.quarantine,
            clock=self.clock,
            simulated=False,
            keeps=lambda subject: self.consents.get(subject, Consent.NONE) is not Consent.NONE,
        )

    def send(self, records, *, device="d1", boot="b", seq=1):
        payload = records if isinstance(records, bytes) else json.dumps(records).encode()
        self.gateway.receive(device, boot, seq, payload)
        return self.gateway.commit()

    def record(self, name="heart-rate", unit="/min", value=60.0, t_s=0.0):
        return {"n": name, "u": unit, "v": value, "t": self.clock.now_us() / 1e6 + t_s}

    def waiting(self):
        """What will travel."""
        lanes = self.spool.lanes()
        return [decode_observation(row.data) for lane in lanes for row in self.spool.read_after(lane.boot, 0, rows_max=10_000)]

    def reasons(self):
        return self.quarantine.counts()


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.storage.close()


@pytest.fixture
def small_gate():
    """Its spool holds a thousand bytes."""
    gate = Gate(settings=SpoolSettings(bytes_max=1_000))
    yield gate
    gate.storage.close()
