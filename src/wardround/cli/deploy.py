"""`wardround deploy`: the units and the pod that run a hub or an edge."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from wardround import __version__
from wardround.cli.hub import DEFAULT_HOME, AsJson
from wardround.errors import SettingsError

app = typer.Typer(
    no_args_is_help=True, help="Run a hub or an edge by systemd or Podman: units and a pod, made from its settings."
)


@app.command()
def render(
    out: Annotated[Path, typer.Option(help="The folder that gets the files; those of before are written over.")],
    home: Annotated[Path, typer.Option(help="The folder of the hub or edge, where it will run.")] = DEFAULT_HOME,
    user: Annotated[str, typer.Option(help="Whom the systemd unit runs as.")] = "wardround",
    python: Annotated[str, typer.Option(help="The interpreter that has Wardround, for the systemd unit.")] = sys.executable,
    image: Annotated[
        str, typer.Option(help="The image, for Podman; `make image` makes it.")
    ] = f"localhost/wardround:{__version__}",
    as_json: AsJson = False,
) -> None:
    """Write a hardened systemd unit, a quadlet (Podman 4.4) and a pod (`podman kube play`) for the hub or edge of a home.

    With PostgreSQL the hub stands by for another: the same files on two machines that share the home and the address.
    """
    from wardround.deploying import render as rendered  # noqa: PLC0415 - the hub's libraries take a second
    from wardround.process.nodes.image import deploy_folder  # noqa: PLC0415

    if not (home / "hub.toml").exists() and not (home / "edge.toml").exists():
        raise SettingsError(f"{home} has no hub.toml and no edge.toml", remedy="give --home the folder of a hub or an edge")
    made = rendered(home, deploy_folder() / "templates", python=python, user=user, image=image, version=__version__)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in made.files.items():
        (out / name).write_text(text, encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"files": [str(out / name) for name in made.files], "notes": list(made.notes)}))
        return
    for name in made.files:
        typer.echo(f"{out / name}")
    for note in made.notes:
        typer.echo(f"note: {note}")
