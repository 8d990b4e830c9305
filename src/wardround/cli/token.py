"""`wardround token new|list|revoke`: tokens with which programs use the hub's API."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock, utc
from wardround.errors import SettingsError
from wardround.trust.api_tokens import DAYS_MAX, Scope, mint_api_token

app = typer.Typer(
    no_args_is_help=True,
    help="Tokens of the API, for programs: each of one person, with scopes and an end. docs/api.md shows what they open.",
)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="What it is for: `dashboard`, say.")],
    person: Annotated[str, typer.Option(help="Whose it is. It opens nothing that this person's role does not.")],
    scope: Annotated[list[str] | None, typer.Option(help=f"One of: {', '.join(Scope)}. May be given again.")] = None,
    days: Annotated[int, typer.Option(help=f"Its life, 1 to {DAYS_MAX} days.")] = 90,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Make a token. It is shown once, and kept nowhere.

    Without --scope it may read. It is used as `curl -H "Authorization: Bearer $TOKEN" https://HUB:7480/api/v1/hub`.
    """
    from wardround.store import opened  # noqa: PLC0415 - the store's libraries take a moment

    if not name or len(name) > 100 or not name.isprintable():
        raise SettingsError(f"{name!r} is no name for a token", remedy="use up to 100 characters that can be printed")
    with opened(home / "hub.sqlite") as store:
        if store.person(person) is None:
            raise SettingsError(f"nobody is called {person!r}", remedy="`wardround hub password NAME --role ROLE` adds a person")
        text, kept = mint_api_token(person, name, scope or [Scope.READ], days=days, now_us=SystemClock().now_us())
        store.put_api_token(kept)
    if as_json:
        typer.echo(json.dumps({"id": kept.token_id, "token": text, "scopes": kept.scopes.split(), "days": days}))
        return
    typer.echo(f"{kept.name}, of {person}, for {kept.scopes}, until {utc(kept.expires_us):%Y-%m-%d}. Shown once:\n\n  {text}\n")


@app.command("list")
def list_(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List tokens: whose, for what, when last used. The tokens themselves are kept nowhere."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        found, now_us = store.api_tokens(), SystemClock().now_us()
    rows = [
        {
            "id": t.token_id,
            "name": t.name,
            "person": t.person,
            "scopes": t.scopes.split(),
            "expires": f"{utc(t.expires_us):%Y-%m-%d}",
            "last_used": f"{utc(t.used_us):%Y-%m-%d %H:%M}" if t.used_us else "never",
            "state": "revoked" if t.revoked_us else "expired" if t.expires_us <= now_us else "lives",
        }
        for t in found
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        typer.echo("There is no token. `wardround token new NAME --person WHO` makes one.")
        return
    table = Table("id", "name", "person", "scopes", "expires", "last used, UTC", "state", box=None, header_style="bold")
    for row in rows:
        table.add_row(*(" ".join(v) if isinstance(v, list) else str(v) for v in row.values()))
    Console(markup=False).print(table)


@app.command()
def revoke(token_id: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")], home: Home = DEFAULT_HOME) -> None:
    """Shut a token out: the next call with it is refused, and what it listens to ends within seconds."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        done = store.revoke_api_token(token_id, SystemClock().now_us())
    if not done:
        raise SettingsError(f"no token that lives has the id {token_id!r}", remedy="`wardround token list` shows them")
    typer.echo(f"{token_id} is revoked")
