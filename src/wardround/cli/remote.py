"""`wardround remote`: a hub elsewhere, over its API, for who has a token and no shell there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, get_args

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import AsJson
from wardround.client import HubClient
from wardround.client.answers import Answer
from wardround.client.calls import StudyActKind
from wardround.errors import SettingsError

app = typer.Typer(
    no_args_is_help=True,
    help=(
        "A hub elsewhere, over its API: what stands there, alerts, studies, edges. `wardround token new` at the hub makes the "
        "token; WARDROUND_HUB, WARDROUND_TOKEN_FILE and WARDROUND_CA may stand for the options."
    ),
)
Hub = Annotated[str, typer.Option("--hub", envvar="WARDROUND_HUB", help="Its console's address: https://HUB:7480.")]
TokenFile = Annotated[Path, typer.Option("--token-file", envvar="WARDROUND_TOKEN_FILE", help="The file that holds the token.")]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca", envvar="WARDROUND_CA", help="The hub's authority (its pki/ca.pem), where this machine does not know it."
    ),
]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the audit log.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="So many at most.")]
STATES = ("open", "resolved", "all")


@app.command()
def status(hub: Hub, token_file: TokenFile, ca: Ca = None, as_json: AsJson = False) -> None:
    """Say how the hub stands: edges, alerts, studies, what waits. For example `wardround remote status --json`."""
    facts = msgspec.to_builtins(HubClient.at(hub, token_file=token_file, ca=ca).hub())
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        typer.echo(f"{name.replace('_', ' '):16}{value}")


@app.command()
def edges(hub: Hub, token_file: TokenFile, ca: Ca = None, limit: Limit = 1_000, as_json: AsJson = False) -> None:
    """List edges: link, what waits there, certificate. For example `wardround remote edges --limit 20`."""
    client = HubClient.at(hub, token_file=token_file, ca=ca)
    _show(
        islice(client.edges(), limit),
        ("name", "state", "spooled", "silent_s", "certificate_ends"),
        "No edge has joined.",
        as_json,
    )


@app.command()
def alerts(
    hub: Hub,
    token_file: TokenFile,
    ca: Ca = None,
    state: Annotated[str, typer.Option(help=f"One of: {', '.join(STATES)}.")] = "open",
    limit: Limit = 500,
    as_json: AsJson = False,
) -> None:
    """List alerts, the newest first. For example `wardround remote alerts --state all`."""
    if state not in STATES:
        raise SettingsError(f"alerts are not {state!r}", remedy=f"choose one of: {', '.join(STATES)}")
    found = HubClient.at(hub, token_file=token_file, ca=ca).alerts(state)  # type: ignore[arg-type]  # it was looked at
    columns = ("id", "priority", "title", "since", "acknowledged_by", "response")
    _show(islice(found, limit), columns, "Nothing is wrong that Wardround knows of.", as_json)


@app.command()
def ack(
    alert: Annotated[str, typer.Argument(help="Its id, as `alerts` shows it.")],
    hub: Hub,
    token_file: TokenFile,
    ca: Ca = None,
    actionable: Annotated[
        bool | None, typer.Option("--actionable/--not-actionable", help="Whether something was to be done.")
    ] = None,
) -> None:
    """Say that you are on it. For example `wardround remote ack A-0007`."""
    typer.echo(HubClient.at(hub, token_file=token_file, ca=ca).acknowledge(alert, actionable=actionable))


@app.command()
def undo(
    alert: Annotated[str, typer.Argument(help="Its id, as `alerts` shows it.")], reason: Reason, hub: Hub, token_file: TokenFile,
    ca: Ca = None,
) -> None:  # fmt: skip
    """Undo what was done by itself. For example `wardround remote undo A-0007 --reason "it was calibrated"`."""
    typer.echo(HubClient.at(hub, token_file=token_file, ca=ca).undo(alert, reason))


@app.command()
def studies(hub: Hub, token_file: TokenFile, ca: Ca = None, as_json: AsJson = False) -> None:
    """List studies: state, rounds. For example `wardround remote studies --json`."""
    found = HubClient.at(hub, token_file=token_file, ca=ca).studies()
    _show(found, ("name", "state", "rounds", "changed", "detail"), "There is no study.", as_json)


@app.command("study")
def act_on_study(
    name: Annotated[str, typer.Argument(help="The study.")],
    act: Annotated[str, typer.Argument(help=f"One of: {', '.join(get_args(StudyActKind))}.")],
    reason: Reason,
    hub: Hub,
    token_file: TokenFile,
    ca: Ca = None,
    to_round: Annotated[int | None, typer.Option(min=0, help="Of rollback and promote: the round whose model it is.")] = None,
    wait_s: Annotated[float, typer.Option(min=0.0, max=3_600.0, help="So long for the hub's answer; 0: do not wait.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Ask something of a study, and wait for the answer.

    \b
    wardround remote study beats pause --reason "power works on the ward"
    wardround remote study beats rollback --to-round 12 --reason "scores fell"
    """
    if act not in get_args(StudyActKind):
        raise SettingsError(f"{act!r} cannot be asked of a study", remedy=f"choose one of: {', '.join(get_args(StudyActKind))}")
    client = HubClient.at(hub, token_file=token_file, ca=ca)
    answer = client.ask(name, act, reason, to_round=to_round)  # type: ignore[arg-type]  # it was looked at
    if wait_s:
        answer = client.wait_for(name, answer.id, deadline_s=wait_s)
    typer.echo(json.dumps(msgspec.to_builtins(answer), indent=1) if as_json else f"{answer.state}: {answer.answer or answer.id}")
    if answer.state == "refused":
        raise typer.Exit(1)


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="The edge's name.")],
    hub: Hub,
    token_file: TokenFile,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """Make a join token for one edge; it is shown once. For example `wardround remote invite icu-a`."""
    made = HubClient.at(hub, token_file=token_file, ca=ca).invite(name)
    if as_json:
        typer.echo(json.dumps({"edge": made.edge, "token": made.token, "seconds": made.seconds}))
        return
    typer.echo(f"{made.token}\n\nFor {made.edge} alone, once, within {made.seconds / 60:.0f} minutes: wardround edge join -")


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The edge.")], hub: Hub, token_file: TokenFile, ca: Ca = None) -> None:
    """Shut an edge out. For example `wardround remote revoke icu-a`."""
    typer.echo(HubClient.at(hub, token_file=token_file, ca=ca).revoke(name))


@app.command()
def drain(
    name: Annotated[str, typer.Argument(help="The edge.")],
    hub: Hub,
    token_file: TokenFile,
    ca: Ca = None,
    undo: Annotated[bool, typer.Option("--undo", help="Give it work again.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Say how far it is, and change nothing.")] = False,
) -> None:
    """Give an edge no more work, so that it can be switched off. For example `wardround remote drain icu-a --show`."""
    client = HubClient.at(hub, token_file=token_file, ca=ca)
    if show:
        typer.echo(client.drained(name).words)
        return
    typer.echo(client.undrain(name) if undo else client.drain(name))


@app.command()
def watch(
    hub: Hub,
    token_file: TokenFile,
    ca: Ca = None,
    count: Annotated[int, typer.Option(min=0, help="End after so many; 0: when it is stopped.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Print alerts and what happens, as it comes; a break is mended. For example `wardround remote watch --json`."""
    shown = 0
    for event in HubClient.at(hub, token_file=token_file, ca=ca).events():
        if event.kind == "hub":
            continue
        facts: dict[str, Any] = msgspec.to_builtins(event.data)
        words = " ".join(str(facts[key]) for key in ("id", "priority", "title", "detail") if facts.get(key))
        typer.echo(json.dumps({"kind": event.kind} | facts) if as_json else f"{event.kind:10}{words}")
        shown += 1
        if shown == count:
            return


def _show(found: Iterable[Answer], columns: tuple[str, ...], none: str, as_json: bool) -> None:
    rows = [msgspec.to_builtins(one) for one in found]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        typer.echo(none)
        return
    table = Table(*(name.replace("_", " ") for name in columns), box=None, header_style="bold")
    for row in rows:
        table.add_row(*(str(row[name]) for name in columns))
    Console(markup=False).print(table)
