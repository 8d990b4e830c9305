"""`wardround edge ble`: Bluetooth health devices near this edge."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.edge_status import DEFAULT_HOME, Home
from wardround.errors import SettingsError

app = typer.Typer(no_args_is_help=True, help="Bluetooth Low Energy: look for health devices, read one. Needs wardround[ble].")
SECRET = "WARDROUND_DEVICE_SECRET"  # noqa: S105 - the name of a variable
AsJson = Annotated[bool, typer.Option("--json", help="Facts instead of a table.")]


@app.command("scan")
def scan_command(
    seconds: Annotated[float, typer.Option(help="How long to listen.", min=1, max=300)] = 10.0, as_json: AsJson = False
) -> None:
    """Devices near this machine that advertise a health service, the nearest first."""
    from wardround.collect.ble import load_bleak, scan  # noqa: PLC0415

    found = asyncio.run(scan(load_bleak(), seconds))
    if as_json:
        typer.echo(json.dumps([asdict(f) for f in found], indent=1))
        return
    if not found:
        typer.echo("No health device advertises itself near here. Some do so only while they are worn, or after a measurement.")
        return
    table = Table("address", "name", "signal, dBm", "services", box=None, header_style="bold")
    for device in found:
        table.add_row(device.address, device.name, str(device.rssi_dbm), ", ".join(device.services))
    Console(markup=False).print(table)


@app.command("read")
def read_command(
    address: Annotated[str, typer.Argument(help="As `scan` shows it.")],
    device: Annotated[str, typer.Option(help=f"Registered with --format gatt; its secret is in the environment: {SECRET}.")] = "",
    seconds: Annotated[float, typer.Option(help="How long to read.", min=1)] = 3_600.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what the device says, and send nothing.")] = False,
    home: Home = DEFAULT_HOME,
) -> None:
    """Read a device's notifications and pass them on to this machine's edge, through its broker, until they are receipted."""
    from wardround.collect.ble import load_bleak, read  # noqa: PLC0415

    bleak = load_bleak()
    publish, close = (_show, lambda: None) if dry_run else _link(device, home)
    try:
        counts = asyncio.run(read(bleak, address, publish, seconds=seconds))
    finally:
        close()
    typer.echo(
        f"{counts.notifications} notifications in {counts.connections} connections, {counts.dropped} dropped for want of room",
        err=True,
    )


def _show(message: bytes) -> None:
    """What a message says, a reading a line."""
    from wardround.collect.devices.decoders import decode  # noqa: PLC0415
    from wardround.collect.devices.gatt import Source  # noqa: PLC0415

    decoded = decode("gatt", message, Source(time.time_ns() // 1_000))
    for reading in decoded.readings:
        facts = {"signal": reading.name, "unit": reading.unit, "t_us": reading.t_us, "samples": reading.samples().tolist()}
        typer.echo(json.dumps(facts))
    for refused in decoded.refused:
        typer.echo(json.dumps({"refused": refused.reason, "why": str(refused)}), err=True)


def _link(device: str, home: Home) -> tuple[Callable[[bytes], None], Callable[[], None]]:
    """How a message is sent, and how the link is closed once all are receipted."""
    from wardround.collect.mqtt_link import DeviceLink  # noqa: PLC0415
    from wardround.edge import EdgeHome  # noqa: PLC0415

    secret = os.environ.get(SECRET, "")
    if not device or not secret:
        raise SettingsError(
            "which device this is, or its secret, is not said",
            remedy=f"register it with `wardround edge device NAME --format gatt`, then give --device NAME and {SECRET}",
        )
    opened = EdgeHome.open(home)
    known = opened.registry().get(device)
    if known is None or known.format != "gatt":
        raise SettingsError(
            f"device {device!r} is not registered to send gatt", remedy="`wardround edge device NAME --patient ID --format gatt`"
        )
    mqtt = opened.settings.mqtt
    link = DeviceLink(
        device,
        secret,
        boot=f"ble-{secrets.token_hex(6)}",
        host=mqtt.host,
        port=mqtt.port,
        authority=home / "identity" / "ca.pem",
        on_receipted=lambda _seqs: None,
    )

    def publish(message: bytes) -> None:
        link.publish(message, timeout_s=60.0)

    def close() -> None:
        if not link.drain(30.0):
            typer.echo(f"{link.unreceipted} messages were not receipted, and are lost", err=True)
        link.close()

    return publish, close
