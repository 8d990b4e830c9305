"""`wardround response`: what Wardround has done about alerts by itself, how long it holds, how to undo it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.alert import ask
from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import utc
from wardround.errors import WardroundError

if TYPE_CHECKING:
    from pathlib import Path

    from wardround.watch.respond import Entry

TOPIC = "responses"
HELP = """What Wardround does about alerts by itself: quarantine, rollback, retrain, recalibrate, pause.

Each study says in \\[respond] of its study.toml which of these it wants, for which kinds of alerts, and how often at most.
The mode of each is [b]off[/b], [b]dry-run[/b] (the alert says what would be done; the default) or [b]act[/b]."""
app = typer.Typer(no_args_is_help=True, help=HELP)
Id = Annotated[str, typer.Argument(metavar="ID", help="The response, as `response list` names it: R-0003.")]


@app.command("list")
def list_responses(
    study: Annotated[str, typer.Option(help="Of this study alone.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="Also what is over, undone or was a dry run.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """List responses, newest first: what was done, about which alert, how long it holds, how it is undone."""
    from wardround.watch.respond import HOLDS  # noqa: PLC0415
    from wardround.watch.response_words import until, what  # noqa: PLC0415

    entries = [e for e in _entries(home) if study in ("", e.study) and (everything or e.state in HOLDS)]
    if as_json:
        typer.echo(json.dumps([_facts(e) for e in entries], indent=2))
        return
    if not entries:
        more = "" if everything else " What is over: --all."
        typer.echo(f"Nothing that Wardround has done by itself holds now.{more}")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "alert", "kind", "what", "holds", "since", "state"):
        table.add_column(heading)
    for entry in entries:
        since = f"{utc(entry.made_us):%d %b %H:%M:%S} UTC"
        table.add_row(entry.response_id, entry.alert_id, entry.kind, what(entry), until(entry), since, _standing(entry))
    Console().print(table)
    if any(e.undoable for e in entries):
        typer.echo("Undo one with: wardround response undo ID --reason WHY")


@app.command()
def show(response: Id, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show one response whole: what, why, what came of it, who ended it."""
    from wardround.watch.response_words import until, what  # noqa: PLC0415

    entry = next((e for e in _entries(home) if e.response_id == response), None)
    if entry is None:
        raise WardroundError(f"there is no response {response[:20]!r}", remedy="`wardround response list --all` names them")
    if as_json:
        typer.echo(json.dumps(_facts(entry), indent=2))
        return
    typer.echo(f"{entry.response_id}  {what(entry)}")
    rows = [
        ("state", _standing(entry)),
        ("why", f"{entry.kind}, alert {entry.alert_id} (wardround alert show {entry.alert_id})"),
        ("when", f"{utc(entry.made_us):%Y-%m-%d %H:%M:%S} UTC, before round {entry.made_round} of {entry.study}"),
        ("holds", until(entry)),
        ("came of it", entry.answer),
        ("undo", f"wardround response undo {entry.response_id}" if entry.undoable else ""),
    ]
    for name, text in rows:
        if text:
            typer.echo(f"  {name:11}{text}")


@app.command()
def undo(
    response: Id,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the alert.")] = "",
    home: Home = DEFAULT_HOME,
) -> None:
    """Undo a response: the edge counts again, the study goes on from the newer model, rounds go on.

    It is not done again for the same edge or study while its limit looks back (limit_rounds and limit_hours).
    """
    typer.echo(ask(home, "undo", {"response": response, "reason": reason}, TOPIC))


@app.command("dry-run")
def dry_run(
    kind: Annotated[str, typer.Argument(help="A kind of alert: edge-loss, model-diverged; docs/runbooks.md has them all.")],
    study: Annotated[str, typer.Option(help="The study.")],
    edge: Annotated[str, typer.Option(help="The edge that the alert is about.")] = "",
    home: Home = DEFAULT_HOME,
) -> None:
    """Ask the running hub what it would do now about an alert of a kind, and what a limit would forbid. Nothing is done.

    \b
    wardround response dry-run edge-loss --study activity --edge icu-a
    """
    typer.echo(ask(home, "dry-run", {"kind": kind, "study": study, "edge": edge}, TOPIC))


def _entries(home: Path) -> list[Entry]:
    from wardround.store import opened  # noqa: PLC0415
    from wardround.watch.respond import entries_of  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        return entries_of(store.load_state("response-book") or b"")


def _facts(entry: Entry) -> dict[str, object]:
    from wardround.watch.response_words import until, what  # noqa: PLC0415

    facts: dict[str, object] = msgspec.to_builtins(entry)
    return facts | {"what": what(entry), "holds": until(entry), "undoable": entry.undoable}


def _standing(entry: Entry) -> str:
    by = f" by {entry.ended_by}" if entry.ended_by else ""
    why = f": {entry.ended_why}" if entry.ended_why else ""
    return f"{entry.state.value}{by}{why}"
