"""`wardround edge completeness` and `wardround hub completeness`: how much of each patient's signals came, hour by hour."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.edge_status import DEFAULT_HOME as EDGE_HOME
from wardround.clock import SystemClock, utc

if TYPE_CHECKING:
    from wardround.collect.streams import Hour

HUB_HOME = Path.home() / ".wardround" / "hub"
HOUR_US = 3_600_000_000
Subject = Annotated[str, typer.Option(help="This patient's pseudonym alone, or its beginning.")]
Hours = Annotated[int, typer.Option(help="The newest so many hours.", min=1, max=24 * 14)]
Below = Annotated[float, typer.Option(help="Only hours that are less complete than that, 0 to 1.", min=0.0, max=1.0)]
AsJson = Annotated[bool, typer.Option("--json", help="Facts instead of a table.")]


def edge_completeness(
    home: Annotated[Path, typer.Option(help="The edge's folder.")] = EDGE_HOME,
    subject: Subject = "",
    hours: Hours = 24,
    below: Below = 1.0,
    as_json: AsJson = False,
) -> None:
    """How much of each patient's signals has come to this edge, hour by hour; an hour without a sample is there with 0 %.

    Expected is what the signal's sampling rate says, or the code table's or the device's interval between values.
    """
    from wardround.collect.spool import read_hours  # noqa: PLC0415
    from wardround.collect.storage import FolderStorage  # noqa: PLC0415 - the libraries take a moment
    from wardround.collect.streams import with_gaps  # noqa: PLC0415
    from wardround.edge import EdgeHome  # noqa: PLC0415

    now_us = SystemClock().now_us()
    EdgeHome.open(home)
    _show(with_gaps(read_hours(FolderStorage(home / "spool")), now_us), now_us, subject, hours, below, as_json=as_json)


def hub_completeness(
    home: Annotated[Path, typer.Option(help="The hub's folder.")] = HUB_HOME,
    subject: Subject = "",
    hours: Hours = 24,
    below: Below = 1.0,
    as_json: AsJson = False,
) -> None:
    """How much of each patient's signals is in the lake and good, hour by hour; an hour without a sample is there with 0 %."""
    from wardround.processing import completeness, open_lake  # noqa: PLC0415 - the hub's libraries take a second
    from wardround.settings import HubSettings, load_settings  # noqa: PLC0415

    now_us = SystemClock().now_us()
    lake = open_lake(home, load_settings(home / "hub.toml", HubSettings))
    _show(completeness(lake, now_us), now_us, subject, hours, below, as_json=as_json)


def _show(found: Iterable[Hour], now_us: int, subject: str, hours: int, below: float, *, as_json: bool) -> None:
    first_us = (now_us // HOUR_US - hours + 1) * HOUR_US
    rows = [
        h
        for h in found
        if h.hour_us >= first_us and h.subject.startswith(subject) and (h.complete is None or h.complete < below or below == 1.0)
    ]
    if as_json:
        typer.echo(json.dumps([_facts(h) for h in rows], indent=1))
        return
    if not rows:
        typer.echo("Nothing came in these hours.")
        return
    Console(markup=False).print(_table(rows))


def _facts(hour: Hour) -> dict[str, object]:
    return {
        "subject": hour.subject,
        "code": hour.code,
        "hour": utc(hour.hour_us).isoformat(),
        "samples": hour.samples,
        "complete": None if hour.complete is None else round(hour.complete, 4),
        "dropped": hour.dropped,
    }


def _table(rows: Sequence[Hour]) -> Table:
    from wardround.collect.signals import load_signals  # noqa: PLC0415

    titles = {signal.code: signal.title for signal in load_signals().rows.values()}
    table = Table("patient", "signal", "hour, UTC", "samples", "complete", "given up", box=None, header_style="bold")
    for h in rows:
        share = "" if h.complete is None else f"{h.complete:.0%}"
        hour = utc(h.hour_us).strftime("%m-%d %H:00")
        table.add_row(
            h.subject[:12], titles.get(h.code, h.code), hour, f"{h.samples:,}", share, f"{h.dropped:,}" if h.dropped else ""
        )
    return table
