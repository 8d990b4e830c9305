"""`wardround process export`: a patient's observations out of the lake, in formats that others read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.errors import SettingsError
from wardround.settings import HubSettings, load_settings

if TYPE_CHECKING:
    from wardround.process.lake import Lake
    from wardround.records import Observation

FORMATS = ("fhir", "senml", "wfdb", "parquet")
DAY_US = 86_400_000_000
LEFT = {
    "no-number": "observations that must not be believed as numbers",
    "before-1978": "observations that SenML cannot date",
    "no-waveform": "scalars, words and irregular runs, which WFDB does not hold: use fhir, senml or parquet",
    "wfdb-grid": "runs on a grid that WFDB does not have",
}


def export(
    subject: Annotated[str, typer.Argument(help="The patient's pseudonym, whole.")],
    out: Annotated[Path, typer.Option(help="A folder that is empty or not there yet.")],
    format_: Annotated[str, typer.Option("--format", help="fhir (R4 Bundles), senml, wfdb or parquet.")] = "fhir",
    signal: Annotated[list[str] | None, typer.Option(help="A signal's key or code; all when none is named.")] = None,
    since: Annotated[str, typer.Option(help="From here on, UTC, as 2026-01-31T12:00.")] = "",
    until: Annotated[str, typer.Option(help="Until before here, UTC.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Write a patient's observations to files, with the numbers that were received; what a format cannot hold is counted.

    The files name the patient by pseudonym alone. They are read back by `wardround edge import`.
    """
    from wardround.collect.signals import load_signals  # noqa: PLC0415 - the hub's libraries take a second
    from wardround.processing import open_lake  # noqa: PLC0415

    if format_ not in FORMATS:
        raise SettingsError(f"format `{format_}` is not known", remedy=f"choose one of: {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} is not empty", remedy="give a folder of its own to --out")
    codes = [load_signals().resolve(name).code for name in signal] if signal else None
    lake = open_lake(home, load_settings(home / "hub.toml", HubSettings))
    found: Counter[str] = Counter()
    left: Counter[str] = Counter()
    out.mkdir(parents=True, exist_ok=True)
    for day, observations in _days(lake, subject, codes, _time_us(since), _time_us(until)):
        found.update(observations=len(observations), samples=sum(o.n for o in observations))
        for name, data in _files(format_, observations, left):
            folder = out / day  # files of a WFDB record name each other, and stand together
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
            found["files"] += 1
    facts = {"out": str(out), "format": format_, **{k: found[k] for k in ("observations", "samples", "files")}}
    not_written = {name: n for name, n in left.items() if n}
    if as_json:
        typer.echo(json.dumps(facts | {"left_out": not_written}, indent=2))
        return
    typer.echo(f"{found['observations']} observations, {found['samples']} samples in {found['files']} files of {out}")
    for name, n in not_written.items():
        typer.echo(f"  left out: {n} {LEFT[name]}")


def _files(format_: str, observations: list[Observation], left: Counter[str]) -> Iterator[tuple[str, bytes]]:
    from wardround.collect import export as writers  # noqa: PLC0415
    from wardround.process.tables import parquet_of  # noqa: PLC0415

    if format_ == "fhir":
        return writers.to_fhir(observations)
    if format_ == "senml":
        return writers.to_senml(observations, left)
    if format_ == "wfdb":
        return writers.to_wfdb(observations, left)
    return iter([("observations.parquet", parquet_of(observations))])


def _days(
    lake: Lake, subject: str, codes: list[str] | None, since_us: int | None, until_us: int | None
) -> Iterator[tuple[str, list[Observation]]]:
    """Day by day, so that a long stay needs no more memory than a day."""
    from wardround.process.tables import BRONZE, start_of  # noqa: PLC0415

    for day in sorted(lake.files_by_day(BRONZE)):
        begin = max(start_of(day), since_us or 0)
        end = min(start_of(day) + DAY_US, until_us or start_of(day) + DAY_US)
        if begin >= end:
            continue
        rows = lake.observations(subjects=[subject], codes=codes, since_us=begin, until_us=end)
        if mine := sorted((o for o in rows if begin <= o.t0_us < end), key=lambda o: (o.edge, o.device, o.t0_us)):
            yield day, mine


def _time_us(text: str) -> int | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise SettingsError(f"{text[:40]!r} is no time", remedy="write it as 2026-01-31T12:00") from exc
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6)
