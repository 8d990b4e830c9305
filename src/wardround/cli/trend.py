"""`wardround trend`: what one signal of one patient did, as a table, a line of blocks, or JSON."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock, utc
from wardround.errors import SettingsError
from wardround.settings import HubSettings, load_settings

BLOCKS = "▁▂▃▄▅▆▇█"
UNITS_S = {"m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
HOUR_S, DAY_S = 3_600, 86_400
BY_HOUR_S, BY_DAY_S = 4 * 3_600, 15 * 86_400  # a shorter time is shown by the minute, a longer one by the day
ROWS_MAX = 400


def trend(
    subject: Annotated[str, typer.Argument(help="The patient's pseudonym, or its beginning; `list` names those there are.")],
    signal: Annotated[str, typer.Argument(help="A signal's key or code, such as heart-rate or loinc:8867-4.")] = "heart-rate",
    last: Annotated[str, typer.Option(help="How far back: 90m, 24h, 7d, 8w.")] = "24h",
    until: Annotated[str, typer.Option(help="The end, UTC, as 2026-01-31T12:00; the newest sample when not given.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show what a signal of a patient did: by the minute, hour or day, with how much of the time it was there.

    Decision support from what has been received and cleaned; not a monitor, and not an alarm.
    """
    from wardround.collect.signals import load_signals  # noqa: PLC0415 - the hub's libraries take a second
    from wardround.process import tables  # noqa: PLC0415
    from wardround.process.transforms.vitals import VITALS  # noqa: PLC0415
    from wardround.processing import open_lake  # noqa: PLC0415

    lake = open_lake(home, load_settings(home / "hub.toml", HubSettings))
    known = load_signals().resolve(signal)
    span_s = _span_s(last)
    if subject == "list":
        names = _subjects(lake)
        typer.echo(json.dumps(names) if as_json else "\n".join(names) or "No trends yet: see `wardround process status`.")
        return
    name = _subject(_subjects(lake), subject)
    by_minute = span_s < BY_HOUR_S and known.code in VITALS
    width_us = (DAY_S if span_s >= BY_DAY_S else HOUR_S) * 1_000_000
    table = tables.VITALS if by_minute else tables.TREND
    everything = lake.read(table, subjects=[name], codes=[known.code]).to_pylist()
    mine = [r for r in everything if by_minute or r["width_us"] == width_us]
    end_us = _time_us(until) if until else max((r["t_us"] for r in mine), default=SystemClock().now_us()) + 1
    rows = sorted((r for r in mine if end_us - span_s * 1_000_000 <= r["t_us"] < end_us), key=lambda r: r["t_us"])
    facts = [_facts(r, by_minute=by_minute) for r in rows]
    if as_json:
        head = {"subject": name, "signal": known.key, "code": known.code, "unit": known.unit, "last": last}
        typer.echo(json.dumps(head | {"windows": facts}, indent=2))
        return
    if not facts:
        typer.echo(f"Nothing of {known.title} in the last {last}. What has been made: wardround process status --home {home}")
        return
    by = "minute" if by_minute else "day" if width_us == DAY_S * 1_000_000 else "hour"
    console = Console()
    console.print(f"[b]{known.title}[/] of {name}, {known.unit}, by the {by}, UTC")
    console.print(_sparkline([f["mean"] for f in facts]), highlight=False)
    console.print(_table(facts[-ROWS_MAX:]))


def _facts(row: dict[str, Any], *, by_minute: bool) -> dict[str, Any]:
    keys = ("mean", "low", "high", "n") if by_minute else ("mean", "low", "p05", "median", "p95", "high", "n", "completeness")
    return {"t": utc(row["t_us"]).isoformat()} | {k: round(row[k], 4) for k in keys}


def _table(facts: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("time", *[k for k in facts[0] if k != "t"]):
        table.add_column(heading, justify="left" if heading == "time" else "right")
    for f in facts:
        cells = [f"{f[k]:.0%}" if k == "completeness" else f"{f[k]:,}" if k == "n" else f"{f[k]:.4g}" for k in f if k != "t"]
        table.add_row(f["t"][5:16].replace("T", " "), *cells)
    return table


def _sparkline(values: list[float]) -> str:
    low, high = min(values), max(values)
    step = (high - low) / (len(BLOCKS) - 1) or 1.0
    line = "".join(BLOCKS[round((v - low) / step)] for v in values[-120:])
    return f"{line}  {low:.4g} to {high:.4g}"


def _span_s(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if found is None or int(found[1]) == 0:
        raise SettingsError(f"--last {text!r} is not a time", remedy="write 90m, 24h, 7d or 8w")
    return int(found[1]) * UNITS_S[found[2]]


def _time_us(text: str) -> int:
    from datetime import UTC, datetime  # noqa: PLC0415

    try:
        return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1e6)
    except ValueError as exc:
        raise SettingsError(f"--until {text!r} is not a time", remedy="write 2026-01-31T12:00") from exc


def _subjects(lake: Any) -> list[str]:
    """Everybody who has a trend."""
    from wardround.process import tables  # noqa: PLC0415

    return sorted(set(lake.read(tables.TREND, columns=["subject"]).column("subject").to_pylist()))


def _subject(names: list[str], given: str) -> str:
    """The one subject that begins so."""
    found = [n for n in names if n.startswith(given)]
    if len(found) == 1 or given in found:
        return given if given in found else found[0]
    some = ", ".join((found or names)[:8]) + (" ..." if len(found or names) > 8 else "")
    what = f"{len(found)} patients begin with {given!r}" if found else f"no patient here begins with {given!r}"
    raise SettingsError(what, remedy=f"pseudonyms are: {some}" if names else "no trends yet: see `wardround process status`")
