"""Encrypted Wi-Fi with the edge's own certificate: WPA3-Enterprise, EAP-TLS 1.3, profiles for both ends.

Pure functions from names to the text of a configuration. An SSID may be any 1 to 32 bytes: it is written in hexadecimal or as
numbers, so that no quote or line end in it becomes a line of the file. Paths and interface names that cannot be written plainly
are refused. The network is verified by the name `radius.wardround.internal`, which only the hub's authority gives, and the edge
shows its certificate to nobody else.

Source: the options are those of hostapd and wpa_supplicant 2.10, NetworkManager 1.42 and FreeRADIUS 3.2, as tests run them.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from wardround.errors import TrustError
from wardround.trust.certificates import RADIUS_NAME
from wardround.trust.names import check_name

Medium = Literal["wifi", "wired", "radius"]
_PATH = re.compile(r"/[A-Za-z0-9_./@+-]*")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_COUNTRY = re.compile(r"[A-Z]{2}")
_NO_OLD_TLS = "tls_disable_tlsv1_0=1 tls_disable_tlsv1_1=1 tls_disable_tlsv1_3=0"


def check_ssid(ssid: bytes) -> bytes:
    """Return the network's name.

    Raises:
        TrustError: it is not 1 to 32 bytes.
    """
    if not 1 <= len(ssid) <= 32:
        raise TrustError(f"a network's name of {len(ssid)} bytes is not allowed", remedy="use 1 to 32 bytes")
    return ssid


def check_folder(folder: str) -> PurePosixPath:
    """Return the folder.

    Raises:
        TrustError: it is not an absolute path of plain characters.
    """
    if not _PATH.fullmatch(folder) or ".." in folder.split("/"):
        raise TrustError(
            f"the folder {folder[:80]!r} cannot be written into a profile",
            remedy="use an absolute path of letters, digits and / . _ - + @",
        )
    return PurePosixPath(folder)


def check_address(address: str) -> str:
    """Return the address, or the network in CIDR form.

    Raises:
        TrustError: it is none.
    """
    try:
        ipaddress.ip_network(address, strict=False)
    except ValueError as exc:
        raise TrustError(
            f"{address[:60]!r} is no address", remedy="give one such as 10.0.0.2, or a network as 10.0.0.0/24"
        ) from exc
    return address


@dataclass(frozen=True, slots=True)
class Station:
    """An edge that joins the network; `folder` holds its identity (edge.key, edge.pem, ca.pem) on the machine itself."""

    edge: str
    ssid: bytes
    folder: str

    def __post_init__(self) -> None:
        check_name(self.edge, what="edge name")
        check_ssid(self.ssid)
        check_folder(self.folder)


@dataclass(frozen=True, slots=True)
class AccessPoint:
    """Who admits edges; `folder` is what `wardround wifi server` has made."""

    ssid: bytes
    folder: str
    interface: str = "wlan0"
    country: str = "AT"
    channel: int = 1
    radius_port: int = 1812
    bridge: str = ""  # the bridge to the wire behind it; none: the access point's machine routes

    def __post_init__(self) -> None:
        check_ssid(self.ssid)
        check_folder(self.folder)
        for name in filter(None, (self.interface or "?", self.bridge)):
            if not _INTERFACE.fullmatch(name):
                raise TrustError(f"interface {name[:40]!r} is not one", remedy="give a name such as wlan0")
        if not _COUNTRY.fullmatch(self.country):
            raise TrustError(f"country {self.country[:40]!r} is not one", remedy="give two capital letters, such as AT")
        if not 1 <= self.channel <= 233 or not 1 <= self.radius_port <= 65_535:
            raise TrustError("channel or port is out of range", remedy="channels are 1 to 233, ports 1 to 65535")


def wpa_supplicant(station: Station, medium: Medium = "wifi") -> str:
    """The edge's side as a `wpa_supplicant.conf`; on a wire it is 802.1X without a radio."""
    at = check_folder(station.folder)
    over = {
        "wifi": [f"ssid={station.ssid.hex()}", "key_mgmt=WPA-EAP-SHA256", "ieee80211w=2", "proto=RSN", "pairwise=CCMP"],
        "wired": ["key_mgmt=IEEE8021X", "eapol_flags=0"],
    }
    if medium not in over:
        raise TrustError("a station joins over wifi or wired", remedy="choose one of them")
    lines = [
        *over[medium],
        "eap=TLS",
        f'identity="{station.edge}"',
        f'ca_cert="{at / "ca.pem"}"',
        f'client_cert="{at / "edge.pem"}"',
        f'private_key="{at / "edge.key"}"',
        f'domain_match="{RADIUS_NAME}"',
        f'phase1="{_NO_OLD_TLS}"',
    ]
    head = "ap_scan=0\n" if medium == "wired" else ""
    return head + "network={\n" + "".join(f"    {line}\n" for line in lines) + "}\n"


def network_manager(station: Station) -> str:
    """The edge's side as a NetworkManager keyfile (mode 0600, under /etc/NetworkManager/system-connections)."""
    at = check_folder(station.folder)
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"wardround:{station.edge}:{station.ssid.hex()}")
    return f"""\
[connection]
id=wardround-{station.edge}
uuid={name}
type=wifi

[wifi]
mode=infrastructure
ssid={"".join(f"{byte};" for byte in station.ssid)}

[wifi-security]
key-mgmt=wpa-eap
pairwise=ccmp;
pmf=3
proto=rsn;

[802-1x]
ca-cert={at / "ca.pem"}
client-cert={at / "edge.pem"}
domain-match={RADIUS_NAME}
eap=tls;
identity={station.edge}
phase1-auth-flags=259
private-key={at / "edge.key"}
private-key-password-flags=4

[ipv4]
method=auto

[ipv6]
addr-gen-mode=default
method=auto
"""


def hostapd(ap: AccessPoint, medium: Medium = "wifi") -> str:
    """The network's side as a `hostapd.conf` with hostapd's own EAP server.

    `medium`: an access point, a wired port, or (`radius`) a RADIUS server for other access points. hostapd reads the CRL again
    within seconds; it ends no session that is open: `hostapd_cli deauthenticate` does.
    """
    at = check_folder(ap.folder)
    radio = [
        f"interface={ap.interface}",
        "driver=nl80211",
        "ctrl_interface=/run/hostapd",  # without it `hostapd_cli deauthenticate` reaches nobody, and a revoked edge stays
        f"ssid2={ap.ssid.hex()}",
        f"country_code={ap.country}",
        "hw_mode=g" if ap.channel <= 14 else "hw_mode=a",
        f"channel={ap.channel}",
        "ieee80211n=1",
        "wmm_enabled=1",
        "wpa=2",
        "wpa_key_mgmt=WPA-EAP-SHA256",
        "rsn_pairwise=CCMP",
        "group_mgmt_cipher=AES-128-CMAC",
        "ieee80211w=2",
        "disable_pmksa_caching=1",
        "ap_isolate=1",
        "eap_reauth_period=3600",
    ]
    if ap.bridge:
        radio.append(f"bridge={ap.bridge}")
    wire = [f"interface={ap.interface}", "driver=wired", "use_pae_group_addr=1", "eap_reauth_period=3600"]
    server = ["driver=none", f"radius_server_clients={at / 'radius_clients'}", f"radius_server_auth_port={ap.radius_port}"]
    lines = [
        *{"wifi": radio, "wired": wire, "radius": server}[medium],
        "ieee8021x=1",
        "eap_server=1",
        f"eap_user_file={at / 'eap_user'}",
        f"ca_cert={at / 'ca_crl.pem'}",
        f"server_cert={at / 'server.pem'}",
        f"private_key={at / 'server.key'}",
        "check_crl=1",
        "check_crl_strict=0",  # a list that has not come for a day must not lock every edge out
        "crl_reload_interval=3",
        "tls_flags=[ENABLE-TLSv1.3][DISABLE-TLSv1.0][DISABLE-TLSv1.1]",
    ]
    return "".join(f"{line}\n" for line in lines)


ALLOWED = """\
#!/bin/sh
# Exit 0: this serial may come in. A list that is missing lets nobody in.
[ -r "$1" ] || exit 1
grep -qxiF -- "$2" "$1" && exit 1
exit 0
"""


def freeradius(ap: AccessPoint, *, host: str = "127.0.0.1") -> str:
    """The network's side as a `radiusd.conf` for FreeRADIUS 3.2 alone: EAP-TLS and nothing else.

    Unlike hostapd it holds the identity that is claimed against the certificate's name. It asks the list of revoked serials at
    every authentication, as it reads CRLs at its start alone.
    """
    at = check_folder(ap.folder)
    check_address(host)
    return f"""\
prefix = /usr
localstatedir = {at}/state
logdir = {at}/state
run_dir = {at}/state
db_dir = {at}/state
libdir = /usr/lib/freeradius
pidfile = {at}/state/radiusd.pid
name = radiusd
max_request_time = 10
cleanup_delay = 2
max_requests = 1024
hostname_lookups = no
log {{
  destination = stdout
  auth = yes
}}
security {{
  allow_core_dumps = no
  max_attributes = 200
  reject_delay = 1
  status_server = no
}}
thread pool {{
  start_servers = 1
  max_servers = 4
  min_spare_servers = 1
  max_spare_servers = 3
  max_requests_per_server = 0
}}
$INCLUDE {at}/clients.conf
modules {{
  exec serial_allowed {{
    wait = yes
    program = "/bin/sh {at}/allowed {at}/denylist %{{TLS-Client-Cert-Serial}}"
    shell_escape = yes
    timeout = 2
  }}
  eap {{
    default_eap_type = tls
    timer_expire = 60
    ignore_unknown_eap_types = no
    max_sessions = 1024
    tls-config wardround {{
      private_key_file = {at}/server.key
      certificate_file = {at}/server.pem
      ca_file = {at}/ca.pem
      auto_chain = no
      check_crl = no
      check_cert_cn = %{{User-Name}}
      tls_min_version = "1.2"
      tls_max_version = "1.3"
      cipher_list = "ECDHE+AESGCM:ECDHE+CHACHA20"
      ecdh_curve = ""
      cache {{
        enable = no
      }}
    }}
    tls {{
      tls = wardround
      virtual_server = check-eap-tls
    }}
  }}
}}
server wardround {{
  listen {{
    type = auth
    ipaddr = {host}
    port = {ap.radius_port}
  }}
  authorize {{
    eap
  }}
  authenticate {{
    eap
  }}
  post-auth {{
  }}
}}
server check-eap-tls {{
  authorize {{
    serial_allowed
    update config {{
      &Auth-Type := Accept
    }}
  }}
}}
"""


def denylist(serials: list[str]) -> str:
    """Revoked serials, one a line, as FreeRADIUS names them: hexadecimal, two digits a byte."""
    return "".join(f"{serial.zfill(len(serial) + len(serial) % 2)}\n" for serial in sorted(serials))
