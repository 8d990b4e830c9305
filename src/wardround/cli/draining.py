"""`wardround edge drain`: an edge gets no more work, and the hub says when it is safe to switch it off."""

from __future__ import annotations

import getpass
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.alert_places import HubAlerts
from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import utc


def drain(
    name: Annotated[str, typer.Argument(help="The edge; none: show those that are drained.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Give it work again.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """At the hub: give an edge no more work, so that it can be switched off, moved or mended.

    A round that it takes part in is waited for, its spool is emptied, and `wardround edge drain` says when it is safe; its
    silence is no alert then. It goes on measuring, and nothing of it is deleted. For example `wardround edge drain icu-a`.
    """
    from wardround.draining import SHOWN, Drained, shown  # noqa: PLC0415

    place = HubAlerts(home)
    if name:
        typer.echo(place.ask("undo" if undo else "drain", {"edge": name}, getpass.getuser(), "drains"))
        return
    found: list[Drained] = shown(place.shown(SHOWN))
    if as_json:
        rows = [
            {"edge": d.edge, "stage": d.stage, "words": d.words, "since": utc(d.since_us).isoformat(), "by": d.who} for d in found
        ]
        typer.echo(json.dumps(rows, indent=1))
        return
    if not found:
        typer.echo("No edge is drained. `wardround edge drain NAME` begins.")
        return
    table = Table("edge", "since, UTC", "by", "how far", box=None, header_style="bold")
    for one in found:
        table.add_row(one.edge, f"{utc(one.since_us):%m-%d %H:%M:%S}", one.who, one.words)
    Console(markup=False).print(table)
