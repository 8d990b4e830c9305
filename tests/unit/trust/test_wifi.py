"""Wi-Fi profiles: whatever a network is called, a profile has the lines it should have and no other."""

from __future__ import annotations

import configparser
import re

import pytest
from cryptography import x509
from hypothesis import example, given, settings
from hypothesis import strategies as st

from wardround.clock import SystemClock, utc
from wardround.errors import TrustError
from wardround.trust import wifi
from wardround.trust.certificates import Authority, describe, new_key
from wardround.trust.wifi import AccessPoint, Station

HOSTILE = [
    b'a"b',
    b'x"\n  key_mgmt=NONE\n#',
    b"x\nopen=1",
    b"\x00",
    b"x\r\nwpa=0",
    b"a;b;=c",
    b"#hidden",
    b"  lead and trail ",
    b"\xff" * 32,
    b"x" * 32,
    b"${evil}",
]


def lines_of(text):
    return [line.split("=", 1)[0].strip() for line in text.splitlines()]


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=32))
@example(HOSTILE[1])
def test_any_network_name_gives_the_same_lines_and_comes_back_whole(ssid):
    plain, hostile = Station("icu-a", b"Wardround", "/etc/w"), Station("icu-a", ssid, "/etc/w")
    text = wifi.wpa_supplicant(hostile)
    assert lines_of(text) == lines_of(wifi.wpa_supplicant(plain))
    assert bytes.fromhex(re.search(r"^\s*ssid=(.*)$", text, re.M).group(1)) == ssid

    keyfile = wifi.network_manager(hostile)
    assert lines_of(keyfile) == lines_of(wifi.network_manager(plain))
    parsed = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parsed.read_string(keyfile)
    assert bytes(int(n) for n in parsed["wifi"]["ssid"].rstrip(";").split(";")) == ssid
    assert parsed["wifi-security"]["key-mgmt"] == "wpa-eap"

    ap = wifi.hostapd(AccessPoint(ssid, "/etc/w"))
    assert lines_of(ap) == lines_of(wifi.hostapd(AccessPoint(b"Wardround", "/etc/w")))
    assert bytes.fromhex(re.search(r"^ssid2=(.*)$", ap, re.M).group(1)) == ssid


@pytest.mark.parametrize("ssid", [b"", b"x" * 33])
def test_a_network_name_of_no_length_or_too_much_is_refused(ssid):
    with pytest.raises(TrustError, match="bytes"):
        Station("icu-a", ssid, "/etc/w")
    with pytest.raises(TrustError, match="bytes"):
        AccessPoint(ssid, "/etc/w")


@pytest.mark.parametrize("folder", ["relative", "/a b", '/a"b', "/a\nwpa=0", "/a/../b", "/a;b", "", "/a$b", "/ä"])
def test_a_folder_that_could_break_out_of_its_line_is_refused(folder):
    for make in (lambda: Station("icu-a", b"w", folder), lambda: AccessPoint(b"w", folder)):
        with pytest.raises(TrustError, match="folder"):
            make()


def test_other_words_that_could_become_lines_are_refused():
    for edge in ("a b", 'a"', "a\nb", "ICU", ""):
        with pytest.raises(TrustError):
            Station(edge, b"w", "/etc/w")
    for bad in (
        {"interface": "wlan0\nwpa=0"},
        {"interface": ""},
        {"bridge": "br0\nwpa=0"},
        {"country": "at"},
        {"channel": 0},
        {"radius_port": 70_000},
    ):
        with pytest.raises(TrustError):
            AccessPoint(b"w", "/etc/w", **bad)
    for address in ("127.0.0.1\n}", "localhost", "", "1.2.3"):
        with pytest.raises(TrustError):
            wifi.freeradius(AccessPoint(b"w", "/etc/w"), host=address)


def test_the_profiles_ask_for_wpa3_and_verify_the_network():
    station = wifi.wpa_supplicant(Station("icu-a", b"w", "/etc/w"))
    for line in ("key_mgmt=WPA-EAP-SHA256", "ieee80211w=2", 'domain_match="radius.wardround.internal"', "tls_disable_tlsv1_3=0"):
        assert line in station
    ap = wifi.hostapd(AccessPoint(b"w", "/etc/w"))
    for line in (
        "wpa_key_mgmt=WPA-EAP-SHA256",
        "ieee80211w=2",
        "check_crl=1",
        "ctrl_interface=/run/hostapd",
        "[ENABLE-TLSv1.3][DISABLE-TLSv1.0]",
    ):
        assert line in ap
    assert "bridge=" not in ap
    assert "bridge=br0\n" in wifi.hostapd(AccessPoint(b"w", "/etc/w", bridge="br0"))
    assert "driver=wired" in wifi.hostapd(AccessPoint(b"w", "/etc/w", interface="eth1"), "wired")
    assert "radius_server_auth_port=1900" in wifi.hostapd(AccessPoint(b"w", "/etc/w", radius_port=1900), "radius")
    assert "check_cert_cn = %{User-Name}" in wifi.freeradius(AccessPoint(b"w", "/etc/w"))


def test_the_revocation_list_names_the_revoked_and_is_the_authoritys(tmp_path):
    authority = Authority.create(tmp_path, "hub")
    serials = [describe(authority.issue_edge("icu-a", new_key().public_key(), 1.0)).serial for _ in range(3)]
    now_us = SystemClock().now_us()
    crl = x509.load_pem_x509_crl(authority.revocation_list([(s, now_us) for s in serials[:2]], now_us=now_us))
    assert crl.is_signature_valid(authority.certificate.public_key())
    assert {f"{entry.serial_number:x}" for entry in crl} == set(serials[:2])
    assert (crl.next_update_utc - utc(now_us)).total_seconds() == pytest.approx(86_400, abs=2)
    assert wifi.denylist(["abc", "12"]) == "12\n0abc\n"
