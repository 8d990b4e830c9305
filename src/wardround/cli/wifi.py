"""`wardround wifi`: the edge's own certificate opens the network too."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from wardround.clock import SystemClock
from wardround.errors import SettingsError
from wardround.trust import wifi
from wardround.trust.certificates import Authority, key_pem, new_key, requested_key, write_private

app = typer.Typer(
    no_args_is_help=True,
    help="Encrypted Wi-Fi (WPA3-Enterprise): profiles for edges and access points, and the list of who is shut out.",
)
FORMATS = ("wpa_supplicant", "networkmanager", "hostapd", "freeradius")
HUB_HOME = Path.home() / ".wardround" / "hub"
SERVER_HOURS = 24.0 * 90
HubHome = Annotated[Path, typer.Option("--home", help="The hub's folder.")]


@app.command()
def profile(
    edge: Annotated[str, typer.Argument(help="The edge that joins; an access point's profile is for all of them.")] = "",
    format_: Annotated[str, typer.Option("--format", help=f"One of: {', '.join(FORMATS)}.")] = "wpa_supplicant",
    ssid: Annotated[str, typer.Option(help="The network's name.")] = "Wardround",
    ssid_hex: Annotated[str, typer.Option(help="The same as bytes in hexadecimal, where it is no text.")] = "",
    folder: Annotated[
        str, typer.Option(help="Where the files lie on that machine: an edge's identity, or what `wifi server` made.")
    ] = "",
    medium: Annotated[str, typer.Option(help="wifi; wired (802.1X); for hostapd also radius.")] = "wifi",
    interface: Annotated[str, typer.Option(help="Of an access point.")] = "wlan0",
    country: Annotated[str, typer.Option(help="Of an access point: two letters; its radio's rules follow from it.")] = "AT",
    channel: Annotated[int, typer.Option(help="Of an access point.")] = 1,
    port: Annotated[int, typer.Option(help="Of a RADIUS server.")] = 1812,
    bridge: Annotated[str, typer.Option(help="Of an access point: the bridge to the wire behind it, such as br0.")] = "",
) -> None:
    """Print a profile. It holds no secret, only the places of keys: an edge's are renewed there every day.

    On an edge:        wardround wifi profile icu-a --folder /home/wardround/.wardround/edge/identity

    At access points:  wardround wifi server --out /etc/wardround/wifi, then profile --format hostapd
    """
    if format_ not in FORMATS:
        raise SettingsError(f"format `{format_}` is not known", remedy=f"choose one of: {', '.join(FORMATS)}")
    if medium not in ("wifi", "wired", "radius"):
        raise SettingsError(f"medium `{medium}` is not known", remedy="choose wifi, wired or radius")
    name = _ssid(ssid, ssid_hex)
    if format_ in ("hostapd", "freeradius"):
        ap = wifi.AccessPoint(name, folder or "/etc/wardround/wifi", interface, country, channel, port, bridge)
        typer.echo(wifi.hostapd(ap, medium) if format_ == "hostapd" else wifi.freeradius(ap), nl=False)  # type: ignore[arg-type]  # one of the three
        return
    if not edge:
        raise SettingsError("which edge?", remedy=f"wardround wifi profile EDGE --format {format_}")
    station = wifi.Station(edge, name, folder or str(Path.home() / ".wardround" / "edge" / "identity"))
    text = wifi.network_manager(station) if format_ == "networkmanager" else wifi.wpa_supplicant(station, medium)  # type: ignore[arg-type]  # checked above
    typer.echo(text, nl=False)


@app.command()
def server(
    out: Annotated[Path, typer.Option(help="The folder to make, for /etc/wardround/wifi of the access point.")],
    home: HubHome = HUB_HOME,
    csr: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A request of the access point's own key; none: a key is made."),
    ] = None,
    client: Annotated[str, typer.Option(help="Address of the access point that asks this RADIUS server.")] = "127.0.0.1",
) -> None:
    """Make what an access point or a RADIUS server needs: its certificate (90 days), the authority, the list of who is shut out.

    Run it again before the certificate ends; `wardround wifi crl` refreshes the list, which is good for a day.
    """
    authority = Authority.load(home / "pki")
    wifi.check_address(client)
    if csr is None:
        key = new_key()
        write_private(out / "server.key", key_pem(key))
        public = key.public_key()
    else:
        public = requested_key(csr.read_bytes())
    write_private(out / "server.pem", authority.issue_radius(public, SERVER_HOURS), 0o644)
    write_private(out / "ca.pem", authority.pem, 0o644)
    write_private(out / "eap_user", b"* TLS\n", 0o644)
    write_private(out / "allowed", wifi.ALLOWED.encode(), 0o755)
    if not (out / "clients.conf").exists():  # the secret between access point and RADIUS server stays
        secret = secrets.token_hex(32)
        clients = f"client ap {{\n  ipaddr = {client}\n  secret = {secret}\n  require_message_authenticator = yes\n}}\n"
        write_private(out / "clients.conf", clients.encode())
        write_private(out / "radius_clients", f"{client} {secret}\n".encode())
    (out / "state").mkdir(mode=0o700, exist_ok=True)
    _refresh(home, authority, out)
    typer.echo(f"{out} is ready. The secret of access points is in clients.conf and radius_clients there.")


@app.command()
def crl(
    home: HubHome = HUB_HOME,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="A folder of `wifi server`: its lists are replaced; none: print the CRL.")
    ] = None,
) -> None:
    """The certificates that are shut out, for access points: a CRL that holds for a day, and FreeRADIUS's list of serials.

    Have it run every hour. hostapd takes the new list within seconds; it ends no session that is open, `hostapd_cli
    deauthenticate` does. The hub itself needs none: it cuts a revoked edge off within two seconds.
    """
    authority = Authority.load(home / "pki")
    if out is None:
        typer.echo(_lists(home, authority)[0].decode(), nl=False)
        return
    count = _refresh(home, authority, out)
    typer.echo(f"{count} certificates are shut out; {out} is up to date")


def _lists(home: Path, authority: Authority) -> tuple[bytes, list[str]]:
    from wardround.store import opened  # noqa: PLC0415 - the hub's libraries take a second

    now_us = SystemClock().now_us()
    with opened(home / "hub.sqlite") as store:
        revoked = [(c.serial, c.revoked_us) for c in store.certificates() if c.revoked_us is not None and c.not_after_us > now_us]
    return authority.revocation_list(revoked, now_us=now_us), [serial for serial, _ in revoked]


def _refresh(home: Path, authority: Authority, out: Path) -> int:
    pem, serials = _lists(home, authority)
    write_private(out / "ca_crl.pem", authority.bundle + pem, 0o644)
    write_private(out / "denylist", wifi.denylist(serials).encode(), 0o644)
    return len(serials)


def _ssid(text: str, hexadecimal: str) -> bytes:
    if not hexadecimal:
        return text.encode("utf-8", "surrogateescape")
    try:
        return bytes.fromhex(hexadecimal)
    except ValueError as exc:
        raise SettingsError("--ssid-hex is not hexadecimal", remedy="two digits a byte, such as 57617264") from exc
