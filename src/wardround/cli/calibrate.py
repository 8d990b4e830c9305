"""`wardround study calibrate`: from which score on the watch raises an alarm, and on what that rests."""

from __future__ import annotations

import json
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.cli.models import Name, Why, ask, study_of
from wardround.errors import StudyError
from wardround.watch.calibration import CalibrationReport

Again = Annotated[bool, typer.Option("--again", help="What comes next is the new usual: thresholds and pasts begin anew.")]


def calibrate(name: Name, again: Again = False, reason: Why = "", home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show the thresholds of the watch of a study's training: shipped ones, until 70 healthy rounds have given it its own.

    A round is healthy while no alert of the study is open. With --again it begins anew, after a change that stays: new sensors
    at an edge, say. What is open of the training then is over.
    """
    from wardround.store import opened  # noqa: PLC0415
    from wardround.study_watch import report_name  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        study = study_of(store, name)
        if again:
            typer.echo(f"{name}: {ask(store, home, study.name, 'calibrate', reason)}")
            return
        kept = store.load_state(report_name(study.name))
    if not kept:
        raise StudyError(f"{name} has no round that was watched yet", remedy="see `wardround study status`")
    report = msgspec.json.decode(kept, type=CalibrationReport)
    if as_json:
        typer.echo(json.dumps({"study": name, "words": report.words} | msgspec.to_builtins(report), indent=2))
        return
    console = Console()
    console.print(f"{name}: {report.words}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for heading in ("sign", "threshold", "shipped", "highest healthy", "false alarms in 1,000 rounds"):
        table.add_column(heading, justify="left" if heading == "sign" else "right")
    for own in report.thresholds:
        highest = "-" if own.highest is None else f"{own.highest:.3g}"
        expected = "-" if own.per_1000 is None else f"{own.per_1000:.2g}"
        table.add_row(own.sign, f"{own.value:.3g}", f"{own.default:.3g}", highest, expected)
    console.print(table)


def add_to(app: typer.Typer) -> None:
    """Make it a command of `wardround study`."""
    app.command()(calibrate)
