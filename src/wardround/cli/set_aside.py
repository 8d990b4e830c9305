"""`wardround study quarantine|release|replay`: which edges of a study are set aside and why, and how one counts again."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.cli.models import Name, Why, ask, study_of
from wardround.collect.storage import FolderStorage
from wardround.errors import StudyError
from wardround.learn.journal import Journal

Edge = Annotated[str, typer.Argument(help="The edge, as `study quarantine` names it.")]


def quarantine(name: Name, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List the edges whose updates weigh nothing now: until which round, and why. They are asked and scored all the while."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        study_of(store, name)
    folder = home / "studies" / name
    aside: list[tuple[str, int, str]] = []
    if (folder / "journal.sqlite").exists():
        journal = Journal(FolderStorage(folder).connect)
        last = journal.last()
        aside = [(e, until, why) for e, until, why in journal.set_aside() if last is None or until > last.number]
        journal.close()
    if as_json:
        typer.echo(json.dumps([{"edge": e, "until_round": until, "reason": why} for e, until, why in aside], indent=2))
        return
    if not aside:
        typer.echo(f"{name}: no edge is set aside.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("edge", "until round", "why"):
        table.add_column(heading)
    for edge, until, why in aside:
        table.add_row(edge, str(until), why)
    Console().print(table)
    typer.echo(f"Let one count again with: wardround study release {name} EDGE")


def release(name: Name, edge: Edge, reason: Why = "", home: Home = DEFAULT_HOME) -> None:
    """Let an edge that is set aside count again, from its next update on."""
    from wardround.store import opened  # noqa: PLC0415

    if not edge:
        raise StudyError("no edge is named", remedy="see `wardround study quarantine`")
    with opened(home / "hub.sqlite") as store:
        study_of(store, name)
        typer.echo(f"{name}: {ask(store, home, name, f'release:{edge}', reason)}")


def replay(
    name: Name,
    edge: Edge,
    round_number: Annotated[int, typer.Argument(metavar="ROUND", help="The round it was set aside in.", min=1)],
    reason: Why = "",
    home: Home = DEFAULT_HOME,
) -> None:
    """Let an update that was set aside count after all: it is checked again and folded into the next round as a late one. Once.

    `study updates` lists what was set aside. Its bytes are kept for triage.aside_rounds rounds, within triage.aside_bytes_max.
    The edge stays in quarantine until it is over or you `release` it.
    """
    from wardround.store import opened  # noqa: PLC0415

    if not edge:
        raise StudyError("no edge is named", remedy="see `wardround study updates`")
    with opened(home / "hub.sqlite") as store:
        study_of(store, name)
        typer.echo(f"{name}: {ask(store, home, name, f'replay:{edge}', reason, round_number)}")


def add_to(app: typer.Typer) -> None:
    """Make them commands of `wardround study`."""
    for command in (quarantine, release, replay):
        app.command()(command)
