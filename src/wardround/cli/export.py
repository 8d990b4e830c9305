"""`wardround process export`: patients' observations out of the lake for one study, in formats that others read."""

from __future__ import annotations

import getpass
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.cli.export_names import LakeNames, LeftOut, StudyNames, names_for
from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock, utc
from wardround.errors import ProcessError, SettingsError
from wardround.settings import HubSettings, load_settings
from wardround.trust.audit import subject_ref
from wardround.trust.audit_files import open_log
from wardround.trust.exports import ExportBook
from wardround.trust.names import check_name

if TYPE_CHECKING:
    from wardround.process.lake import Lake
    from wardround.records import Observation

FORMATS = ("fhir", "senml", "wfdb", "parquet")
DAY_US = 86_400_000_000
REFS_MAX = 100  # of subjects in one entry of the audit log; the book of exports has them all
LEFT = {
    "no-number": "observations that must not be believed as numbers",
    "before-1978": "observations that SenML cannot date",
    "no-waveform": "scalars, words and irregular runs, which WFDB does not hold: use fhir, senml or parquet",
    "wfdb-grid": "runs on a grid that WFDB does not have",
}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be written."""

    format: str
    codes: list[str] | None
    since_us: int | None
    until_us: int | None


@dataclass
class _Written:
    """What was."""

    found: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)


def export(
    out: Annotated[Path, typer.Option(help="A folder that is empty or not there yet.")],
    subject: Annotated[list[str] | None, typer.Argument(help="Pseudonyms, whole; everyone when none is given.")] = None,
    study: Annotated[str, typer.Option(help="Whom it is for: patients get this study's own pseudonyms.")] = "",
    lake_names: Annotated[
        bool, typer.Option("--lake-names", help="One patient under the hub's own pseudonym, which whoever has another can link.")
    ] = False,
    format_: Annotated[str, typer.Option("--format", help="fhir (R4 Bundles), senml, wfdb or parquet.")] = "fhir",
    signal: Annotated[list[str] | None, typer.Option(help="A signal's key or code; all when none is named.")] = None,
    since: Annotated[str, typer.Option(help="From here on, UTC, as 2026-01-31T12:00.")] = "",
    until: Annotated[str, typer.Option(help="Until before here, UTC.")] = "",
    wait_s: Annotated[float, typer.Option(help="How long to wait for edges that are away.", min=1, max=3600)] = 60.0,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Write patients' observations to files, with the numbers that were received; what a format cannot hold is counted.

    With --study NAME a patient has a pseudonym of that study alone: two recipients cannot put their exports together by names.
    The patients' edges make it, asked through the running hub, for those whose consent allows research with raw data; who was
    left out, and why, is said. Files are read back by `wardround edge import`.
    """
    from wardround.collect.signals import load_signals  # noqa: PLC0415 - the hub's libraries take a second
    from wardround.processing import open_lake  # noqa: PLC0415

    if format_ not in FORMATS:
        raise SettingsError(f"format `{format_}` is not known", remedy=f"choose one of: {', '.join(FORMATS)}")
    if bool(study) == lake_names:
        raise SettingsError(
            "say whom the export is for",
            remedy="give --study NAME; or --lake-names: one patient under the hub's own pseudonym, for one recipient alone",
        )
    if lake_names and len(subject or []) != 1:
        raise SettingsError("--lake-names is for one patient", remedy="name one, or give --study NAME")
    if study:
        check_name(study, what="study")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} is not empty", remedy="give a folder of its own to --out")
    codes = [load_signals().resolve(name).code for name in signal] if signal else None
    wanted = _Wanted(format_, codes, _time_us(since), _time_us(until))
    lake = open_lake(home, load_settings(home / "hub.toml", HubSettings))
    with names_for(
        home, lake, study, subjects=subject, codes=codes, since_us=wanted.since_us, until_us=wanted.until_us, wait_s=wait_s
    ) as names:
        if study and not names.subjects():
            why = "; ".join(_named(x) for x in names.left_out[:10]) or "the lake holds nothing that was asked for"
            raise ProcessError(f"nothing can be written for study {study}: {why}", remedy="see why each was left out")
        number = _note(home, names, study, format_)
        out.mkdir(parents=True, exist_ok=True)
        written = _write(lake, names, wanted, out)
    _say(names, written, study, number, out, format_, as_json=as_json)


def exports(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List what left the hub with patients' rows in it: when, for which study, how many patients, by whom."""
    load_settings(home / "hub.toml", HubSettings)
    with closing(ExportBook(home / "exports.sqlite")) as book:
        found = book.all()
    if as_json:
        facts = [{"export": e.number, "study": e.study, "t_us": e.t_us, "who": e.who, "format": e.format} for e in found]
        typer.echo(json.dumps([f | {"subjects": e.subjects} for f, e in zip(facts, found, strict=True)], indent=1))
        return
    if not found:
        typer.echo("Nothing was exported. See wardround process export --help")
    for e in found:
        of = f"study {e.study}" if e.study else "the lake's own names"
        typer.echo(f"export {e.number}  {utc(e.t_us):%Y-%m-%d %H:%M} UTC  {of}  {e.subjects} patients  {e.format}  by {e.who}")


def _note(home: Path, names: StudyNames | LakeNames, study: str, format_: str) -> int:
    """In the book of exports and in the audit log, before a byte is written; the export's number."""
    who, clock, subjects = getpass.getuser(), SystemClock(), sorted(names.subjects())
    with closing(ExportBook(home / "exports.sqlite")) as book:
        number = book.add(study, who, format_, subjects, clock.now_us())
    with closing(open_log(home, clock)) as log:
        refs = [subject_ref(s) for s in subjects[:REFS_MAX]]
        facts = {"study": study, "export": number, "subjects": len(subjects), "refs": refs, "left_out": len(names.left_out)}
        log.add("export", "observations exported", who, **facts)
    return number


def _write(lake: Lake, names: StudyNames | LakeNames, wanted: _Wanted, out: Path) -> _Written:
    written = _Written()
    for subject in sorted(names.subjects()):
        for day, observations in _days(lake, subject, wanted):
            if not (mine := [named for o in observations if (named := names.rename(o)) is not None]):
                continue
            written.found.update(observations=len(mine), samples=sum(o.n for o in mine))
            for name, part in groupby(mine, key=lambda o: str(o.subject)):  # of two edges: two names
                _put(written, names.folder(out, name) / day, _files(wanted.format, list(part), written.left))
    return written


def _put(written: _Written, folder: Path, files: Iterator[tuple[str, bytes]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)  # files of a WFDB record name each other, and stand together
    for name, data in files:
        (folder / name).write_bytes(data)
        written.found["files"] += 1


def _say(
    names: StudyNames | LakeNames, written: _Written, study: str, number: int, out: Path, format_: str, *, as_json: bool
) -> None:
    found, not_written = written.found, {name: n for name, n in written.left.items() if n}
    facts = {"out": str(out), "format": format_, **{k: found[k] for k in ("observations", "samples", "files")}}
    facts |= {"study": study, "export": number, "subjects": len(names.subjects())}
    if as_json:
        gone = [{"subject": x.subject, "edge": x.edge, "why": x.why} for x in names.left_out]
        typer.echo(json.dumps(facts | {"left_out": not_written, "subjects_left_out": gone}, indent=2))
        return
    typer.echo(f"{found['observations']} observations, {found['samples']} samples in {found['files']} files of {out}")
    for name, n in not_written.items():
        typer.echo(f"  left out: {n} {LEFT[name]}")
    if study:
        typer.echo(f"Export {number} for study {study}: {len(names.subjects())} patients under pseudonyms of that study alone.")
    for x in names.left_out:
        typer.echo(f"  left out: {_named(x)}")


def _named(left: LeftOut) -> str:
    return f"{left.subject}{f' at {left.edge}' if left.edge else ''}: {left.why}"


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


def _days(lake: Lake, subject: str, wanted: _Wanted) -> Iterator[tuple[str, list[Observation]]]:
    """Day by day, so that a long stay needs no more memory than a day."""
    from wardround.process.tables import BRONZE, start_of  # noqa: PLC0415

    for day in sorted(lake.files_by_day(BRONZE)):
        begin = max(start_of(day), wanted.since_us or 0)
        end = min(start_of(day) + DAY_US, wanted.until_us or start_of(day) + DAY_US)
        if begin >= end:
            continue
        rows = lake.observations(subjects=[subject], codes=wanted.codes, since_us=begin, until_us=end)
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
