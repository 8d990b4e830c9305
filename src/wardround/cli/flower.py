"""`wardround flower`: Flower apps over Wardround edges."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from wardround.cli.hub import DEFAULT_HOME, Home
from wardround.errors import SettingsError, StudyError
from wardround.flower.apps import open_app, overridden
from wardround.process.transforms import TASKS

app = typer.Typer(no_args_is_help=True, help="Flower, both ways: their apps over Wardround edges, a study on their federations.")
AppDir = Annotated[Path, typer.Argument(help="The app's folder: the one with pyproject.toml.")]


@app.command()
def run(
    app_dir: AppDir,
    home: Home = DEFAULT_HOME,
    python: Annotated[
        str, typer.Option(envvar="WARDROUND_FLOWER_PYTHON", help="The interpreter of the environment where flwr is installed.")
    ] = "",
    run_config: Annotated[
        list[str] | None, typer.Option("--run-config", "-c", help="Overrides of the app's config: 'num-server-rounds=5'.")
    ] = None,
    quorum: Annotated[int, typer.Option(min=1, help="Replies without which a round gives the Strategy none.")] = 3,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds after which a round goes on without who is late.")] = 600.0,
    task: Annotated[
        str,
        typer.Option(
            help="Give the app each edge's own examples of this task, as a .npz file in node_config[wardround-examples]."
        ),
    ] = "",
    held_back: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of subjects whose examples it is not given, chosen as studies choose.")
    ] = 0.2,
    any_shapes: Annotated[
        bool, typer.Option("--any-shapes", help="Let train replies hold other arrays than were sent (trees, for example).")
    ] = False,
) -> None:
    """Run an app's ServerApp here, its ClientApp at the edges that have joined this hub.

    Each edge must hold the same app in its flower.apps folder. The hub must be running.
    """
    from wardround.flower.door import SOCKET  # noqa: PLC0415

    found = open_app(app_dir)
    config = overridden(found.config, run_config or [])
    if not python:
        raise SettingsError(
            "which Python has Flower? Its libraries and Wardround's want an environment each",
            remedy="python3.11 -m venv flower && flower/bin/pip install flwr==1.42.0, then say --python flower/bin/python",
        )
    if task and task not in TASKS:
        raise StudyError(f"there is no task {task!r}", remedy=f"choose one of: {', '.join(sorted(TASKS))}")
    path = home.resolve() / "flower" / SOCKET
    if not path.exists():
        raise StudyError(f"no hub runs in {home}", remedy="start it with `wardround hub run`, or give --home")
    hello = {
        "op": "hello",
        "run": f"flower-{secrets.token_hex(6)}",
        "run_id": secrets.randbits(62) | 1,
        "app": found.name,
        "digest": found.digest,
        "run_config": config,
        "limits": {"quorum": quorum, "deadline_s": deadline, "same_shapes": not any_shapes},
        "data": {"task": task, "held_back": held_back},
    }
    start = {"folder": str(found.folder), "serverapp": found.serverapp, "hello": hello}
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    environment["WARDROUND_FLOWER"] = json.dumps(start)
    guest = Path(__file__).parents[1] / "flower" / "guest"
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that the caller names
            [python, str(guest), "server", str(path)], env=environment, cwd=found.folder, check=False
        )
    except OSError as exc:
        raise SettingsError(f"{python} cannot be started: {exc.strerror}", remedy="name the interpreter with --python") from exc
    if done.returncode:
        raise typer.Exit(done.returncode if done.returncode > 0 else 1)


@app.command()
def export(
    study_file: Annotated[Path, typer.Argument(help="The study's file, for example study.toml.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where the app goes: a folder that is not there yet.")],
    wardround_python: Annotated[
        str, typer.Option(help="The interpreter with Wardround at the SuperLink and its SuperNodes; this one if none is given.")
    ] = "",
) -> None:
    """Write a study as a Flower app, to be run by `flwr run` on a Flower federation.

    A SuperNode's node-config names the home of an edge, whose local store it trains on: wardround-home="/var/lib/edge".
    """
    from wardround.flower.study_export import export_study  # noqa: PLC0415

    name = export_study(study_file.read_text(encoding="utf-8"), folder, wardround_python or sys.executable)
    typer.echo(f"{folder} is the Flower app {name}: flwr run {folder} FEDERATION")
