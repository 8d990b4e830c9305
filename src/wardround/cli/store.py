"""`wardround store`: where a hub's records are, moving them into PostgreSQL, and their schema one version back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.errors import SettingsError, WardroundError

app = typer.Typer(
    no_args_is_help=True,
    help="The hub's records (edges, people, studies, rounds, alerts): in hub.sqlite, or in the PostgreSQL that hub.toml names.",
)


@app.command()
def status(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Where the records are, how many there are of each, and their schema. Nothing is changed, nor migrated."""
    from wardround.store.copying import count_records  # noqa: PLC0415 - the hub's libraries take a second
    from wardround.store.opening import newest, open_engine, revision_of, shown  # noqa: PLC0415

    engine = open_engine(home / "hub.sqlite")
    try:
        schema, rows = revision_of(engine), count_records(engine)
        facts = {"where": shown(engine), "schema": schema, "newest": newest(), "records": rows}
    finally:
        engine.dispose()
    if as_json:
        typer.echo(json.dumps(facts))
        return
    behind = "" if schema == facts["newest"] else f" (this program's is {facts['newest']})"
    typer.echo(f"records   {facts['where']}\nschema    {schema or 'none'}{behind}")
    for name, count in rows.items():
        typer.echo(f"{count:>9} {name}")


@app.command()
def copy(
    home: Home = DEFAULT_HOME,
    out: Annotated[Path | None, typer.Option(help="Write them to this SQLite file instead; hub.sqlite is the way back.")] = None,
) -> None:
    """Take hub.sqlite over into the empty database that `store.url` of hub.toml names. The hub is stopped meanwhile.

    The file stays as hub.sqlite.copied, for you to remove once the hub runs. With --out the other way: out of the database into
    a file; put that in the home as hub.sqlite and take `store.url` out of hub.toml, and the hub is back on SQLite.
    """
    from wardround.processing import only_one  # noqa: PLC0415
    from wardround.store.copying import copy_records, take_out  # noqa: PLC0415
    from wardround.store.opening import elsewhere, migrate, open_database, open_engine, shown  # noqa: PLC0415

    file = home / "hub.sqlite"
    if (settings := elsewhere(file)) is None:
        raise SettingsError(
            f"{home / 'hub.toml'} names no database", remedy='add it: [store] url = "postgresql://USER@HOST/DATABASE"'
        )
    with only_one(home):
        if out is not None:
            if out.exists():
                raise SettingsError(f"{out} is there already", remedy="give it another name")
            take_out(file, out)
            typer.echo(f"The records are in {out} as well.")
            return
        if not file.exists():
            raise SettingsError(
                f"there is no {file}", remedy="nothing is to be copied; `wardround store status` shows what is there"
            )
        source, target = open_engine(f"sqlite:///{file}"), open_database(settings, home)
        try:
            migrate(source)
            migrate(target)
            copied = copy_records(source, target)
            where = shown(target)
        finally:
            source.dispose()
            target.dispose()
        file.rename(file.with_name("hub.sqlite.copied"))
        typer.echo(
            f"{sum(copied.values())} records are in {where}. The file stays as hub.sqlite.copied: remove it once the hub runs."
        )


@app.command()
def migrate(
    to: Annotated[str, typer.Option(help="The schema, such as 0006, as `wardround store status` shows it.")],
    home: Home = DEFAULT_HOME,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Bring the schema to a version, forward or back, so that an earlier Wardround opens it. The hub is stopped meanwhile.

    Back, what only the later version knows is removed. Forward it goes by itself when a program opens it.
    """
    from wardround.processing import only_one  # noqa: PLC0415
    from wardround.store.opening import migrate as bring  # noqa: PLC0415
    from wardround.store.opening import open_engine, revision_of, shown  # noqa: PLC0415

    with only_one(home):
        engine = open_engine(home / "hub.sqlite")
        try:
            now = revision_of(engine)
            if (
                to < now
                and not yes
                and not typer.confirm(f"{shown(engine)}: from schema {now} back to {to}, losing what is newer?")
            ):
                raise WardroundError("nothing was changed", remedy="answer y, or give --yes")
            before = bring(engine, to)
        finally:
            engine.dispose()
    typer.echo(f"schema {before or 'none'} -> {to}")
