"""`wardround`: the one grammar of the command line.

Every command that reports takes --json; an error says what, where and what to do, and exits non-zero without a traceback
unless --debug is given.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from wardround.cli import (
    alert,
    audit,
    automation,
    backup,
    completion,
    demo,
    deploy,
    doctor,
    drill,
    edge,
    erase,
    flower,
    hub,
    keys,
    node,
    process,
    remote,
    response,
    roster,
    store,
    study,
    token,
    trend,
    user,
    wifi,
)
from wardround.cli.examples import teach
from wardround.cli.recording import Recorded, record
from wardround.errors import WardroundError
from wardround.log_lines import write_log_lines

app = typer.Typer(
    name="wardround",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Federated learning over the Internet of Medical Things.\n\n"
        "Devices report to [b]edges[/b]; edges send what consent allows to a [b]hub[/b]; hub and edges train one model "
        "together; Wardround watches the training, the fleet and the sensors, and alerts the team.\n\n"
        "New here? [b]wardround demo[/b] runs all of it on this machine in about a minute."
    ),
)
app.command("demo")(demo.demo)
hub.app.command("erasures")(erase.erasures)
app.add_typer(hub.app, name="hub")
app.add_typer(edge.app, name="edge")
app.add_typer(process.app, name="process")
app.add_typer(node.app, name="node")
app.add_typer(study.app, name="study")
app.add_typer(roster.app, name="roster")
app.add_typer(flower.app, name="flower")
app.add_typer(alert.app, name="alert")
app.add_typer(response.app, name="response")
app.add_typer(wifi.app, name="wifi")
app.command("erase")(erase.erase)
app.add_typer(audit.app, name="audit")
app.add_typer(token.app, name="token")
app.add_typer(user.app, name="user")
app.add_typer(keys.app, name="keys")
app.add_typer(remote.app, name="remote")
app.add_typer(store.app, name="store")
app.add_typer(deploy.app, name="deploy")
app.command("trend")(trend.trend)
app.command("automation")(automation.automation)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("drill")(drill.drill)
app.command("doctor")(doctor.doctor)
app.command("completion")(completion.completion)
teach(app)


@app.callback()
def main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options that stand before the command."""
    if debug:
        os.environ["WARDROUND_DEBUG"] = "1"


def run() -> None:
    """The entry point: run a command, and turn an error of ours into words and an exit code."""
    write_log_lines()
    stderr = Console(stderr=True, highlight=False)
    recorded: Recorded | None = None
    try:
        recorded = record(sys.argv[1:])
        app()
    except WardroundError as error:
        with contextlib.suppress(WardroundError):
            if recorded is not None:
                recorded.refused(error)
        if os.environ.get("WARDROUND_DEBUG"):
            raise
        stderr.print(f"[bold]error:[/bold] {escape(str(error))}", soft_wrap=True)
        if error.remedy:
            stderr.print(f"[bold]   do:[/bold] {escape(error.remedy)}", soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        stderr.print("stopped")
        sys.exit(130)


if __name__ == "__main__":
    run()
