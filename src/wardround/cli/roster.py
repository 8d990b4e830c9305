"""`wardround roster`, `edge roster`, `hub roster`: who takes part in blind studies, said by somebody who is not the hub."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from wardround.cli.edge_status import DEFAULT_HOME as EDGE_HOME
from wardround.errors import TrustError
from wardround.settings import EdgeSettings, load_settings
from wardround.trust.certificates import key_pem, load_key, new_key, write_private
from wardround.trust.roster import (
    HUB_ROSTER,
    LastingKey,
    PinnedRoster,
    Roster,
    check_successor,
    read_entry,
    read_roster,
    roster_key,
    sign_roster,
)

HUB_HOME = Path.home() / ".wardround" / "hub"
ENTRIES_BYTES_MAX = 10_000_000
app = typer.Typer(
    no_args_is_help=True,
    help="The roster of blind studies: which edges there are, signed away from the hub. Edges that pin its key mask their "
    "updates together with nobody else, so that a hub which issues certificates to edges that do not exist gains nothing.",
)
Key = Annotated[Path, typer.Option(help="The roster key's file: on a machine that the hub's people do not hold.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]


@app.command()
def new(key: Key = Path("roster.key")) -> None:
    """Make a roster key, and print its fingerprint: what every edge pins. Keep the file as you keep the key of a safe."""
    if key.exists():
        raise TrustError(f"{key} is there already", remedy="use it, or name another file with --key")
    made = new_key()
    write_private(key, key_pem(made))
    typer.echo(roster_key(made))
    typer.echo("At each edge: wardround edge roster --pin FINGERPRINT, which prints the edge's entry", err=True)


@app.command()
def sign(
    entries: Annotated[list[str] | None, typer.Argument(help="Lines of `wardround edge roster`; `-`: from a pipe.")] = None,
    key: Key = Path("roster.key"),
    out: Annotated[Path, typer.Option(help="The roster; if it is there, this changes it.")] = Path("roster.json"),
    remove: Annotated[list[str] | None, typer.Option(help="An edge that takes part no more.")] = None,
    replace: Annotated[list[str] | None, typer.Option(help="An edge that may come with another key than before.")] = None,
) -> None:
    """Put edges into the roster, and sign it. Each entry should come from its edge by a way that the hub does not hold, or be
    compared with what `wardround edge roster` shows there.
    """
    secret = load_key(key)
    before = Roster(0, {})
    if out.exists():
        before, signer = read_roster(out.read_bytes())
        if signer != roster_key(secret):
            raise TrustError(f"{out} is signed by another roster key", remedy="name its key with --key, or another --out")
    edges = dict(before.edges)
    for name in remove or []:
        if edges.pop(name, None) is None:
            raise TrustError(f"{name[:60]} is not in {out}", remedy="`wardround roster show` lists who is")
    lines = list(entries or [])
    if "-" in lines:
        lines = [line for line in lines if line != "-"] + sys.stdin.read(ENTRIES_BYTES_MAX).splitlines()
    for line in filter(str.strip, lines):
        name, fingerprint = read_entry(line)
        if edges.get(name, fingerprint) != fingerprint and name not in (replace or []):
            raise TrustError(
                f"{name} is in {out} with another key", remedy=f"ask at {name} whether it has a new one; then --replace {name}"
            )
        edges[name] = fingerprint
    if edges == before.edges:
        raise TrustError("nothing would change", remedy="name entries, or edges to --remove")
    roster = Roster(before.number + 1, dict(sorted(edges.items())))
    write_private(out, sign_roster(roster, secret), 0o644)
    typer.echo(f"roster {roster.number} with {len(edges)} edges: {out}")
    typer.echo(f"At the hub: wardround hub roster {out.name}", err=True)


@app.command()
def show(file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The roster.")], as_json: AsJson = False) -> None:
    """Show whom a roster names, and the fingerprint of the key that has signed it."""
    roster, signer = read_roster(file.read_bytes())
    if as_json:
        typer.echo(json.dumps({"number": roster.number, "key": signer, "edges": roster.edges}))
        return
    typer.echo(f"roster {roster.number}, signed by {signer}")
    for name, fingerprint in sorted(roster.edges.items()):
        typer.echo(f"{fingerprint}  {name}")


def edge_roster(
    home: Annotated[Path, typer.Option(help="The edge's folder.")] = EDGE_HOME,
    pin: Annotated[str, typer.Option(help="Fingerprint of the roster key that this edge is to go by.")] = "",
    as_json: AsJson = False,
) -> None:
    """Print this edge's entry for the roster, and pin the roster's key. A running edge goes by it from the next round on.

    The entry is one line without a secret. It stays the same when the edge's certificate is renewed and when the edge joins
    again; after the loss of `identity/lasting.key` it is another one.
    """
    name = load_settings(home / "edge.toml", EdgeSettings).name
    lasting, pinned = LastingKey(home / "identity"), PinnedRoster(home / "identity")
    if pin:
        pinned.pin(pin.strip().lower())
    if as_json:
        facts = {"name": name, "entry": lasting.entry(name), "fingerprint": lasting.fingerprint, "pinned": pinned.key}
        typer.echo(json.dumps(facts))
        return
    typer.echo(lasting.entry(name))
    typer.echo(f"{lasting.fingerprint}  {name}", err=True)
    typer.echo(f"pinned: {pinned.key or 'no roster key: whom the hub certifies takes part'}", err=True)


def hub_roster(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="What `wardround roster sign` has written.")],
    home: Annotated[Path, typer.Option(help="The hub's folder.")] = HUB_HOME,
) -> None:
    """Give the roster to the hub, which shows it to edges in every round of a blind study, from the next round on.

    Edges that it does not name are then not asked in blind studies.
    """
    data, there = file.read_bytes(), home / HUB_ROSTER
    roster = check_successor(data, there.read_bytes() if there.exists() else b"")
    write_private(there, data, 0o644)
    typer.echo(f"roster {roster.number} with {len(roster.edges)} edges is shown in blind studies")
