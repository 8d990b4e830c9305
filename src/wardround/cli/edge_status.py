"""`wardround edge status`: what waits at an edge for its hub and how old it is, what was given up, what became of its updates."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from wardround.clock import SystemClock, utc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wardround.collect.spool import SpoolFacts
    from wardround.learn.receipts import HubAnswer

DEFAULT_HOME = Path.home() / ".wardround" / "edge"
Home = Annotated[Path, typer.Option(help="The edge's folder.")]
WORDS = {"ALARM": "alarms", "VITAL": "vital signs", "WAVEFORM": "waveforms"}


def status(
    home: Home = DEFAULT_HOME,
    limit: Annotated[int, typer.Option(help="The newest so many receipts of updates.", min=1, max=100)] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Facts instead of a table.")] = False,
) -> None:
    """What waits at this edge for its hub, by lane: rows, bytes and age; what was given up for want of room; and what the hub
    answered to its updates.

    Lanes are sent from top to bottom. "left" is what an outage left behind: it goes after what is measured now. An update is
    accepted, refused, or set aside (kept, without weight) with a reason and what to do about it; the newest 100 answers are kept.
    """
    from wardround.edge import EdgeHome  # noqa: PLC0415 - the edge's libraries take a moment

    opened = EdgeHome.open(home)
    facts, now_us = opened.waiting(), SystemClock().now_us()
    limits, answers = opened.settings.spool, opened.receipts()[:limit]
    if as_json:
        body = asdict(facts) | {"age_s": _age_s(facts.oldest_us, now_us), "bytes_max": limits.bytes_max}
        body["lanes"] = [
            asdict(lane) | {"priority": lane.priority.name.lower(), "age_s": _age_s(lane.oldest_us, now_us)}
            for lane in facts.lanes
        ]
        typer.echo(
            json.dumps(
                body | {"name": opened.settings.name, "when_full": limits.when_full, "receipts": _facts(answers)}, indent=1
            )
        )
        return
    Console(markup=False).print(_table(facts, now_us))
    typer.echo(f"{facts.bytes / 1e6:,.1f} of {limits.bytes_max / 1e6:,.0f} MB; when full: {limits.when_full}.")
    if facts.dropped:
        typer.echo(f"Given up for want of room since this spool was made: {facts.dropped:,} rows, {facts.dropped_bytes:,} bytes.")
    if answers:
        Console(markup=False).print(_receipts(answers))


def _facts(answers: Sequence[HubAnswer]) -> list[dict[str, object]]:
    from wardround.learn.receipts import advice  # noqa: PLC0415

    return [{**msgspec.to_builtins(a), "do": advice(a.verdict, a.reason)} for a in answers]


def _receipts(answers: Sequence[HubAnswer]) -> Table:
    table = Table("answered, UTC", "study", "round", "update", "why", "what to do", box=None, header_style="bold")
    for a, facts in zip(answers, _facts(answers), strict=True):
        why = f"{a.reason}: {a.detail}" if a.detail else a.reason
        table.add_row(f"{utc(a.t_us):%m-%d %H:%M:%S}", a.study, str(a.round_number), a.verdict, why, str(facts["do"]))
    return table


def _table(facts: SpoolFacts, now_us: int) -> Table:
    table = Table("lane", "", "rows", "MB", "oldest", box=None, header_style="bold")
    for lane in facts.lanes:
        age_s = _age_s(lane.oldest_us, now_us)
        age = "" if age_s is None else f"{age_s:,.1f} s" if age_s < 600 else f"{age_s / 3600:,.1f} h"
        table.add_row(
            WORDS[lane.priority.name], "now" if lane.live else "left", f"{lane.rows:,}", f"{lane.bytes / 1e6:,.2f}", age
        )
    return table


def _age_s(oldest_us: int, now_us: int) -> float | None:
    return max(0.0, (now_us - oldest_us) / 1e6) if oldest_us else None
