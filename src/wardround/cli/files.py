"""`wardround edge import`: recordings in files, through the same gate as what devices send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo, available_timezones

import typer

from wardround.cli.handing import Hand, progress
from wardround.clock import SystemClock
from wardround.collect.devices.reading import Reading, Taken
from wardround.collect.files.folder import opened
from wardround.collect.files.formats import FORMATS, Format, read
from wardround.collect.files.opened import Known, Opened
from wardround.collect.observing import check_time
from wardround.collect.signals import Signal, Signals, load_signals
from wardround.errors import DecodeError, SettingsError

WHY_MAX = 5
SET_ASIDE_MAX = 100  # of one reason in one file: the rest stays in the file, which can be imported again
DEFAULT_HOME = Path.home() / ".wardround" / "edge"


@dataclass
class Tally:
    """What one file gave: decoded, refused, and, unless it was a dry run, what became of it at the gate."""

    file: str
    observations: int = 0
    samples: int = 0
    signals: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    why: dict[str, list[str]] = field(default_factory=dict)  # of each reason, the first few that differ
    taken: Taken | None = None

    def count(self, signal: Signal, reading: Reading) -> None:
        """Count an observation."""
        self.observations += 1
        self.samples += reading.n
        self.signals[signal.key] = self.signals.get(signal.key, 0) + reading.n

    def refuse(self, error: DecodeError) -> int:
        """Count a part that was not taken; how many there are of its reason."""
        self.refused[error.reason] = self.refused.get(error.reason, 0) + 1
        words = self.why.setdefault(error.reason, [])
        if len(words) < WHY_MAX and str(error) not in words:
            words.append(str(error))
        return self.refused[error.reason]

    def lines(self) -> Iterator[str]:
        """For people."""
        found = ", ".join(f"{n} {key}" for key, n in self.signals.items())
        yield f"{self.file}: {self.observations} observations, {self.samples} samples{f' ({found})' if found else ''}"
        if self.taken is not None:
            words = {"kept": "kept", "repeated": "there already", "not_kept": "not kept, no consent", "set_aside": "set aside"}
            yield "  " + ", ".join(f"{getattr(self.taken, key)} {word}" for key, word in words.items())
        for reason, count in self.refused.items():
            yield f"  refused: {reason} ({count}): {'; '.join(self.why[reason])}"
        if "no-date" in self.refused:
            yield "  do: say when the recording began with --start 2026-03-01T08:30:00+01:00"


def import_files(
    files: Annotated[list[Path], typer.Argument(help="FIT, WFDB (.hea, .atr), EDF, BDF, Apple Health, SenML, FHIR, Bluetooth.")],
    patient: Annotated[str, typer.Option(help="Whose recordings they are; stays on this edge.")] = "",
    device: Annotated[str, typer.Option(help="What recorded them; registered for the patient if it is new.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and show, store nothing. Needs no joined edge.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Facts; with --dry-run one decoded observation a line.")] = False,
    format_: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}, if the content is not clear.")] = "",
    time_zone: Annotated[str, typer.Option(help="Of a recorder whose times have no zone, such as Europe/Vienna.")] = "",
    start: Annotated[str, typer.Option(help="When it began, if the file does not say: 2026-03-01T08:30:00+01:00.")] = "",
    home: Annotated[Path, typer.Option(help="The edge's folder.")] = DEFAULT_HOME,
) -> None:
    """Import recordings from files: through the same gate as what devices send, once each, however often it is tried.

    What a file is, its content says. A file that is damaged, or whose numbers are not certain, is refused with the reason.
    Consent decides what is kept (`wardround edge device NAME --patient ID --consent ...`). A running edge takes the
    observations over; where none runs, this command does its work.
    """
    known = Known(SystemClock().now_us(), _zone(time_zone), _start(start))
    if format_ and format_ not in FORMATS:
        raise SettingsError(f"format `{format_}` is not known", remedy=f"choose one of: {', '.join(FORMATS)}")
    if not dry_run and not (patient and device):
        raise SettingsError("whose recordings these are is not said", remedy="give --patient ID and --device NAME, or --dry-run")
    table = _table(home)
    empty = 0
    with ExitStack() as stack:
        hand = None if dry_run else stack.enter_context(Hand.open(home, patient, device))
        for path in files:
            tally = _read_file(path, known, format_ or None, table, hand, as_json=as_json)
            empty += not tally.observations
            _report(tally, as_json=as_json, dry_run=dry_run)
    if empty:
        raise typer.Exit(1)


def dry_run(path: Path) -> Tally:
    """What a file gives, with nothing known of it but its bytes."""
    return _read_file(path, Known(SystemClock().now_us()), None, load_signals(), None, as_json=False)


def _report(tally: Tally, *, as_json: bool, dry_run: bool) -> None:
    if not as_json:
        typer.echo("\n".join(tally.lines()))
    elif not dry_run:
        typer.echo(json.dumps(asdict(tally)))
    elif tally.refused:
        typer.echo(json.dumps({"file": tally.file, "refused": tally.refused, "why": tally.why}), err=True)


def _read_file(path: Path, known: Known, format_: Format | None, table: Signals, hand: Hand | None, *, as_json: bool) -> Tally:
    tally = Tally(path.name)
    try:
        with opened(path) as file, progress(file, visible=not (as_json and hand is None)) as step:
            dated, items = (True, read(file, known, format_)) if hand else _items(file, known, format_)
            for item in items:
                step(tally.observations)
                if isinstance(item, DecodeError):
                    tally.refuse(item)
                    continue
                try:
                    signal, reading = table.canonical(item)
                    if dated:
                        check_time(reading, known.now_us, earliest_us=0)  # a recording may be old
                except DecodeError as error:
                    if tally.refuse(error) <= SET_ASIDE_MAX and hand:
                        hand.put(item)  # the gate sets it aside, to be replayed once it is mapped
                    continue
                tally.count(signal, reading)
                if hand:
                    hand.put(item)
                elif as_json:
                    typer.echo(json.dumps({"file": path.name} | shown(signal, reading, dated=dated)))
    except DecodeError as error:
        tally.refuse(error)
    if hand:
        tally.taken = hand.finish()
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
