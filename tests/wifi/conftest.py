"""A ward's network in a virtual machine: simulated radios, the product's own profiles, and a real hub on the wire behind it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.wifi.air import Air
from tests.wifi.machine import HOST, Machine, Program, why_not

from programs_under_test import Site, wardround
from wardround.clock import SystemClock
from wardround.store import opened
from wardround.trust.certificates import Authority
from wardround.trust.join import mint

IMAGE_S = 900.0
EDGE, SSID = "icu-a", b'Ward "7"\n'  # an SSID may be any bytes
OPEN_AP = "interface=wlan0\ndriver=nl80211\nbridge=br0\nssid=Open\nhw_mode=g\nchannel=1\n"
OPEN_STATION = 'network={\n    ssid="Open"\n    key_mgmt=NONE\n}\n'
MARKER = b"WARDROUNDPLAINTX"
ACCESS_POINT = ("ip", "netns", "exec", "ap")
PRODUCT = ("python3", "-m", "wardround.cli.main")
JOINED, FAILED, UNTRUSTED = "CTRL-EVENT-CONNECTED", "CTRL-EVENT-EAP-FAILURE", "CTRL-EVENT-EAP-TLS-CERT-ERROR"


@dataclass
class Ward:
    """The machine, the hub it can reach, and the files of both ends of the radio."""

    site: Site
    machine: Machine

    @property
    def shared(self) -> Path:
        """The folder that the machine sees as /shared."""
        return self.machine.shared

    def wardround(self, *arguments: str) -> str:
        """The command line at the hub; its output."""
        done = wardround(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def profile(self, *arguments: str, folder: str = "/shared/ap") -> str:
        """A profile of the ward's network, by the product's command."""
        return self.wardround("wifi", "profile", *arguments, "--ssid-hex", SSID.hex(), "--folder", folder)

    def ap_profile(self, folder: str = "/shared/ap") -> str:
        return self.profile("--format", "hostapd", "--bridge", "br0", folder=folder)

    def station_profile(self, identity: str) -> str:
        return self.profile(EDGE, "--format", "wpa_supplicant", folder=identity)

    @contextlib.contextmanager
    def access_point(self, config: str) -> Iterator[Program]:
        """An access point, while this runs."""
        (self.shared / "ap.conf").write_text(config)
        running = self.machine.start_program("ap.log", *ACCESS_POINT, "hostapd", "-dd", "/shared/ap.conf")
        try:
            running.wait_for("AP-ENABLED")
            yield running
        finally:
            running.stop()

    @contextlib.contextmanager
    def station(self, config: str) -> Iterator[Program]:
        """The edge's supplicant, while this runs."""
        (self.shared / "station.conf").write_text(config)
        running = self.machine.start_program(
            "station.log", "wpa_supplicant", "-dd", "-Dnl80211", "-iwlan1", "-c", "/shared/station.conf"
        )
        try:
            yield running
        finally:
            running.stop()
            self.machine.do("ip", "addr", "flush", "dev", "wlan1")

    @contextlib.contextmanager
    def on_the_network(self, config: str) -> Iterator[Program]:
        """The station with its profile, once it has joined and has an address."""
        with self.station(config) as station:
            assert station.wait_for(JOINED, FAILED, within_s=90) == JOINED, station.said()[-4000:]
            self.machine.do("ip", "addr", "replace", "10.66.0.20/24", "dev", "wlan1")
            yield station

    def ping(self, *more: str) -> int:
        """Echoes of the marker that came back from the host on the wire, of ten."""
        said = self.machine.run("ping", "-c", "10", "-i", "0.3", "-W", "3", "-p", MARKER.hex(), *more, HOST).out
        return int(said.rpartition(" received")[0].rpartition(" ")[2])

    @contextlib.contextmanager
    def listening(self, name: str) -> Iterator[Path]:
        """Write down what is in the air, while this runs."""
        path = self.shared / f"{name}.pcap"
        running = self.machine.start_program(
            f"{name}.log", "tcpdump", "-Z", "root", "-i", "hwsim0", "-s", "0", "-B", "32768", "-U", "-w", f"/shared/{name}.pcap"
        )
        try:
            running.wait_for("listening on")
            yield path
        finally:
            running.stop()

    def join_hub(self) -> None:
        """`wardround edge join` in the machine, over whatever network it is on."""
        with opened(self.site.home / "hub.sqlite") as store:
            pin = Authority.load(self.site.home / "pki").fingerprint
            port = self.site.ports["enrolment"]
            token = mint(store, SystemClock(), name=EDGE, host=HOST, port=port, pin=pin)
        self.machine.do(*PRODUCT, "edge", "join", token, "--home", f"/root/{EDGE}", within_s=180)


@pytest.fixture(scope="session")
def ward(tmp_path_factory):
    """The machine with its networks and a hub; the tests are skipped unless `make test-wifi` asks for them."""
    if not os.environ.get("WARDROUND_WIFI"):
        pytest.skip("simulated radios in a virtual machine take minutes: make test-wifi")
    if why := why_not():
        pytest.exit(f"the virtual machine cannot run here: {why}", returncode=1)
    made = subprocess.run(
        [Path(__file__).with_name("make-image")], stdout=subprocess.PIPE, text=True, check=False, timeout=IMAGE_S
    )
    assert made.returncode == 0, "the machine's disk could not be made; its reason is above"
    folder = tmp_path_factory.mktemp("ward")
    site, machine = Site(folder / "site"), Machine(folder / "machine")
    try:
        machine.start(Path(made.stdout.strip()))
        for command in (
            "ip netns add ap",
            "iw phy phy0 set netns name ap",
            "ip link set eth0 netns ap",
            "ip -n ap link add br0 type bridge",
            "ip -n ap link set eth0 master br0",
            "ip -n ap link set lo up",
            "ip -n ap link set eth0 up",
            "ip -n ap link set br0 up",
            "ip link set hwsim0 up",
        ):
            machine.do(*command.split())
        site.start_hub()
        yield Ward(site, machine)
    finally:
        machine.stop()
        site.stop()


@pytest.fixture(scope="session")
def open_air(ward) -> Air:
    """The control: the edge joins its hub and sends the marker over a network without protection. What was in the air."""
    with ward.access_point(OPEN_AP), ward.on_the_network(OPEN_STATION), ward.listening("open") as air:
        assert ward.ping() > 0
        ward.join_hub()
    return Air.of(air)


@pytest.fixture(scope="session")
def joined(ward, open_air) -> str:
    """Where the edge's identity lies in the machine, and the access point's files with it."""
    ward.wardround("wifi", "server", "--home", str(ward.site.home), "--out", str(ward.shared / "ap"))
    return f"/root/{EDGE}/identity"
