"""Devices over HTTPS at a running edge: what was receipted survives a kill, counts once, and is in the lake."""

from __future__ import annotations

import http.client
import json
import ssl
import time

import pytest

from wardround.ports import free_port
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.records import Consent


class Device:
    """A device's side, as any HTTP library makes it."""

    def __init__(self, authority, port, secret, *, newest=ssl.TLSVersion.TLSv1_3):
        self.context = ssl.create_default_context(cafile=str(authority))
        self.context.maximum_version = newest
        self.port, self.secret = port, secret

    def send(self, seq, value, device="d1"):
        body = json.dumps([{"n": "heart-rate", "u": "/min", "v": value, "t": time.time()}])
        headers = {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/senml+json"}
        headers |= {"Wardround-Boot": "life-1", "Wardround-Seq": str(seq)}
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self.context, timeout=20)
        try:
            connection.request("POST", f"/v1/devices/{device}/messages", body, headers)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.mark.timeout(360)
def test_what_was_receipted_is_there_once(site):
    site.start_hub()
    edge = site.edge("icu-a")
    port = free_port()
    settings = site.folder / "icu-a" / "edge.toml"
    settings.write_text(settings.read_text() + f'[https]\nhost = "127.0.0.1"\nport = {port}\n')
    secret, _ = site.device("icu-a", "d1", Consent.RAW)
    edge.start()
    edge.wait_ready(150)
    authority = site.folder / "icu-a" / "identity" / "ca.pem"
    device = Device(authority, port, secret)

    assert [device.send(seq, 60 + seq) for seq in range(1, 6)] == [202] * 5
    edge.kill()  # right after the receipt
    edge.start()
    edge.wait_ready(150)
    assert device.send(5, 65) == 202  # it may not have seen its receipt
    assert device.send(6, 66) == 202
    assert device.send(1_000, 1) == 409
    assert Device(authority, port, "wrong").send(7, 99) == 401
    with pytest.raises(ssl.SSLError):
        Device(authority, port, secret, newest=ssl.TLSVersion.TLSv1_2).send(7, 99)

    lake = Lake(site.home / "lake")
    until = time.monotonic() + 100
    while lake.count(BRONZE) < 6 and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(0.5)
    rows = lake.read(BRONZE, columns=["device_seq", "value"]).to_pylist()
    assert sorted((r["device_seq"], r["value"]) for r in rows) == [(n, 60.0 + n) for n in range(1, 7)]
