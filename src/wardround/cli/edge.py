"""`wardround edge`: join a hub, register patients and devices, run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer

from wardround.cli.relay_tree import tree
from wardround.errors import SettingsError
from wardround.records import Consent
from wardround.trust.enrolment import join_hub

app = typer.Typer(no_args_is_help=True, help="An edge gateway: join a hub, register devices, run.")
app.command()(tree)
DEFAULT_HOME = Path.home() / ".wardround" / "edge"
Home = Annotated[Path, typer.Option(help="The edge's folder.")]


@app.command()
def join(
    token: Annotated[str, typer.Argument(help="As `wardround hub invite NAME` printed it.")],
    home: Home = DEFAULT_HOME,
    host: Annotated[list[str] | None, typer.Option(help="A name or address under which devices reach this edge.")] = None,
    mqtt_port: Annotated[int, typer.Option(help="Where devices connect, with TLS.")] = 8883,
) -> None:
    """Join a hub with a one-time token: the key is made here and never leaves."""
    settings_path = home / "edge.toml"
    hosts = host or []
    joined = join_hub(token, home, listener_hosts=[*hosts, "127.0.0.1", "localhost"])
    settings_path.write_text(
        f"name = {json.dumps(joined.name)}\nhub_host = {json.dumps(joined.hub_host)}\nhub_port = {joined.hub_port}\n"
        f"simulated = {str(joined.simulated).lower()}\n\n[mqtt]\n"
        f"host = {json.dumps(hosts[0] if hosts else '127.0.0.1')}\nport = {mqtt_port}\n"
    )
    typer.echo(f"This edge is {joined.name} of {joined.site}. Next: wardround edge device DEVICE --patient ID --consent raw")


@app.command()
def device(
    name: Annotated[str, typer.Argument(help="The device's name: it signs in with it.")],
    patient: Annotated[str, typer.Option(help="Whose it is; stays on this edge.")],
    consent: Annotated[Consent | None, typer.Option(help="raw: may leave; local: trains here; none: is not kept.")] = None,
    signal: Annotated[str, typer.Option(help="For this signal's code alone; * for all.")] = "*",
    home: Home = DEFAULT_HOME,
) -> None:
    """Register a device and its patient, and what the patient allows. Prints the device's secret, once."""
    from wardround.edge import EdgeHome  # noqa: PLC0415

    opened = EdgeHome.open(home)
    secret = opened.registry().add(name, patient)
    if consent is not None:
        register = opened.consents()
        register.set(opened.pseudonyms().of(patient), signal, consent)
        register.close()
    typer.echo(f"{name}: {secret}")
    typer.echo(f"It connects to port {opened.settings.mqtt.port} with TLS and publishes under wr/dev/{name}/up", err=True)


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
