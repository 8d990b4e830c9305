"""`wardround automation`: what the hub does by the clock, when each last ran and runs next, and what is late."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock, utc
from wardround.errors import WardroundError

if TYPE_CHECKING:
    from wardround.watch.timetable import Row


def automation(
    name: Annotated[str, typer.Argument(help="One of them, to see its newest runs; all when it is left out.")] = "",
    late: Annotated[bool, typer.Option("--late", help="Only what is late; exit code 1 when something is.")] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show everything that the hub does by the clock: jobs, rounds of studies, upkeep of the lake, certificates, the audit log.

    What has not come to a good end in its time is late, and an alert (job-late) says so.
    """
    from wardround.automation import shown_rows, shown_runs  # noqa: PLC0415
    from wardround.processing import held  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        rows, runs = shown_rows(store), shown_runs(store, name) if name else []
    if name:
        row = next((r for r in rows if r.name == name), None)
        if row is None:
            raise WardroundError(f"nothing is called {name[:60]!r}", remedy="`wardround automation` names them")
        rows = [row]
    if late:
        rows = [r for r in rows if r.late_s]
    if as_json:
        facts = [msgspec.to_builtins(r) | {"outcome": r.outcome, "late": bool(r.late_s)} for r in rows]
        facts = [f | {"runs": msgspec.to_builtins(runs)} for f in facts] if name else facts
        typer.echo(json.dumps(facts, indent=2))
    elif not rows:
        typer.echo("Nothing is late." if late else "Nothing yet: a hub that runs here for a few seconds fills this table.")
    else:
        _table(rows, running=held(home))
        for run in runs:
            outcome = "ok" if run.ok else "failed"
            typer.echo(f"  {utc(run.started_us):%Y-%m-%d %H:%M:%S} UTC  {run.seconds:.1f} s  {outcome}  {run.detail}".rstrip())
    if late and rows:
        raise typer.Exit(1)


def _table(rows: list[Row], *, running: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "what", "schedule", "last run", "outcome", "next run", "late"):
        table.add_column(heading)
    now_us = SystemClock().now_us()
    for row in rows:
        last = f"{utc(row.last.started_us):%d %b %H:%M:%S} UTC" if row.last is not None else "never"
        outcome = " ".join(p for p in (row.outcome, row.last.detail if row.last is not None else "") if p)
        table.add_row(row.name, row.title, row.schedule, last, outcome, _next(row, now_us), _late(row))
    Console().print(table)
    if not running:
        typer.echo("No hub runs here: this is how it stood when one did.")


def _next(row: Row, now_us: int) -> str:
    if not row.next_us:
        return "nothing is due"
    return "now" if row.next_us <= now_us else f"{utc(row.next_us):%d %b %H:%M:%S} UTC"


def _late(row: Row) -> str:
    return f"{row.late_s:.0f} s" if row.late_s else "no"
