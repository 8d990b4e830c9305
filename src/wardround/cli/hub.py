"""`wardround hub`: make a hub, run it, invite edges to it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.completeness import hub_completeness
from wardround.cli.consent import hub_consent
from wardround.cli.roster import hub_roster
from wardround.clock import SystemClock, utc
from wardround.errors import SettingsError
from wardround.memory import hold_little
from wardround.settings import HubSettings, load_settings, parse_settings
from wardround.trust.certificates import Authority
from wardround.trust.join import TOKEN_LIFE_S, mint
from wardround.trust.names import check_name
from wardround.trust.roles import Role, parse_role

app = typer.Typer(no_args_is_help=True, help="The central hub: make one, run it, invite edges to it.")
app.command("completeness")(hub_completeness)
app.command("consent")(hub_consent)
app.command("roster")(hub_roster)
Home = Annotated[Path, typer.Option(help="The hub's folder.")]
DEFAULT_HOME = Path.home() / ".wardround" / "hub"
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]


@app.command()
def init(
    home: Home = DEFAULT_HOME,
    site: Annotated[str, typer.Option(help="The site's name, shown in the console.")] = "Wardround",
    host: Annotated[str, typer.Option(help="The name or address under which edges reach this hub.")] = "127.0.0.1",
    person: Annotated[str, typer.Option(help="Who may sign in to the console first.")] = "oncall",
    authority: Annotated[str, typer.Option(help="own: made here; offline: a root elsewhere signs it.")] = "own",
    store_url: Annotated[str, typer.Option("--store", help="postgresql://USER@HOST/DATABASE for its records, else a file.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a hub: its certificate authority, its store, and a first sign-in for the console.

    With --authority offline the key is made here, and pki/authority.csr waits to be signed: `wardround hub authority` takes
    the answer.

    The password is shown once. Settings are in hub.toml in the hub's folder; docs/settings.md explains each.
    """
    from wardround.hub import create_home  # noqa: PLC0415 - the hub's libraries take a second
    from wardround.store import Person  # noqa: PLC0415
    from wardround.trust.passwords import hash_password, new_password  # noqa: PLC0415

    check_name(person, what="name")
    if authority not in ("own", "offline"):
        raise SettingsError(f"authority `{authority}` is not known", remedy="choose own or offline")
    offline = authority == "offline"
    text = f"site = {json.dumps(site)}\npublic_host = {json.dumps(host)}\n"
    text += f"\n[store]\nurl = {json.dumps(store_url)}\n" if store_url else ""
    settings = parse_settings(text, HubSettings, where="hub.toml")
    password = new_password()
    store = create_home(home, text, settings, offline=offline)
    store.put_person(Person(person, "operator", hash_password(password), None))
    store.close()
    if as_json:
        facts = {"home": str(home), "person": person, "password": password}
        typer.echo(json.dumps(facts | ({"request": str(home / "pki" / "authority.csr")} if offline else {})))
        return
    console = Console()
    console.print(f"A hub is ready in [b]{home}[/].")
    console.print(f"Sign in to the console as [b]{person}[/] with [b]{password}[/] (shown once).")
    if offline:
        console.print(f"Have the root sign [b]{home / 'pki' / 'authority.csr'}[/] (docs/security.md has the command),")
        console.print(f"then: [b]wardround hub authority SIGNED.pem --home {home}[/]")
        return
    console.print(f"Next: [b]wardround hub run --home {home}[/], then [b]wardround hub invite NAME[/]")


@app.command()
def authority(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="The signed authority and the root that signed it, in PEM.")
    ],
    home: Home = DEFAULT_HOME,
) -> None:
    """Take the authority that an offline root has signed; again later, when it is renewed under the same root.

    A running hub takes it up when it starts again. Edges trust the root, and need not join again.
    """
    from wardround.hub import take_authority  # noqa: PLC0415

    taken = take_authority(home, file.read_bytes())
    typer.echo(f"This hub's authority is signed by {taken.root.subject.rfc4514_string()}; join tokens pin that root.")


@app.command()
def run(
    home: Home = DEFAULT_HOME,
    standby: Annotated[
        bool, typer.Option("--standby", help="Wait while another hub runs on these records, then take over.")
    ] = False,
) -> None:
    """Run the hub until it is stopped. Edges spool while it is away; rounds go on where they were.

    With --standby a second one waits, on this machine or, with PostgreSQL, on another that shares the home and the address
    (docs/operations.md): it takes over some ten seconds after the first was killed, and at once when that was stopped.
    """
    hold_little()
    from wardround.hub import run_hub  # noqa: PLC0415

    asyncio.run(run_hub(home, standby=standby))


@app.command()
def invite(
    name: Annotated[str, typer.Argument(help="The edge's name: a-z, 0-9 and '-'.")],
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Make a one-time token with which one edge may join: 15 minutes, this name, this hub.

    The edge reads it from standard input (`wardround edge join -`), so that it stands in no command line and no shell's history:
    `wardround hub invite icu-a --json | jq -r .token | ssh icu-a wardround edge join -`.
    """
    from wardround.store import opened  # noqa: PLC0415

    settings = load_settings(home / "hub.toml", HubSettings)
    ready = home / "ready.json"
    port = settings.enrolment.port
    if port == 0 and ready.exists():
        port = int(json.loads(ready.read_text())["enrolment_port"])
    if port == 0:
        raise SettingsError("the hub's enrolment port is not known", remedy="run the hub, or set enrolment.port in hub.toml")
    with opened(home / "hub.sqlite") as store:
        pin = Authority.load(home / "pki").fingerprint
        token = mint(store, SystemClock(), name=name, host=settings.public_host, port=port, pin=pin)
    if as_json:
        typer.echo(json.dumps({"name": name, "token": token, "seconds": TOKEN_LIFE_S}))
        return
    typer.echo(
        f"On the edge, within {TOKEN_LIFE_S / 60:.0f} minutes, run `wardround edge join -` and paste this line when it asks:"
        f"\n\n  {token}\n"
    )


@app.command()
def password(
    person: Annotated[str, typer.Argument(help="Who gets a new password.")],
    home: Home = DEFAULT_HOME,
    role: Annotated[str, typer.Option(help=f"One of: {', '.join(Role)}.")] = "operator",
) -> None:
    """Give someone a sign-in to the console, or a new password; it is shown once."""
    from wardround.store import Person, opened  # noqa: PLC0415
    from wardround.trust.passwords import hash_password, new_password  # noqa: PLC0415

    check_name(person, what="name")
    parse_role(role)
    new = new_password()
    with opened(home / "hub.sqlite") as store:
        store.put_person(Person(person, role, hash_password(new), None))
    typer.echo(f"{person} ({role}): {new}")


@app.command()
def edges(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Every edge that has joined, and how long its certificate holds. Edges renew theirs at two thirds of its life."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        known = store.edges()
    now_us = SystemClock().now_us()
    rows = [
        {
            "name": edge.name,
            "state": "revoked" if edge.revoked_us is not None else "expired" if edge.not_after_us < now_us else "valid",
            "joined": f"{utc(edge.joined_us):%Y-%m-%d %H:%M}",
            "certificate_ends": f"{utc(edge.not_after_us):%Y-%m-%d %H:%M:%S}",
            "days_left": round((edge.not_after_us - now_us) / 86_400e6, 2),
            "serial": edge.serial,
        }
        for edge in known
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        typer.echo("No edge has joined yet: wardround hub invite NAME")
        return
    table = Table("edge", "certificate", "ends, UTC", "days left", "joined, UTC", "serial", box=None, header_style="bold")
    for row in rows:
        cells = (row["name"], row["state"], row["certificate_ends"], row["days_left"], row["joined"], row["serial"])
        table.add_row(*map(str, cells))
    Console(markup=False).print(table)
    if any(row["state"] != "valid" for row in rows):
        typer.echo("An edge that is revoked or expired comes back with a new token: wardround hub invite NAME")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The edge; with --serial it may be left out.")] = "",
    serial: Annotated[str, typer.Option(help="One certificate alone, as `hub edges` shows it: a copy of an old key, say.")] = "",
    home: Home = DEFAULT_HOME,
) -> None:
    """Shut an edge out: its open streams end within two seconds, and nothing it holds opens any again.

    It comes back with a new token (`wardround hub invite NAME`), with everything it has kept meanwhile.
    """
    from wardround.store import opened  # noqa: PLC0415

    if bool(name) == bool(serial):
        raise SettingsError("nothing to revoke", remedy="give an edge's name, or --serial and one certificate's serial")
    now_us = SystemClock().now_us()
    with opened(home / "hub.sqlite") as store:
        whose = store.revoke_certificate(serial.lower(), now_us) if serial else name if store.revoke_edge(name, now_us) else ""
    if not whose:
        what = f"no certificate has the serial {serial!r}" if serial else f"no edge is called {name!r}"
        raise SettingsError(what, remedy="`wardround hub edges` shows names and serials")
    typer.echo(f"{whose} is revoked" if name else f"the certificate {serial.lower()} of {whose} is revoked")
