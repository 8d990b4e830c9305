"""Real programs: a hub is backed up while it runs and is lost; what edges know that the backup does not is right again.

A minute of a processor: `make test-restore`. What it shows is shown part by part in tests/unit/backup, on every run.
"""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest

from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.mqtt_link import DeviceLink
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.records import Consent
from wardround.store import open_store

EDGE = "icu-a"
PASSPHRASE = "correct horse battery staple"


class Device:
    """A device whose values tell its messages apart."""

    def __init__(self, site, name):
        self.secret, self.subject = site.device(EDGE, name, Consent.RAW)
        self.name, self.site = name, site

    def connect(self):
        home = self.site.folder / EDGE
        self.link = DeviceLink(
            self.name,
            self.secret,
            boot="life-1",
            host="127.0.0.1",
            port=self.site.mqtt_port(EDGE),
            authority=home / "identity" / "ca.pem",
            on_receipted=lambda _seqs: None,
        )

    def send(self, *values):
        for value in values:
            beat = Reading(name="heart-rate", unit="/min", t_us=time.time_ns() // 1_000, value=value)
            self.link.publish(encode_pack([beat], base_name=f"urn:dev:{self.name}:", form="cbor"), timeout_s=60)
        assert self.link.drain(120)


def values(site, device):
    rows = Lake(site.home / "lake").read(BRONZE, columns=["value", "subject"], subjects=[device.subject])
    return sorted(rows.column("value").to_pylist())


def alerts_of(site):
    store = open_store(site.home / "hub.sqlite")
    found = {a.alert_id for a in store.alerts()}
    store.close()
    return found


def until(holds, what, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, what()
        time.sleep(0.2)
    return found


@pytest.mark.skipif(not os.environ.get("WARDROUND_RESTORE"), reason="a minute of a processor: make test-restore")
@pytest.mark.timeout(900)
def test_a_hub_that_is_lost_comes_back_from_its_backup_and_edges_go_on(site, command):
    site.start_hub()
    program = site.edge(EDGE)
    stays, gone = Device(site, "dev-1"), Device(site, "dev-2")
    program.start()
    program.wait_ready(120)
    for device in (stays, gone):
        device.connect()
        device.send(61.0, 62.0)
    until(lambda: values(site, stays) == values(site, gone) == [61.0, 62.0], site.hub.tail)
    archive, alerts = site.folder / "a.wrb", alerts_of(site)
    made = command("backup", str(archive), "--home", str(site.home), "--json", timeout=240)  # by the running hub
    assert made.returncode == 0, made.stderr

    # After the backup: one is erased, more of the other is acknowledged. Then the hub's disk is gone but for one key.
    erased = command("erase", gone.subject, "--home", str(site.home), "--yes", "--json", timeout=240)
    assert erased.returncode == 0, erased.stdout + erased.stderr
    stays.send(63.0)
    until(lambda: values(site, stays) == [61.0, 62.0, 63.0], site.hub.tail)
    site.hub.kill()
    shutil.move(site.home / "pki" / "ca.key", site.folder / "ca.key")
    shutil.rmtree(site.home)

    back = command(
        "restore", str(archive), "--home", str(site.home), "--ca-key", str(site.folder / "ca.key"), "--json", timeout=120
    )
    assert back.returncode == 0, back.stderr
    assert values(site, stays) == values(site, gone) == [61.0, 62.0]  # as of the backup
    assert alerts_of(site) >= alerts
    assert command("audit", "verify", "--home", str(site.home)).returncode == 0
    site.start_hub()
    until(lambda: values(site, gone) == [], site.hub.tail)  # the edge has said so
    stays.send(64.0)
    until(lambda: values(site, stays) == [61.0, 62.0, 64.0], site.hub.tail)  # what was between is lost, and nothing else
    receipts = json.loads(command("hub", "erasures", "--home", str(site.home), "--json").stdout)
    assert receipts[-1]["hub"]["found"] == []
    for device in (stays, gone):
        device.link.close()


def did(result):
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.skipif(not os.environ.get("WARDROUND_RESTORE"), reason="a minute of a processor: make test-restore")
@pytest.mark.timeout(900)
def test_an_edge_that_is_lost_comes_back_from_its_backup_and_joins_again(site, command):
    site.start_hub()
    program, home = site.edge(EDGE), site.folder / EDGE
    stays, gone, quiet = (Device(site, f"dev-{n}") for n in (1, 2, 3))
    program.start()
    program.wait_ready(120)
    for device in (stays, gone, quiet):
        device.connect()
        device.send(61.0, 62.0)
    until(lambda: values(site, stays) == values(site, gone) == values(site, quiet) == [61.0, 62.0], site.hub.tail)
    words, key, archive = site.folder / "words", site.folder / "icu-a.key", site.folder / "a.wrb"
    words.write_text(PASSPHRASE)
    key_options = ("--passphrase-file", str(words), "--home", str(home))
    did(command("edge", "key", "export", "--out", str(key), *key_options))
    did(command("backup", str(archive), "--home", str(home), timeout=240))

    # Since the backup: more is acknowledged, one withdraws, one is erased. Then the edge's disk is gone.
    stays.send(63.0)
    did(command("edge", "consent", "patient-of-dev-3", "none", "--home", str(home)))
    until(lambda: values(site, stays) == [61.0, 62.0, 63.0], site.hub.tail)
    shown = lambda: json.loads(did(command("hub", "consent", quiet.subject, "--home", str(site.home), "--json")))  # noqa: E731
    until(lambda: "raw" not in json.dumps(shown()), site.hub.tail)
    did(command("erase", gone.subject, "--home", str(site.home), "--yes", timeout=240))
    program.kill()
    shutil.rmtree(home)

    said = json.loads(did(command("restore", str(archive), "--home", str(home), "--json", timeout=240)))
    assert len(said["needs"]) >= 2
    token = site.token(EDGE)
    joined = command("edge", "join", "-", "--home", str(home), stdin=token + "\n")
    did(joined)
    refused = command("edge", "run", "--home", str(home), timeout=120)
    assert refused.returncode != 0
    assert "wardround edge key import" in refused.stderr
    did(command("edge", "key", "import", str(key), *key_options))
    program.start()
    program.wait_ready(120)
    stays.send(64.0)  # the device has kept its secret, and connects by itself
    until(lambda: values(site, stays) == [61.0, 62.0, 63.0, 64.0], site.hub.tail)
    in_force = lambda: json.loads(  # noqa: E731
        did(command("edge", "consent", "patient-of-dev-3", "--home", str(home), "--json"))
    )["in_force"]
    until(lambda: in_force()["care"] == "none", program.tail)
    listed = lambda: {  # noqa: E731
        d["device"] for d in json.loads(did(command("edge", "devices", "list", "--home", str(home), "--json")))
    }
    until(lambda: listed() == {"dev-1", "dev-3"}, program.tail)  # the erased patient's device went again
    assert values(site, gone) == []
    for device in (stays, gone, quiet):
        device.link.close()
