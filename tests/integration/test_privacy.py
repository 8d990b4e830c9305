"""Among real programs: what a subject does not allow never crosses the wire, and what is erased is in no byte of any home."""

from __future__ import annotations

import json
import re
import struct
import time

import numpy as np
import pytest

from recording_proxy import RecordingProxy
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.mqtt_link import DeviceLink
from wardround.erasing.hub import LOOKS
from wardround.erasing.search import search_home
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.records import Consent

EDGE = "icu-a"
WAVE = np.arange(250) * 7


class Device:
    """Sends values that stand for it: no other device's bytes hold them."""

    def __init__(self, site, name, consent, base):
        self.name, self.base, self.patient = name, base, f"patient-of-{name}"
        self.secret, self.subject = site.device(EDGE, name, consent)
        self.site, self.link = site, None

    def connect(self):
        self.link = DeviceLink(
            self.name,
            self.secret,
            boot="life-1",
            host="127.0.0.1",
            port=self.site.mqtt_port(EDGE),
            authority=self.site.folder / EDGE / "identity" / "ca.pem",
            on_receipted=lambda _seqs: None,
        )

    def value(self, number):
        return self.base + number / 1024

    def wave(self, number):
        return (WAVE + round(self.base * 100) + number).astype("<i2").tobytes()

    def send(self, number):
        at_us = time.time_ns() // 1_000
        wave = Reading(name="ecg-ii", unit="mV", t_us=at_us, n=250, period_us=4000.0, values=self.wave(number), scale=0.005)
        beat = Reading(name="heart-rate", unit="/min", t_us=at_us, value=self.value(number))
        self.link.publish(encode_pack([beat, wave], base_name=f"urn:dev:{self.name}:", form="cbor"), timeout_s=20)

    def markers(self, number):
        """A number as MessagePack has it, and the samples of a wave."""
        return struct.pack(">d", self.value(number)), self.wave(number)

    def went(self, proxy, number):
        """Whether all of a message has left the edge; a number may be ahead of its wave."""
        return all(proxy.holds(marker) for marker in self.markers(number))

    def leaked(self, proxy, number):
        """Whether any of it has."""
        return any(proxy.holds(marker) for marker in self.markers(number))


def until(holds, what, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, what
        time.sleep(0.2)
    return found


def encrypt(site, settings):
    settings.write_text(f'at_rest.kek = "file:{site.folder / settings.stem}.kek"\n{settings.read_text()}')


@pytest.fixture
def ward(site):
    """A hub, an edge that reaches it through the proxy, both encrypted at rest, and a device for each consent."""
    encrypt(site, site.home / "hub.toml")
    site.start_hub()
    program = site.edge(EDGE)
    proxy = RecordingProxy(site.home / "pki", site.folder / EDGE / "identity", site.ports["grpc"])
    settings = site.folder / EDGE / "edge.toml"
    settings.write_text(re.sub(r"hub_port = \d+", f"hub_port = {proxy.port}", settings.read_text()))
    encrypt(site, settings)
    kinds = {"raw": Consent.RAW, "raw2": Consent.RAW, "local": Consent.LOCAL, "none": Consent.NONE}
    devices = {name: Device(site, f"dev-{name}", kind, 61.0 + 13 * i) for i, (name, kind) in enumerate(kinds.items())}
    program.start()
    program.wait_ready(150)
    for device in devices.values():
        device.connect()
    yield site, proxy, devices
    for device in devices.values():
        device.link.close()
    proxy.close()


def rows_of(site, subject):
    return Lake(site.home / "lake").read(BRONZE, columns=["subject"], subjects=[subject]).num_rows


@pytest.mark.timeout(600)
def test_nothing_of_local_or_none_leaves_an_edge_and_nothing_of_the_erased_is_left(ward, command):
    site, proxy, devices = ward
    for number in range(1, 4):
        for device in devices.values():
            device.send(number)
    for device in devices.values():
        assert device.link.drain(100)
    raw, other = devices["raw"], devices["raw2"]
    until(lambda: rows_of(site, raw.subject) == 6 and rows_of(site, other.subject) == 6, site.hub.tail())
    assert all(d.went(proxy, n) for d in (raw, other) for n in range(1, 4))  # the proxy sees what does leave
    assert not any(devices[name].leaked(proxy, n) for name in ("local", "none") for n in range(1, 4))

    names = what_leaves_for_a_study_has_names_of_its_own(site, command, raw, other)

    # Withdrawn at the edge while the hub is away: what waits in the spool stays there.
    site.hub.kill()
    raw.send(4)
    assert raw.link.drain(100)
    changed = command("edge", "consent", raw.patient, "none", "--home", str(site.folder / EDGE), "--json")
    assert changed.returncode == 0, changed.stderr
    until(lambda: "consent withdrawn" in (site.folder / f"{EDGE}.log").read_text(), "the running edge did not see it")
    other.send(4)
    site.start_hub()
    until(lambda: other.went(proxy, 4), site.hub.tail())
    raw.send(5)
    assert raw.link.drain(100)
    assert not raw.leaked(proxy, 4)

    # Withdrawn at the hub: the edge follows.
    started = time.monotonic()
    asked = command("hub", "consent", other.subject, "local", "--home", str(site.home))
    assert asked.returncode == 0, asked.stderr
    shown = lambda: json.loads(  # noqa: E731
        command("edge", "consent", other.patient, "--home", str(site.folder / EDGE), "--json").stdout
    )
    until(lambda: shown()["in_force"]["care"] == "local", "the edge did not follow", 60.0)
    print(f"a withdrawal at the hub reached the edge in {time.monotonic() - started:.1f} s")
    other.send(5)
    assert other.link.drain(100)
    time.sleep(2)
    assert not other.leaked(proxy, 5)
    assert not raw.leaked(proxy, 5)

    # On the edge's disk no value can be read; in the lake, which is not encrypted, it can: the control.
    stored = [p.read_bytes() for name in ("local", "spool") for p in (site.folder / EDGE / name).iterdir()]
    assert not any(other.wave(n) in data for data in stored for n in range(1, 6))
    waves = Lake(site.home / "lake").read(BRONZE, columns=["values"], subjects=[other.subject]).column("values").to_pylist()
    assert other.wave(1) in waves

    # Erased.
    homes = (site.home, site.folder / EDGE)
    assert all(search_home(home, other.subject, LOOKS).found for home in homes)
    erased = command("erase", other.subject, "--home", str(site.home), "--reason", "a test", "--yes", "--json", timeout=120)
    assert erased.returncode == 0, erased.stdout + erased.stderr
    receipt = json.loads(erased.stdout)
    assert receipt["hub"]["known"]
    assert receipt["edges"][EDGE]["known"]
    assert receipt["edges"][EDGE]["removed"]["observations kept for training"] == 10
    assert [place["removed"]["data keys"] for place in (receipt["hub"], receipt["edges"][EDGE])] == [1, 1]
    assert [e["study"] for e in receipt["hub"]["exports"]] == ["trial-a", "trial-b"]
    for home in homes:
        found = search_home(home, other.subject, LOOKS)
        assert (found.found, found.unread) == ([], [])
        assert not [name for name in names if search_home(home, name, LOOKS).found]  # the pairs were forgotten at once
    assert rows_of(site, raw.subject) == 6
    assert rows_of(site, other.subject) == 0
    the_audit_log_has_all_of_it(site, command, other.subject)


def what_leaves_for_a_study_has_names_of_its_own(site, command, raw, other):
    """Exports for two studies; the second without the one who has withdrawn from research. The names that went out."""
    names = []
    for study, subjects in (("trial-a", {raw.subject, other.subject}), ("trial-b", {other.subject})):
        out = site.folder / study
        made = command("process", "export", "--study", study, "--out", str(out), "--home", str(site.home), "--json", timeout=120)
        assert made.returncode == 0, made.stderr
        facts = json.loads(made.stdout)
        assert (facts["subjects"], facts["observations"]) == (len(subjects), 6 * len(subjects))
        left_out = [] if raw.subject in subjects else [raw.subject]
        assert [x["subject"] for x in facts["subjects_left_out"]] == left_out
        names += [p.name for p in out.iterdir()]
        data = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
        assert not any(word.encode() in data for word in (raw.subject, other.subject, raw.name, other.name))
        if raw.subject in subjects:
            withdrawn = ("edge", "consent", raw.patient, "none", "--purpose", "research", "--home", str(site.folder / EDGE))
            assert command(*withdrawn).returncode == 0
    assert len({*names, raw.subject, other.subject}) == 5
    return names


def the_audit_log_has_all_of_it(site, command, subject):
    """Who asked for what stands there, under a digest; and whoever cuts its end off is seen against what the edge keeps."""
    home = ("--home", str(site.home))
    entries = json.loads(command("audit", "show", "--json", "--subject", subject, *home).stdout)
    assert [e["what"] for e in entries] == [
        "observations exported",
        "observations exported",
        "wardround hub consent",
        "wardround erase",
    ]
    everything = json.loads(command("audit", "show", "--json", "--limit", "500", *home).stdout)
    assert {"edge joined", "consents taken over", "erasure carried out"} <= {e["what"] for e in everything}
    at_edge = command("audit", "show", "--json", "--home", str(site.folder / EDGE)).stdout
    assert "wardround edge consent" in at_edge
    assert "names given for a study" in at_edge
    assert "patient-of" not in at_edge
    held = command("audit", "verify", *home)
    assert held.returncode == 0, held.stderr
    head = site.folder / "head.json"
    head.write_text(command("audit", "head", "--home", str(site.folder / EDGE)).stdout)
    kept = json.loads(head.read_text())["entries"]
    site.hub.kill()
    log = site.home / "audit" / "audit.log"
    log.write_bytes(b"".join(log.read_bytes().splitlines(True)[: kept - 1]))
    cut = command("audit", "verify", "--head", str(head), *home)
    assert cut.returncode != 0
    assert "its end was cut off" in cut.stderr
