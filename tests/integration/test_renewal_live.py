"""Certificates that live for seconds, renewed by real programs while data flows."""

from __future__ import annotations

import socket
import ssl
import threading
import time

import numpy as np
import pytest

from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.mqtt_link import DeviceLink
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.records import Consent
from wardround.trust.certificates import describe

LIFE_S = 15.0


def set_life(site, seconds):
    settings = site.home / "hub.toml"
    settings.write_text(f"certificate_hours = {seconds / 3600}\n" + settings.read_text())


def listener_serial(site, edge):
    context = ssl.create_default_context(cafile=str(site.folder / edge / "identity" / "ca.pem"))
    plain = socket.create_connection(("127.0.0.1", site.mqtt_port(edge)), 5)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
        return describe(ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True)).encode()).serial


@pytest.mark.timeout(360)
def test_an_edge_renews_by_itself_while_its_devices_report(site, command):
    set_life(site, LIFE_S)
    site.start_hub()
    edge = site.edge("icu-a")
    secret, _ = site.device("icu-a", "d1", Consent.RAW)
    site.certify("icu-a", 3600.0)  # however long the program takes to start
    edge.start()
    edge.wait_ready(150)
    receipted: set[int] = set()
    dropped = threading.Event()
    link = DeviceLink(
        "d1",
        secret,
        boot="life-1",
        host="127.0.0.1",
        port=site.mqtt_port("icu-a"),
        authority=site.folder / "icu-a" / "identity" / "ca.pem",
        on_receipted=receipted.update,
    )
    link._client.on_disconnect = lambda *_: dropped.set()
    first = listener_serial(site, "icu-a")
    site.certify("icu-a", LIFE_S)
    store, sent = site.store(), 0
    until = time.monotonic() + 60
    while len(store.certificates("icu-a")) < 3 and time.monotonic() < until:  # the one it joined with, and two renewals
        at_us = time.time_ns() // 1_000
        reading = Reading(name="heart-rate", unit="/min", t_us=at_us, value=60.0 + sent % 40)
        sent = link.publish(encode_pack([reading], base_name="urn:dev:d1:", form="json"), timeout_s=20)
        time.sleep(0.05)
    assert link.drain(100)
    assert not dropped.is_set()  # the open session of the device went on
    link.close()
    assert receipted == set(range(1, sent + 1))

    issued = store.certificates("icu-a")
    store.close()
    assert len(issued) >= 3
    assert all(c.revoked_us is None for c in issued)
    assert edge.running
    assert listener_serial(site, "icu-a") != first
    lake = Lake(site.home / "lake")
    until = time.monotonic() + 100
    while lake.count(BRONZE) < sent and time.monotonic() < until:
        time.sleep(0.3)
    rows = lake.read(BRONZE, columns=["device_seq"]).to_pylist()
    np.testing.assert_array_equal(sorted(row["device_seq"] for row in rows), np.arange(1, sent + 1))

    shown = command("hub", "edges", "--home", str(site.home), "--json")
    assert shown.returncode == 0, shown.stderr
    assert '"icu-a"' in shown.stdout
    assert '"days_left"' in shown.stdout
