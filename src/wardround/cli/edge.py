"""`wardround edge`: join a hub, register patients and devices, run."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli import ble, edge_alerts, edge_key
from wardround.cli.completeness import edge_completeness
from wardround.cli.consent import edge_consent
from wardround.cli.draining import drain
from wardround.cli.edge_budget import edge_budget
from wardround.cli.edge_status import DEFAULT_HOME, Home, status
from wardround.cli.files import import_files
from wardround.cli.relay_tree import tree
from wardround.cli.roster import edge_roster
from wardround.collect.devices.decoders import FORMATS
from wardround.collect.quarantine import SetAside
from wardround.errors import SettingsError
from wardround.records import Consent
from wardround.settings import EdgeSettings, load_settings
from wardround.trust.enrolment import hosts_of_listener, join_hub

STDIN = "-"
TOKEN_CHARS_MAX = 2_000
app = typer.Typer(no_args_is_help=True, help="An edge gateway: join a hub, register devices, run.")
app.command()(tree)
app.command()(drain)
app.command("import")(import_files)
app.command()(status)
app.command("budget")(edge_budget)
app.add_typer(ble.app, name="ble")
app.add_typer(edge_alerts.app, name="alerts")
app.add_typer(edge_key.app, name="key")
app.command("completeness")(edge_completeness)
app.command("consent")(edge_consent)
app.command("roster")(edge_roster)
quarantine = typer.Typer(no_args_is_help=True, help="What this edge could not take: look at it, replay it.")
app.add_typer(quarantine, name="quarantine")
devices = typer.Typer(no_args_is_help=True, help="The devices of this edge: see them, shut one out.")
app.add_typer(devices, name="devices")


@app.command()
def join(
    token: Annotated[str, typer.Argument(help="`-`: read what `wardround hub invite NAME` printed from standard input.")] = STDIN,
    home: Home = DEFAULT_HOME,
    host: Annotated[list[str] | None, typer.Option(help="A name or address under which devices reach this edge.")] = None,
    mqtt_port: Annotated[int, typer.Option(help="Where devices connect, with TLS.")] = 8883,
) -> None:
    """Join a hub with a one-time token: the key is made here and never leaves.

    `wardround edge join -` asks for the token, or takes it from a pipe. In the command line (`edge join TOKEN`) it works too, but
    every process of this machine, and the shell's history, can read it there.

    An edge whose certificate has expired or was revoked joins again in its own home: it gets a new key and keeps its data, its
    devices and its settings. It need not be stopped for that.
    """
    if token == STDIN:
        if sys.stdin.isatty():
            typer.echo("Token, as `wardround hub invite NAME` printed it:", err=True)
        token = sys.stdin.readline(TOKEN_CHARS_MAX)
    else:
        typer.echo("Warning: others on this machine can read a token in a command line. Use `wardround edge join -`.", err=True)
    settings_path = home / "edge.toml"
    before = load_settings(settings_path, EdgeSettings) if settings_path.exists() else None
    hosts = host or (hosts_of_listener(home) if before is not None else [])
    joined = join_hub(
        token, home, listener_hosts=[*hosts, "127.0.0.1", "localhost"], name_before=before.name if before is not None else ""
    )
    if before is not None:
        if (joined.hub_host, joined.hub_port) != (before.hub_host, before.hub_port):
            typer.echo(
                f"The hub says that it listens at {joined.hub_host}:{joined.hub_port}; {settings_path} names "
                f"{before.hub_host}:{before.hub_port}. Change hub_host and hub_port there if it has moved.",
                err=True,
            )
        typer.echo(f"This edge is {joined.name} of {joined.site} again. Its data and settings are as they were.")
        return
    settings_path.write_text(
        f"name = {json.dumps(joined.name)}\nhub_host = {json.dumps(joined.hub_host)}\nhub_port = {joined.hub_port}\n"
        f"simulated = {str(joined.simulated).lower()}\n\n[mqtt]\n"
        f"host = {json.dumps(hosts[0] if hosts else '127.0.0.1')}\nport = {mqtt_port}\n"
    )
    typer.echo(f"This edge is {joined.name} of {joined.site}. Next: wardround edge device DEVICE --patient ID --consent raw")


@app.command()
def device(
    name: Annotated[str, typer.Argument(help="The device's name: what it signs in with. Rather its number than a patient's.")],
    patient: Annotated[str, typer.Option(help="Whose it is; stays on this edge.")],
    consent: Annotated[Consent | None, typer.Option(help="raw: may leave; local: trains here; none: is not kept.")] = None,
    signal: Annotated[str, typer.Option(help="For this signal's code alone; * for all.")] = "*",
    payload: Annotated[str, typer.Option("--format", help="What it sends: senml, fhir, gatt (Bluetooth) or ghs.")] = "senml",
    time_zone: Annotated[str, typer.Option(help="Of a clock whose times have no zone, such as Europe/Vienna.")] = "",
    user: Annotated[int | None, typer.Option(help="The patient's number on a device that several people use.")] = None,
    every: Annotated[float, typer.Option(help="Seconds between its values, for completeness; 0: as the code table says.")] = 0.0,
    home: Home = DEFAULT_HOME,
) -> None:
    """Register a device and its patient, and what the patient allows. Prints the device's secret, once."""
    from wardround.edge import EdgeHome  # noqa: PLC0415

    if payload not in FORMATS:
        raise SettingsError(f"format `{payload}` is not known", remedy=f"choose one of: {', '.join(FORMATS)}")
    opened = EdgeHome.open(home)
    secret = opened.registry().add(name, patient, format_=payload, time_zone=time_zone, user=user, every_s=every)
    if consent is not None:
        register = opened.consents()
        register.set(opened.pseudonyms().of(patient), signal, consent)
        register.close()
    typer.echo(f"{name}: {secret}")
    typer.echo(f"It connects to port {opened.settings.mqtt.port} with TLS and publishes under wr/dev/{name}/up", err=True)


@devices.command("list")
def devices_list(home: Home = DEFAULT_HOME, as_json: Annotated[bool, typer.Option("--json", help="Facts.")] = False) -> None:
    """The devices that are registered here. Patients' names stay on this edge: this table shows them."""
    from wardround.edge import EdgeHome  # noqa: PLC0415

    rows = [
        {"device": d.device_id, "patient": d.patient, "format": d.format, "state": "revoked" if d.revoked else "may sign in"}
        for d in sorted(EdgeHome.open(home).registry().all(), key=lambda d: d.device_id)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("device", "patient", "format", "state", box=None, header_style="bold")
    for row in rows:
        table.add_row(*row.values())
    Console(markup=False).print(table)


@devices.command("revoke")
def devices_revoke(name: Annotated[str, typer.Argument(help="The device.")], home: Home = DEFAULT_HOME) -> None:
    """Shut a device out: its open session ends within two seconds, and its secret opens none any more.

    `wardround edge device` with the same name gives it a new secret. What it has sent stays.
    """
    from wardround.edge import EdgeHome  # noqa: PLC0415

    if not EdgeHome.open(home).registry().revoke(name):
        raise SettingsError(f"no device is called {name!r}", remedy="`wardround edge devices list` shows them")
    typer.echo(f"{name} is revoked")


@app.command("map")
def map_name(
    name: Annotated[str, typer.Argument(help="What a device calls it, as it stands in quarantine.")],
    signal: Annotated[str, typer.Argument(help="What it is: a key or code of the code table, such as heart-rate.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Say what a device's own name of a signal means. A running edge takes it up within seconds."""
    from wardround.edge import EdgeHome  # noqa: PLC0415

    EdgeHome.open(home).names().add(name, signal)
    typer.echo(f"{name} is {signal}. What waits under it: wardround edge quarantine replay --reason unknown-code")


@app.command()
def signals(as_json: Annotated[bool, typer.Option("--json", help="Facts instead of a table.")] = False) -> None:
    """The code table: what devices may send, in which unit, within which range."""
    from wardround.collect.signals import load_signals  # noqa: PLC0415

    rows = list(load_signals().rows.values())
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table("key", "what", "code", "also", "unit", "plausible", "status", box=None, header_style="bold")
    for row in rows:
        plausible = "" if row.low is None or row.high is None else f"{row.low:g} to {row.high:g}"
        table.add_row(row.key, row.title, row.code, " ".join(row.also), row.unit, plausible, row.status)
    Console(markup=False).print(table)


@quarantine.command("list")
def quarantine_list(
    home: Home = DEFAULT_HOME,
    reason: Annotated[str, typer.Option(help="Of this reason alone.")] = "",
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1, max=20_000)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Facts instead of a table.")] = False,
) -> None:
    """What devices sent and this edge could not take, with the reason."""
    from wardround.edge import EdgeHome  # noqa: PLC0415

    kept = EdgeHome.open(home).quarantine()
    rows, counts = kept.rows(limit, reason=reason), kept.counts()
    kept.close()
    if as_json:
        typer.echo(json.dumps({"counts": counts, "rows": [_aside(row) for row in rows]}, indent=1))
        return
    if not rows:
        typer.echo("Nothing is set aside.")
        return
    table = Table("no.", "when, UTC", "device", "reason", "what", "", box=None, header_style="bold")
    for row in rows:
        when = datetime.fromtimestamp(row.t_us / 1e6, UTC).strftime("%m-%d %H:%M:%S")
        state = "waits for its replay" if row.asked else "" if row.can_replay else "cannot be replayed"
        table.add_row(str(row.number), when, row.device, row.reason, row.detail[:90], state)
    Console(markup=False).print(table)
    typer.echo("  ".join(f"{count} {name}" for name, count in sorted(counts.items())))


@quarantine.command("show")
def quarantine_show(number: Annotated[int, typer.Argument(help="As `list` numbers it.")], home: Home = DEFAULT_HOME) -> None:
    """One row whole, with the message as it came."""
    from wardround.edge import EdgeHome  # noqa: PLC0415

    kept = EdgeHome.open(home).quarantine()
    row = kept.get(number)
    kept.close()
    if row is None:
        raise SettingsError(f"no row {number} is set aside", remedy="`wardround edge quarantine list` shows the numbers")
    typer.echo(json.dumps(_aside(row) | {"payload": row.payload.decode("utf-8", "backslashreplace")}, indent=1))


@quarantine.command("replay")
def quarantine_replay(
    home: Home = DEFAULT_HOME,
    number: Annotated[int, typer.Option("--number", help="This row alone.", min=0)] = 0,
    reason: Annotated[str, typer.Option(help="Rows of this reason alone.")] = "",
) -> None:
    """Have the edge read again what it set aside, once names are mapped or devices registered. Nothing is taken twice."""
    from wardround.edge import EdgeHome  # noqa: PLC0415

    kept = EdgeHome.open(home).quarantine()
    count = kept.ask(reason=reason, number=number)
    kept.close()
    typer.echo(f"{count} rows are read again by the running edge, or when it starts; `list` shows what is refused again.")


def _aside(row: SetAside) -> dict[str, object]:
    facts = asdict(row)
    del facts["payload"]
    return facts | {"can_replay": row.can_replay}


@app.command()
def run(
    home: Annotated[list[Path] | None, typer.Option(help="The edge's folder; several run in one process.")] = None,
) -> None:
    """Run this edge until it is stopped. What devices were receipted for survives a kill."""
    from wardround.edge import run_edges  # noqa: PLC0415

    homes = home or [DEFAULT_HOME]
    if len({h.resolve() for h in homes}) != len(homes):
        raise SettingsError("the same home is given twice", remedy="give each edge its own folder")
    asyncio.run(run_edges(homes))
