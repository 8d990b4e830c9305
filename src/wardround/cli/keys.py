"""`wardround keys`: the keys that patients' values are encrypted under on the disk of a hub or an edge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wardround.collect.sealed_rows import look_into
from wardround.errors import KeyRefused, SettingsError
from wardround.settings import AtRestSettings, EdgeSettings, HubSettings, load_settings
from wardround.trust.at_rest import KEYS
from wardround.trust.data_keys import DataKeys
from wardround.trust.kek import Kek, KekSource, parse_kek, write_kek

app = typer.Typer(
    no_args_is_help=True,
    help=(
        "The keys of encryption at rest (docs/security.md). One line in hub.toml or edge.toml turns it on, such as "
        '[b]at_rest.kek = "file:/etc/wardround/icu-a.kek"[/b]: the file is made when it is not there.'
    ),
)
Home = Annotated[Path, typer.Option(help="The folder of a hub or of an edge.", exists=True, file_okay=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]
FILES = ("spool/spool.sqlite", "spool/set-aside.sqlite", "spool/imports.sqlite", "local/local.sqlite", "inbox/inbox.sqlite")


@app.command()
def status(home: Home, as_json: AsJson = False) -> None:
    """Where the key-encryption key comes from, what it wraps, what is encrypted; and whether a rotation is due or half done."""
    keys = _opened(home)
    facts = keys.facts()
    keys.close()
    files = {name: look_into(home / name) for name in FILES if (home / name).exists()}
    if as_json:
        found = {
            "source": facts.source,
            "version": facts.version,
            "versions_loaded": facts.loaded,
            "data_keys": facts.by_version,
            "destroyed": facts.destroyed,
            "destroyed_since_rotation": facts.destroyed_under_this,
            "rotating": facts.rotating,
            "files": {name: {"encrypted": whole, "unreadable": shut} for name, (whole, shut) in files.items()},
        }
        typer.echo(json.dumps(found, indent=1))
        return
    typer.echo(f"Key-encryption key: {facts.source}, version {facts.version}")
    wrapped = ", ".join(f"{count} by version {version}" for version, count in sorted(facts.by_version.items())) or "none yet"
    typer.echo(f"Data keys, one a patient: {wrapped}; {facts.destroyed} were destroyed")
    for name, (whole, shut) in files.items():
        typer.echo(f"  {name}: {'encrypted' if whole else 'what was there before is being encrypted'}")
        if shut:
            typer.echo(f"    {shut} rows do not open, and are kept apart: put the right keys back, or look for a failing disk")
    if facts.rotating:
        typer.echo(f"A rotation was begun and is not through: wardround keys rotate --home {home}")
    elif facts.destroyed_under_this:
        typer.echo(
            f"{facts.destroyed_under_this} patients were erased under this version: who has an older copy of keys/ and this "
            f"version opens their data in older copies. wardround keys rotate --home {home} ends that"
        )


@app.command()
def rotate(home: Home, as_json: AsJson = False) -> None:
    """Go over to a new version of the key-encryption key. No row is touched, and programs that run go on.

    With a file the new version is made and the older one taken out at the end. With a credential or a command, add a line with
    `wardround keys new` where it comes from, run this, then take the older line out. Cut off at any point, run it again.
    """
    keys = _opened(home)
    before = keys.facts()
    count = keys.rotate()
    facts = keys.facts()
    keys.close()
    if as_json:
        typer.echo(json.dumps({"before": before.version, "version": facts.version, "wrapped": count, "loaded": facts.loaded}))
        return
    typer.echo(f"Version {facts.version} of {facts.source} wraps all {sum(facts.by_version.values())} data keys ({count} anew).")
    older = [str(v) for v in facts.loaded if v != facts.version]
    if older:
        typer.echo(f"No longer needed there: version {', '.join(older)}. Take it out, and destroy its copies.")
    typer.echo("Copies of keys/ from before are of no use any more: back it up anew, and not beside the data or the key.")


@app.command("new")
def new(
    file: Annotated[Path, typer.Argument(help="The file; a version is added where it is there already.", dir_okay=False)],
) -> None:
    """Write a new version of a key-encryption key into a file of mode 0600, for a credential or a command to give."""
    kek = parse_kek(file.read_text(encoding="utf-8"), str(file)) if file.exists() else Kek({})
    kek = kek.with_new_version()
    write_kek(file, kek)
    typer.echo(f"{file} has version {kek.newest}")


def _opened(home: Path) -> DataKeys:
    """The keys of a home whose settings say that it is encrypted, once its program has made them."""
    where = _settings(home)
    if not where.kek:
        raise SettingsError(f"{home} is not encrypted", remedy="at_rest.kek in its settings turns it on: docs/security.md")
    if not (home / KEYS).exists():
        raise KeyRefused(f"{home} has no keys yet", remedy="its program makes them when it starts")
    return DataKeys(home / KEYS, KekSource.parse(where.kek, home))


def _settings(home: Path) -> AtRestSettings:
    if (home / "edge.toml").exists():
        return load_settings(home / "edge.toml", EdgeSettings).at_rest
    return load_settings(home / "hub.toml", HubSettings).at_rest
