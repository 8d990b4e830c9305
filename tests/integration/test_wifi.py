"""EAP-TLS and 802.1X with the programs themselves: hostapd, FreeRADIUS, eapol_test and wpa_supplicant run the product's profiles.

An edge's one certificate opens the network; one that is revoked, expired, of another authority or not an edge's does not, and an
edge shows nothing to a network that it cannot verify.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time

import pytest

from wardround.trust import wifi
from wardround.trust.certificates import Authority, describe, key_pem, new_key, write_private

PROGRAMS = {
    "hostapd": "hostapd",
    "eapol_test": "eapoltest",
    "freeradius": "freeradius",
    "wpa_supplicant": "wpasupplicant",
    "ip": "iproute2",
}
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def program(name):
    """Where a program is; the test is skipped with what to install where it is not."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed: apt install {PROGRAMS[name]}")
    return found


@pytest.fixture(scope="module")
def command_line():
    from programs_under_test import wardround

    return wardround


@pytest.fixture(scope="module")
def network(tmp_path_factory, command_line):
    """A hub, four edges' identities, and the folder of an access point, made by the product's own commands."""
    folder = tmp_path_factory.mktemp("wifi")
    home = folder / "hub"
    assert command_line("hub", "init", "--home", str(home), "--json").returncode == 0
    authority, stranger = Authority.load(home / "pki"), Authority.in_memory("stranger")
    issuers = {
        "good": lambda key: authority.issue_edge("icu-a", key, 1.0),
        "revoked": lambda key: authority.issue_edge("icu-a", key, 1.0),
        "later": lambda key: authority.issue_edge("icu-a", key, 1.0),  # revoked in the middle of a test
        "expired": lambda key: authority.issue_edge("icu-a", key, -0.5),
        "wrong-authority": lambda key: stranger.issue_edge("icu-a", key, 1.0),
        "a-listeners": lambda key: authority.issue_listener("icu-a", key, ["10.0.0.1"], 1.0),
    }
    for name, issue in issuers.items():
        key = new_key()
        write_private(folder / name / "edge.key", key_pem(key))
        write_private(folder / name / "edge.pem", issue(key.public_key()), 0o644)
        write_private(folder / name / "ca.pem", authority.pem, 0o644)
    note(home, folder / "revoked")
    made = command_line("wifi", "server", "--home", str(home), "--out", str(folder / "ap"))
    assert made.returncode == 0, made.stderr
    shutil.copytree(folder / "ap", folder / "rogue")  # another authority's server under the right name
    key = new_key()
    write_private(folder / "rogue" / "server.key", key_pem(key))
    write_private(folder / "rogue" / "server.pem", stranger.issue_radius(key.public_key(), 1.0), 0o644)
    shutil.copytree(folder / "ap", folder / "misnamed")  # the right authority, but a listener of an edge
    key = new_key()
    write_private(folder / "misnamed" / "server.key", key_pem(key))
    write_private(
        folder / "misnamed" / "server.pem", authority.issue_listener("icu-x", key.public_key(), ["radius.example"], 1.0)
    )
    return folder


def note(home, identity):
    """Have the hub know of a certificate and revoke it."""
    from wardround.store import CertificateRecord, opened

    serial = describe((identity / "edge.pem").read_bytes()).serial
    now_us = time.time_ns() // 1_000
    with opened(home / "hub.sqlite") as store:
        store.joined(CertificateRecord(serial, f"edge-{identity.name}", now_us, now_us + 3_600_000_000))
        store.revoke_certificate(serial, now_us)


def free_udp_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Running:
    """A program until the end of the test; its output is kept and can be waited for."""

    def __init__(self, arguments, log):
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(arguments, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def wait_for(self, *words, within_s=100.0):
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            said = self.log.read_text(errors="replace")
            for word in words:
                if word in said:
                    return word
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise AssertionError(f"none of {words} was said:\n{self.log.read_text(errors='replace')[-3000:]}")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)


@pytest.fixture
def radius(network, tmp_path):
    """Start a RADIUS server of a kind with the files of a folder; the port it listens on."""
    started = []

    def start(kind, ap="ap"):
        at = wifi.AccessPoint(b"Wardround", str(network / ap), radius_port=free_udp_port())
        config = tmp_path / "radius.conf"
        if kind == "hostapd":
            config.write_text(wifi.hostapd(at, "radius"))
            running = Running([program("hostapd"), "-dd", str(config)], tmp_path / "radius.log")
            running.wait_for("Setup of interface done", "AP-ENABLED")
        else:
            folder = tmp_path / "raddb"
            folder.mkdir(exist_ok=True)
            (folder / "radiusd.conf").write_text(wifi.freeradius(at))
            running = Running([program("freeradius"), "-X", "-d", str(folder)], tmp_path / "radius.log")
            running.wait_for("Ready to process requests")
        started.append(running)
        return at.radius_port, running

    yield start
    for running in started:
        running.stop()


def authenticate(network, identity, port, tmp_path, *, edge="icu-a", ssid=b"Wardround"):
    """Whether eapol_test gets in with the product's profile, and what it said."""
    config = tmp_path / "station.conf"
    config.write_text(wifi.wpa_supplicant(wifi.Station(edge, ssid, str(network / identity))))
    secret = (network / "ap" / "radius_clients").read_text().split()[1]
    done = subprocess.run(
        [program("eapol_test"), "-c", str(config), "-a", "127.0.0.1", "-p", str(port), "-s", secret, "-t", "8"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode == 0 and done.stdout.rstrip().endswith("SUCCESS"), done.stdout


@pytest.mark.parametrize("kind", ["hostapd", "freeradius"])
def test_an_edge_gets_in_and_whoever_should_not_does_not(network, radius, tmp_path, kind):
    port, server = radius(kind)
    got_in = {
        identity: authenticate(network, identity, port, tmp_path)[0]
        for identity in ("good", "revoked", "expired", "wrong-authority", "a-listeners")
    }
    assert got_in == {"good": True, "revoked": False, "expired": False, "wrong-authority": False, "a-listeners": False}, (
        server.log.read_text(errors="replace")[-4000:]
    )


def test_a_network_with_a_hostile_name_is_joined_all_the_same(network, radius, tmp_path):
    port, _ = radius("hostapd")
    for ssid in (b'x"\n  eap=MD5\n', b"\xff" * 32):
        assert authenticate(network, "good", port, tmp_path, ssid=ssid)[0]


@pytest.mark.parametrize("rogue", ["rogue", "misnamed"])
def test_an_edge_refuses_a_network_that_is_not_its_hubs(network, radius, tmp_path, rogue):
    """Another authority's server, and a server under a name that is not the network's: the edge itself ends the handshake."""
    port, server = radius("hostapd", rogue)
    entered, said = authenticate(network, "good", port, tmp_path)
    assert not entered
    assert "CTRL-EVENT-EAP-TLS-CERT-ERROR" in said
    assert "/CN=icu-a" not in server.log.read_text(errors="replace")  # the edge's certificate was not shown


def test_an_edge_shows_its_certificate_to_its_hubs_network(network, radius, tmp_path):
    """The control of the test above: there, the certificate would be seen."""
    port, server = radius("hostapd")
    assert authenticate(network, "good", port, tmp_path)[0]
    assert "/CN=icu-a" in server.log.read_text(errors="replace")


def test_freeradius_holds_the_claimed_name_against_the_certificates(network, radius, tmp_path):
    port, _ = radius("freeradius")
    assert authenticate(network, "good", port, tmp_path, edge="icu-a")[0]
    assert not authenticate(network, "good", port, tmp_path, edge="icu-b")[0]


@pytest.mark.parametrize("kind", ["hostapd", "freeradius"])
def test_a_revocation_reaches_the_network_without_a_restart(network, radius, tmp_path, kind, command_line):
    port, _ = radius(kind)
    identity = f"later-{kind}"
    key, authority = new_key(), Authority.load(network / "hub" / "pki")
    write_private(network / identity / "edge.key", key_pem(key))
    write_private(network / identity / "edge.pem", authority.issue_edge("icu-a", key.public_key(), 1.0), 0o644)
    write_private(network / identity / "ca.pem", authority.pem, 0o644)
    assert authenticate(network, identity, port, tmp_path)[0]
    note(network / "hub", network / identity)
    refreshed = command_line("wifi", "crl", "--home", str(network / "hub"), "--out", str(network / "ap"))
    assert refreshed.returncode == 0, refreshed.stderr
    end = time.monotonic() + (100.0 if kind == "hostapd" else 0.0)  # hostapd looks at its list every three seconds
    while (let_in := authenticate(network, identity, port, tmp_path)[0]) and time.monotonic() < end:
        time.sleep(0.5)
    assert not let_in
    assert authenticate(network, "good", port, tmp_path)[0]


# -- 802.1X over a wire between two network namespaces


@pytest.fixture
def wire(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    ip = program("ip")
    names = [f"wr{os.getpid()}{side}" for side in "ab"]
    made = []
    try:
        for name in names:
            done = subprocess.run([ip, "netns", "add", name], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"network namespaces cannot be made here: {done.stderr.strip()}")
            made.append(name)
        a, b = names
        run = lambda *words: subprocess.run([ip, *words], check=True, capture_output=True)  # noqa: E731
        run("link", "add", "va", "netns", a, "type", "veth", "peer", "name", "vb", "netns", b)
        for name, link in ((a, "va"), (b, "vb")):
            run("-n", name, "link", "set", link, "up")
        yield [ip, "netns", "exec"], a, b
    finally:
        for name in made:
            subprocess.run([ip, "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.parametrize(
    ("identity", "entered"), [("good", True), ("revoked", False), ("expired", False), ("wrong-authority", False)]
)
def test_802_1x_over_a_wire(network, wire, tmp_path, identity, entered):
    within, a, b = wire
    (tmp_path / "ap.conf").write_text(wifi.hostapd(wifi.AccessPoint(b"w", str(network / "ap"), interface="va"), "wired"))
    (tmp_path / "sta.conf").write_text(wifi.wpa_supplicant(wifi.Station("icu-a", b"w", str(network / identity)), "wired"))
    ap = Running([*within, a, program("hostapd"), "-dd", str(tmp_path / "ap.conf")], tmp_path / "ap.log")
    station = None
    try:
        ap.wait_for("AP-ENABLED")
        arguments = [program("wpa_supplicant"), "-dd", "-Dwired", "-ivb", "-c", str(tmp_path / "sta.conf")]
        station = Running([*within, b, *arguments], tmp_path / "sta.log")
        said = station.wait_for("CTRL-EVENT-CONNECTED", "CTRL-EVENT-EAP-FAILURE", within_s=25)
        assert (said == "CTRL-EVENT-CONNECTED") is entered
    finally:
        for running in (station, ap):
            if running is not None:
                running.stop()
