"""Encrypted Wi-Fi as it is in the air: WPA3-Enterprise with the product's profiles and the edge's own certificate.

The radios are simulated (mac80211_hwsim), everything above them is real: Linux's 802.11 stack and its ciphers, hostapd,
wpa_supplicant, NetworkManager, and a hub on the wire behind the access point.
"""

from __future__ import annotations

import shutil
import time

import pytest
from tests.wifi.air import EAPOL, Air
from tests.wifi.conftest import ACCESS_POINT, EDGE, FAILED, HOST, JOINED, MARKER, PRODUCT, UNTRUSTED

from motion import recording
from wardround.records import Consent
from wardround.trust.certificates import HUB_NAME, Authority, key_pem, new_key, write_private

STATION = "02:00:00:00:01:00"
pytestmark = pytest.mark.timeout(600)


def test_an_open_network_shows_what_is_sent(open_air):
    """The control of every test below: this capture finds plain text where there is some."""
    frames = open_air.data_frames()
    assert not any(frame.protected for frame in frames)
    assert open_air.count(MARKER) >= 10
    assert open_air.count(HUB_NAME.encode()) > 0  # TLS says whom it calls before it is encrypted


def test_an_edge_joins_with_its_own_certificate_and_nothing_is_readable(ward, joined):
    with (
        ward.access_point(ward.ap_profile()) as ap,
        ward.listening("enterprise") as path,
        ward.on_the_network(ward.station_profile(joined)),
    ):
        assert ward.ping() > 0
        known = ward.machine.do(*ACCESS_POINT, "hostapd_cli", "all_sta")
    assert "AKMSuiteSelector=00-0f-ac-5" in known  # EAP with SHA-256
    assert "[MFP]" in known  # management frames are protected as well
    assert "dot11RSNAStatsSelectedPairwiseCipher=00-0f-ac-4" in known  # CCMP
    assert f"/CN={EDGE}" in ap.said()
    air = Air.of(path)
    assert air.count(MARKER) == 0
    frames = air.data_frames()
    assert {frame.protocol for frame in frames} == {None, EAPOL}
    assert sum(frame.protected for frame in frames if frame.sender == STATION) >= 10


STUDY = """\
name = "by-air"
task = "activity"
[rounds]
count = 2
edges_min = 1
examples_min = 5
deadline_s = 300.0
[score]
held_back = 0.0
"""
ROUNDS_S = 400.0


@pytest.fixture
def with_recordings(ward, joined):
    """The edge has something to learn from; put into its home here, where that takes a second."""
    (ward.site.folder / EDGE).symlink_to(ward.shared / EDGE)
    ward.machine.do("cp", "-a", f"/root/{EDGE}", "/shared/")
    ward.site.keep(EDGE, recording("p-1", EDGE, 1), Consent.LOCAL)
    ward.machine.do("sh", "-ec", f"rm -r /root/{EDGE}; cp -a /shared/{EDGE} /root/")
    settings = f'name = "{EDGE}"\nhub_host = "{HOST}"\nhub_port = {ward.site.ports["grpc"]}\n'
    (ward.shared / "edge.toml").write_text(settings)
    ward.machine.do("cp", "/shared/edge.toml", f"/root/{EDGE}/edge.toml")


def test_rounds_are_trained_over_that_network_and_the_air_shows_none_of_it(ward, joined, with_recordings, tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    with (
        ward.access_point(ward.ap_profile()),
        ward.on_the_network(ward.station_profile(joined)),
        ward.listening("round") as path,
    ):
        edge = ward.machine.start_program("edge.log", *PRODUCT, "edge", "run", "--home", f"/root/{EDGE}")
        try:
            edge.wait_for("edge runs", within_s=180)
            ward.wardround("study", "start", str(tmp_path / "study.toml"), "--home", str(ward.site.home))
            store = ward.site.store()
            until = time.monotonic() + ROUNDS_S
            while (study := store.studies()[0]).state != "finished":
                assert study.state != "failed", study
                assert time.monotonic() < until, (study, ward.site.hub.tail(30), edge.said()[-4000:])
                time.sleep(0.5)
            rounds = store.rounds("by-air")
            store.close()
        finally:
            edge.stop()
    assert len(rounds) >= 2
    print(f"\nrounds over simulated Wi-Fi, the first one for scaling: {', '.join(f'{r.seconds:.1f} s' for r in rounds)}")
    air = Air.of(path)
    assert air.count(HUB_NAME.encode()) == 0
    frames = air.data_frames()
    assert {frame.protocol for frame in frames} == {None}
    updates = sum(len(frame.body) for frame in frames if frame.sender == STATION)
    assert updates > 10_000, "the rounds went another way"


@pytest.fixture
def network_manager(ward):
    """NetworkManager with its message bus and udev, as a machine of Debian runs them."""
    machine = ward.machine
    started = [
        machine.start_program("bus.log", "dbus-daemon", "--system", "--nofork", "--nopidfile"),
        machine.start_program("udev.log", "/lib/systemd/systemd-udevd"),
    ]
    try:
        machine.do("udevadm", "trigger", "--settle", within_s=60)
        started.append(machine.start_program("supplicant.log", "wpa_supplicant", "-u", "-dd"))
        started.append(machine.start_program("manager.log", "NetworkManager", "--no-daemon", "--log-level=INFO"))
        machine.do("sh", "-c", "for _ in $(seq 60); do nmcli general status && exit 0; sleep 0.5; done; exit 1", within_s=90)
        yield started[-1]
    finally:
        for program in reversed(started):
            program.stop()


def test_network_manager_joins_with_its_profile(ward, joined, network_manager):
    place = f"/etc/NetworkManager/system-connections/wardround-{EDGE}.nmconnection"
    (ward.shared / "keyfile").write_text(ward.profile(EDGE, "--format", "networkmanager", folder=joined))
    with ward.access_point(ward.ap_profile()) as ap, ward.listening("by-manager") as path:
        ward.machine.do("install", "-m", "600", "/shared/keyfile", place)
        ward.machine.do("nmcli", "connection", "load", place)
        done = ward.machine.run("nmcli", "--wait", "90", "connection", "up", f"wardround-{EDGE}", within_s=100)
        assert done.code == 0, (done, network_manager.said()[-4000:])
        assert "10.66.0." in ward.machine.do("ip", "-4", "addr", "show", "dev", "wlan1")  # of the wire's DHCP, through the air
        assert ward.ping() > 0
        assert f"/CN={EDGE}" in ap.said()
        ward.machine.do("nmcli", "connection", "down", f"wardround-{EDGE}")
        ward.machine.do("rm", place)
    assert Air.of(path).count(MARKER) == 0
    assert {frame.protocol for frame in Air.of(path).data_frames()} == {None, EAPOL}


def test_a_network_of_another_authority_is_shown_no_certificate(ward, joined):
    stranger, key = Authority.in_memory("stranger"), new_key()
    shutil.copytree(ward.shared / "ap", ward.shared / "rogue", dirs_exist_ok=True)
    write_private(ward.shared / "rogue" / "server.key", key_pem(key))
    write_private(ward.shared / "rogue" / "server.pem", stranger.issue_radius(key.public_key(), 1.0), 0o644)
    with ward.access_point(ward.ap_profile("/shared/rogue")) as ap, ward.station(ward.station_profile(joined)) as station:
        assert station.wait_for(JOINED, UNTRUSTED, within_s=90) == UNTRUSTED
        station.wait_for(FAILED, within_s=30)
        assert JOINED not in station.said()
        assert f"/CN={EDGE}" not in ap.said()


def test_a_station_that_does_not_protect_management_frames_is_not_admitted(ward, joined):
    weaker = ward.station_profile(joined).replace("WPA-EAP-SHA256", "WPA-EAP").replace("ieee80211w=2", "ieee80211w=0")
    with ward.access_point(ward.ap_profile()), ward.station(weaker) as station:
        station.wait_for("key mgmt mismatch", JOINED, within_s=90)
        assert JOINED not in station.said()


def test_a_revoked_edge_is_put_out_and_does_not_come_back(ward, joined):
    """Last of those that need the edge: it is revoked for good."""
    with ward.access_point(ward.ap_profile()) as ap:
        with ward.on_the_network(ward.station_profile(joined)) as station:
            assert ward.ping() > 0
            ward.wardround("hub", "revoke", EDGE, "--home", str(ward.site.home))
            ward.wardround("wifi", "crl", "--home", str(ward.site.home), "--out", str(ward.shared / "ap"))
            assert ward.ping() > 0  # a list alone ends no open session
            before = station.said().count(JOINED)
            ward.machine.do(*ACCESS_POINT, "hostapd_cli", "deauthenticate", STATION)
            assert station.wait_for(FAILED, within_s=90) == FAILED
            assert station.said().count(JOINED) == before
        assert "certificate revoked" in ap.said()
