"""`wardround user list|add|password|role|remove|reset-factor`: who may sign in to the console."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import utc
from wardround.errors import SettingsError
from wardround.trust.names import check_name
from wardround.trust.roles import Role, parse_role

if TYPE_CHECKING:
    from pathlib import Path

    from wardround.store import Person, Store

app = typer.Typer(
    no_args_is_help=True,
    help="People who sign in to the console, each with a role. Changes hold at once: sessions that stand on the old end.",
)
Name = Annotated[str, typer.Argument(help="The person's name, as they sign in.")]
ROLES = f"One of: {', '.join(Role)}."


@app.command("list")
def list_(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List who may sign in: role, second factor, when they were last here. For example `wardround user list --json`."""
    from wardround.store import opened  # noqa: PLC0415 - the store's libraries take a moment

    with opened(home / "hub.sqlite") as store:
        rows = []
        for person in store.people():
            factor = store.second_factor(person.name)
            has = factor is not None and factor.confirmed_us is not None
            seen = f"{utc(person.seen_us):%Y-%m-%d %H:%M}" if person.seen_us else "never"
            rows.append({"name": person.name, "role": person.role, "second_factor": has, "last_here": seen})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        typer.echo("Nobody may sign in. `wardround user add NAME --role ROLE` adds a person.")
        return
    table = Table("name", "role", "second factor", "last here, UTC", box=None, header_style="bold")
    for row in rows:
        table.add_row(str(row["name"]), str(row["role"]), "on" if row["second_factor"] else "off", str(row["last_here"]))
    Console(markup=False).print(table)


@app.command()
def add(name: Name, role: Annotated[str, typer.Option(help=ROLES)], home: Home = DEFAULT_HOME) -> None:
    """Let someone sign in; the password is shown once. For example `wardround user add ada --role clinician`."""
    from wardround.store import Person, opened  # noqa: PLC0415
    from wardround.trust.passwords import hash_password, new_password  # noqa: PLC0415

    check_name(name, what="name")
    parse_role(role)
    with opened(home / "hub.sqlite") as store:
        if store.person(name) is not None:
            raise SettingsError(
                f"{name} may sign in already", remedy="`wardround user role` and `wardround user password` change it"
            )
        new = new_password()
        store.put_person(Person(name, role, hash_password(new), None))
    typer.echo(f"{name} ({role}): {new}")


@app.command()
def password(name: Name, home: Home = DEFAULT_HOME) -> None:
    """Give someone a new password, shown once; the role and the second factor stay. For example `wardround user password ada`."""
    from wardround.trust.passwords import hash_password, new_password  # noqa: PLC0415

    new = new_password()
    with _known(home, name) as (store, person):
        store.put_person(replace(person, password_hash=hash_password(new)))
    typer.echo(f"{name} ({person.role}): {new}")


@app.command()
def role(name: Name, role: Annotated[str, typer.Argument(help=ROLES)], home: Home = DEFAULT_HOME) -> None:
    """Give someone another role. For example `wardround user role ada data-officer`."""
    parse_role(role)
    with _known(home, name) as (store, person):
        store.put_person(replace(person, role=role))
    typer.echo(f"{name} is {role} now, and signs in again")


@app.command()
def remove(name: Name, home: Home = DEFAULT_HOME) -> None:
    """Let someone sign in no more: sessions, second factor and API tokens end. For example `wardround user remove ada`."""
    with _known(home, name) as (store, _):
        store.remove_person(name)
    typer.echo(f"{name} may sign in no more")


@app.command("reset-factor")
def reset_factor(name: Name, home: Home = DEFAULT_HOME) -> None:
    """Remove the second factor of someone whose app and recovery codes are lost. For example `wardround user reset-factor ada`.

    Be sure that it is they who ask: until they make a new one, the password alone opens the console.
    """
    with _known(home, name) as (store, _):
        done = store.remove_second_factor(name)
    typer.echo(f"{name} signs in with the password alone now" if done else f"{name} has no second factor")


@contextmanager
def _known(home: Path, name: str) -> Iterator[tuple[Store, Person]]:
    """The store, and the person of this name. Raises SettingsError: there is none."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        person = store.person(name)
        if person is None:
            raise SettingsError(f"nobody is called {name!r}", remedy="`wardround user list` shows who may sign in")
        yield store, person
