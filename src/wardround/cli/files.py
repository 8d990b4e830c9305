"""`wardround edge import`: recordings in files, through the same gate as what devices send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Annotated, Any, get_args
from zoneinfo import ZoneInfo, available_timezones

import typer

from wardround.clock import SystemClock
from wardround.collect.devices.reading import Reading
from wardround.collect.files.folder import opened
from wardround.collect.files.formats import FORMATS, Format, read
from wardround.collect.files.opened import Known, Opened
from wardround.collect.gateway import check_time
from wardround.collect.signals import Signal, Signals, load_signals
from wardround.errors import DecodeError, SettingsError

DEFAULT_HOME = Path.home() / ".wardround" / "edge"


@dataclass
class Tally:
    """What one file gave."""

    file: str
    observations: int = 0
    samples: int = 0
    signals: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)  # the first words of each reason

    def refuse(self, error: DecodeError) -> None:
        """Count a part that was not taken."""
        self.refused[error.reason] = self.refused.get(error.reason, 0) + 1
        self.why.setdefault(error.reason, str(error))

    def lines(self) -> Iterator[str]:
        """For people."""
        taken = ", ".join(f"{n} {key}" for key, n in self.signals.items())
        yield f"{self.file}: {self.observations} observations, {self.samples} samples{f' ({taken})' if taken else ''}"
        for reason, count in self.refused.items():
            yield f"  refused: {reason} ({count}): {self.why[reason]}"


def import_files(
    files: Annotated[list[Path], typer.Argument(help="FIT, SenML, FHIR or Bluetooth files; the content says which.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and show, store nothing. Needs no joined edge.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One decoded observation a line; what was refused on stderr.")] = False,
    format_: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}, if the content is not clear.")] = "",
    time_zone: Annotated[str, typer.Option(help="Of a recorder whose times have no zone, such as Europe/Vienna.")] = "",
    start: Annotated[str, typer.Option(help="When it began, if the file does not say: 2026-03-01T08:30:00+01:00.")] = "",
    home: Annotated[Path, typer.Option(help="The edge's folder.")] = DEFAULT_HOME,
) -> None:
    """Read recordings from files. A file that is damaged, or whose numbers are not certain, is refused with the reason."""
    known = Known(SystemClock().now_us(), _zone(time_zone), _start(start))
    if format_ and format_ not in get_args(Format):
        raise SettingsError(f"format `{format_}` is not known", remedy=f"choose one of: {', '.join(FORMATS)}")
    if not dry_run:
        raise SettingsError("storing is not here yet", remedy="give --dry-run")
    table = _table(home)
    empty = 0
    for path in files:
        tally = _show(path, known, format_ or None, table, as_json=as_json)  # type: ignore[arg-type]  # checked above
        empty += not tally.observations
        if not as_json:
            typer.echo("\n".join(tally.lines()))
        elif tally.refused:
            typer.echo(json.dumps({"file": tally.file, "refused": tally.refused, "why": tally.why}), err=True)
    if empty:
        raise typer.Exit(1)


def _show(path: Path, known: Known, format_: Format | None, table: Signals, *, as_json: bool) -> Tally:
    tally = Tally(path.name)
    try:
        with opened(path) as file:
            dated, items = _items(file, known, format_)
            for item in items:
                if isinstance(item, DecodeError):
                    tally.refuse(item)
                    continue
                try:
                    signal, reading = table.canonical(item)
                    if dated:
                        check_time(reading, known.now_us, earliest_us=0)  # a recording may be old
                except DecodeError as error:
                    tally.refuse(error)
                    continue
                tally.observations += 1
                tally.samples += reading.n
                tally.signals[signal.key] = tally.signals.get(signal.key, 0) + reading.n
                if as_json:
                    typer.echo(json.dumps({"file": path.name} | shown(signal, reading, dated=dated)))
    except DecodeError as error:
        tally.refuse(error)
    return tally


def _items(file: Opened, known: Known, format_: Format | None) -> tuple[bool, Iterator[Reading | DecodeError]]:
    """Whether times are dates, and the items. A recording without a date is shown with times from its start."""

    def first_then_rest(known: Known) -> Iterator[Reading | DecodeError]:
        items = read(file, known, format_)
        head = [next(items, None)]
        return (item for part in (head, items) for item in part if item is not None)

    try:
        return True, first_then_rest(known)
    except DecodeError as error:
        if error.reason != "no-date":
            raise
    return False, first_then_rest(Known(known.now_us, known.zone, 0))


def shown(signal: Signal, reading: Reading, *, dated: bool) -> dict[str, Any]:
    """One observation as `--json` prints it: samples in the signal's unit, times in UTC or from the start of the recording."""
    found: dict[str, Any] = {"signal": signal.key, "code": signal.code, "unit": signal.unit}
    if dated:
        found["time"] = datetime.fromtimestamp(reading.t_us / 1e6, UTC).isoformat()
        found["t_us"] = reading.t_us
    else:
        found["from_start_us"] = reading.t_us
    if reading.t_error_us:
        found["time_error_s"] = reading.t_error_us / 1e6
    found["n"] = reading.n
    if reading.text is not None:
        found["text"] = reading.text
    else:
        found["samples"] = reading.samples().tolist()
    if reading.period_us is not None:
        found["period_us"] = reading.period_us
    elif reading.n > 1:
        found["offsets_us"] = reading.offsets().tolist()
    return found | {"validity": reading.validity, "flags": reading.flags}


def _table(home: Path) -> Signals:
    """The code table, with the names that this edge has mapped."""
    from wardround.collect.names import SignalNames  # noqa: PLC0415

    return SignalNames(home / "names.toml").table() if (home / "names.toml").exists() else load_signals()


def _zone(name: str) -> tzinfo | None:
    if not name:
        return None
    if name not in available_timezones():
        raise SettingsError(f"time zone {name[:60]!r} is not known", remedy='use an IANA name, such as "Europe/Vienna"')
    return ZoneInfo(name)


def _start(text: str) -> int | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise SettingsError(f"--start {text[:40]!r} is no time", remedy="write it as 2026-03-01T08:30:00+01:00") from exc
    if at.tzinfo is None:
        raise SettingsError(f"--start {text[:40]!r} has no time zone", remedy="end it with Z or an offset such as +01:00")
    return round(at.timestamp() * 1e6)
