"""From device to lake over real links, with real kills: what was receipted is there once, what may not travel is not."""

from __future__ import annotations

import socket
import ssl
import threading
import time

import numpy as np
import pytest

from wardround.clock import SystemClock
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.forwarder import Forwarder
from wardround.collect.gateway import Gateway
from wardround.collect.inbox import Inbox, InboxBatch
from wardround.collect.intake import Committer, Intake
from wardround.collect.local_store import LocalStore
from wardround.collect.mqtt_link import DeviceLink
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import Device
from wardround.collect.signals import load_signals
from wardround.collect.spool import Spool
from wardround.collect.storage import FolderStorage
from wardround.demo.ledger import Run, checksum
from wardround.demo.outcome import stored_run
from wardround.demo.report import count
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.records import Consent, SubjectId
from wardround.settings import SpoolSettings

MESSAGES = 120


class Talker(threading.Thread):
    """A device that sends numbered messages and remembers its receipts."""

    def __init__(self, site, edge, device, secret):
        super().__init__(daemon=True)
        self.receipted: set[int] = set()
        self.device = device
        self.link = DeviceLink(
            device,
            secret,
            boot="life-1",
            host="127.0.0.1",
            port=site.mqtt_port(edge),
            authority=site.folder / edge / "identity" / "ca.pem",
            on_receipted=self.receipted.update,
        )
        self.finished = False

    def run(self):
        for number in range(1, MESSAGES + 1):
            wave = (np.arange(250) + number).astype("<i2")
            at_us = time.time_ns() // 1_000
            readings = [
                Reading(name="heart-rate", unit="/min", t_us=at_us, value=60.0 + number),
                Reading(
                    name="ecg-ii", unit="mV", t_us=at_us - 10**6, n=250, period_us=4000.0, values=wave.tobytes(), scale=0.005
                ),
            ]
            form = "json" if number % 2 else "cbor"
            self.link.publish(encode_pack(readings, base_name=f"urn:dev:{self.device}:", form=form), timeout_s=60)
            time.sleep(0.05)
        self.finished = self.link.drain(60)
        self.link.close()


@pytest.mark.timeout(360)
def test_sigkill_of_edge_and_hub_loses_and_doubles_nothing(site):
    site.start_hub()
    edge = site.edge("icu-a")
    secrets = {name: site.device("icu-a", name, consent) for name, consent in (("d1", Consent.RAW), ("d2", Consent.LOCAL))}
    edge.start()
    edge.wait_ready(150)
    talkers = [Talker(site, "icu-a", name, secret) for name, (secret, _) in secrets.items()]
    for talker in talkers:
        talker.start()
    for program in (edge, site.hub, edge):
        time.sleep(1.5)
        program.kill()
        time.sleep(0.5)
        program.start()
        program.wait_ready(150)
    for talker in talkers:
        talker.join(150)
        assert talker.finished
        assert talker.receipted == set(range(1, MESSAGES + 1))

    lake = Lake(site.home / "lake")
    until = time.monotonic() + 100
    while lake.count(BRONZE) < 2 * MESSAGES and time.monotonic() < until:
        time.sleep(0.3)
    rows = lake.read(BRONZE, columns=["device", "device_seq", "device_index", "code", "value", "values", "subject"]).to_pylist()
    keys = [(r["device"], r["device_seq"], r["device_index"]) for r in rows]
    assert len(keys) == len(set(keys)) == 2 * MESSAGES
    assert {r["device"] for r in rows} == {"d1"}  # d2's consent is local
    for row in rows:
        if row["code"] == "loinc:8867-4":
            assert row["value"] == 60.0 + row["device_seq"]
        else:
            np.testing.assert_array_equal(np.frombuffer(row["values"], "<i2"), np.arange(250) + row["device_seq"])


@pytest.mark.timeout(360)
def test_who_may_not_publish_is_refused(site):
    site.start_hub()
    edge = site.edge("icu-a")
    secret, _ = site.device("icu-a", "d1", Consent.RAW)
    edge.start()
    edge.wait_ready(150)
    stranger = Talker(site, "icu-a", "d1", "not-the-secret")
    stranger.link.publish(b'[{"n":"heart-rate","u":"/min","v":1}]', timeout_s=5)
    assert not stranger.link.drain(2.0)
    stranger.link.close()
    honest = Talker(site, "icu-a", "d1", secret)
    honest.link.publish(b"[{", timeout_s=5)  # malformed: set aside and receipted
    honest.link.publish(b'[{"n":"heart-rate","u":"/min","v":61}]', timeout_s=5)
    assert honest.link.drain(100)
    honest.link.close()
    edge.stop()
    quarantine = Quarantine(FolderStorage(site.folder / "icu-a" / "spool"))
    assert quarantine.counts() == {"malformed-senml": 1}
    quarantine.close()


@pytest.mark.timeout(360)
def test_the_hub_speaks_tls_1_3_alone_and_a_device_may_speak_1_2(site):
    site.start_hub()
    edge = site.edge("icu-a")
    edge.start()
    edge.wait_ready(150)
    identity = site.folder / "icu-a" / "identity"

    def version(port: int, newest: ssl.TLSVersion) -> str:
        context = ssl.create_default_context(cafile=str(identity / "ca.pem"))
        context.check_hostname = False
        context.load_cert_chain(identity / "edge.pem", identity / "edge.key")
        context.maximum_version = newest
        with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as tls:
            return tls.version()

    for port in (site.ports["grpc"], site.ports["enrolment"], site.mqtt_port("icu-a")):
        assert version(port, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    for port in (site.ports["grpc"], site.ports["enrolment"]):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            version(port, ssl.TLSVersion.TLSv1_2)
    assert version(site.mqtt_port("icu-a"), ssl.TLSVersion.TLSv1_2) == "TLSv1.2"  # older wearables know no more


# -- the count must be able to move


def journey(folder, spoil_spool):
    """Device, edge, hub and a real Delta lake in this process; what the ledger of the device says of it."""
    clock, lake = SystemClock(), Lake(folder / "lake")
    spool = Spool(FolderStorage(folder / "spool"), SpoolSettings(disk_reserve_bytes=0))
    gateway = Gateway(
        edge="icu-a",
        registry={"d1": Device("d1", "P1", "", "")},
        signals=load_signals(),
        consent=lambda _subject, _code: (Consent.RAW, 1),
        pseudonym=SubjectId,
        spool=spool,
        local_store=LocalStore(FolderStorage(folder / "local")),
        quarantine=Quarantine(FolderStorage(folder / "spool")),
        clock=clock,
        simulated=True,
    )
    ledger = []
    for seq in range(1, 31):
        at_us = clock.now_us()
        payload = encode_pack(
            [Reading(name="heart-rate", unit="/min", t_us=at_us, value=60.0 + seq)], base_name="urn:", form="json"
        )
        gateway.receive("d1", "life", seq, payload)
        for receipt in gateway.commit():
            assert receipt.seq == seq
            sent_us = round(at_us / 1e6 * 1e6)
            ledger.append(Run("d1", "life", seq, "loinc:8867-4", 1, checksum(sent_us, np.array([60.0 + seq])), 1))
    spoil_spool(folder / "spool")
    inbox = Inbox(FolderStorage(folder / "inbox"))
    intake = Intake(
        inbox=inbox,
        consent=lambda _edge, _subject, _code: Consent.RAW,
        clock=clock,
        on_refused=lambda *_: None,
        on_committed=lambda _observations: None,
    )
    forwarder = Forwarder(spool, lambda: (0, []), lambda _row: True)
    while batch := forwarder.next_batch():
        forwarder.receipted(intake.receive("icu-a", batch.boot, batch.first_seq, batch.observations, batch.gaps))

    def append(batches: list[InboxBatch], app: str, version: int) -> None:
        rows = observation_rows(row for batch in batches for row in batch.observations())
        lake.append(BRONZE, rows, app=app, version=version)

    committer = Committer(
        inbox=inbox, lake_version=lambda app: lake.transaction_version(BRONZE, app), lake_append=append, rows_max=7
    )
    while committer.run_once():
        pass
    return count(ledger, [stored_run(row) for row in lake.read(BRONZE, columns=None).to_pylist()], 0)


def whole(_spool):
    pass


def rows_deleted(spool):
    FolderStorage(spool).connect("spool").execute("DELETE FROM waiting WHERE key % 256 IN (4, 11, 12)")


def rows_damaged(spool):
    FolderStorage(spool).connect("spool").execute("UPDATE waiting SET data = substr(data, 1, 20) WHERE key % 256 = 7")


def rows_forged(spool):
    """The bytes of another row, with their checksum."""
    FolderStorage(spool).connect("spool").execute(
        "UPDATE waiting SET (crc, data) = (SELECT crc, data FROM waiting WHERE key % 256 = 2) WHERE key % 256 = 3"
    )


@pytest.mark.parametrize(
    ("spoil", "lost", "duplicated"),
    [(whole, 0, 0), (rows_deleted, 3, 0), (rows_damaged, 1, 0), (rows_forged, 1, 1)],
)
def test_a_broken_spool_moves_the_count(tmp_path, spoil, lost, duplicated):
    counted = journey(tmp_path, spoil)
    assert counted.acknowledged == 30
    assert (counted.lost, counted.duplicated) == (lost, duplicated)
    assert counted.stored == 30 - lost
    assert counted.altered == 0
