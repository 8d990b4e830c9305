"""`wardround alert`: what is wrong, and what was done about it."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import utc

app = typer.Typer(no_args_is_help=True, help="Alerts: one for each cause, with what was done about it.")


@app.command("list")
def list_alerts(
    home: Home = DEFAULT_HOME,
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """List alerts, newest first. Decision support; not a primary alarm."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        alerts = [a for a in store.alerts() if everything or a.state != "resolved"]
    if as_json:
        typer.echo(json.dumps([dict(a.body) for a in alerts], indent=2))
        return
    if not alerts:
        typer.echo("Nothing is wrong that Wardround knows of.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "priority", "what", "since", "state", "what was done"):
        table.add_column(heading)
    for alert in alerts:
        finding, response = alert.body["finding"], alert.body.get("response") or {}
        table.add_row(
            alert.alert_id,
            finding["priority"],
            finding["title"],
            f"{utc(finding['since_us']):%H:%M:%S} UTC",
            alert.state,
            f"{response.get('what', '')} {response.get('until', '')}".strip(),
        )
    Console().print(table)
