"""`wardround study updates`: what every edge sent, and what became of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.cli.models import Name, study_of
from wardround.clock import utc
from wardround.errors import LearnError
from wardround.learn.study import parse_study

if TYPE_CHECKING:
    from pathlib import Path

    from wardround.learn.journal import Journal
    from wardround.learn.study import Study


def updates(
    name: Name,
    round_number: Annotated[int | None, typer.Option("--round", help="Of this round alone.", min=0)] = None,
    edge: Annotated[str, typer.Option(help="Of this edge alone.")] = "",
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every kept signature again; fails if one does not hold.")
    ] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """List the updates of a study, newest first: the edge, its round, what it counts for.

    Each is signed by its edge's own key. --verify checks every signature again, against the hub's authority, the journal and,
    where the bytes are still there, the file.
    """
    from wardround.collect.storage import FolderStorage  # noqa: PLC0415
    from wardround.learn.journal import Journal  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        study = parse_study(study_of(store, name).toml, where=name)
    folder = home / "studies" / name
    rows: list[dict[str, Any]] = []
    if (folder / "journal.sqlite").exists():
        journal = Journal(FolderStorage(folder).connect)
        for number in reversed(journal.rounds()):
            if round_number in (None, number):
                rows += [r for r in _rows(journal, study, number, home, verify=verify) if edge in ("", r["edge"])]
        journal.close()
    wrong = [r for r in rows if r.get("wrong")]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif not rows:
        typer.echo(f"{name}: no update yet.")
    else:
        _show(rows, verify=verify)
        if verify:
            typer.echo(f"{len(rows) - len(wrong)} of {len(rows)} hold: the edge's own key signed what the journal says.")
    if wrong:
        raise LearnError(
            f"{len(wrong)} of {len(rows)} updates of {name} are not what their edges signed",
            remedy="set the journal beside its backup; do not use models that these updates are in",
        )


def _rows(journal: Journal, study: Study, number: int, home: Path, *, verify: bool) -> list[dict[str, Any]]:
    """The facts of a round's updates."""
    from wardround.learn.announcements import wrong_with  # noqa: PLC0415
    from wardround.learn.blobs import FolderBlobs  # noqa: PLC0415
    from wardround.learn.journal import update_name  # noqa: PLC0415

    blobs, signatures = FolderBlobs(home / "studies" / study.name), journal.signatures(number)
    authority = (home / "pki" / "ca.pem").read_bytes()
    rows = []
    for update in journal.accepted(number).values():
        signed = signatures.get(update.edge)
        facts: dict[str, Any] = {
            "round": number,
            "edge": update.edge,
            "based_on": update.based_on,
            "sha256": update.sha256,
            "norm": update.norm,
            "counted": update.examples,
            "certificate": signed.serial if signed is not None else "",
            "t_us": signed.t_us if signed is not None else 0,
        }
        if verify:
            path = update_name(number, update.edge)
            as_sent = blobs.size(path) and not (study.compression.zstd and number)  # a zstd stream is kept unpacked
            digest = blobs.sha256(path) if as_sent else ""
            facts["wrong"] = wrong_with(update, signed, study=study.name, authority=authority, file_sha256=digest)
        rows.append(facts)
    return rows


def _show(rows: list[dict[str, Any]], *, verify: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("round", "edge", "norm", "counted", "update", "certificate", "taken", *(["signature"] if verify else [])):
        table.add_column(heading)
    for r in rows:
        table.add_row(
            str(r["round"]),
            r["edge"],
            f"{r['norm']:.3g}",
            f"{r['counted']:,}",
            r["sha256"][:8],
            r["certificate"][:8] or "-",
            f"{utc(r['t_us']):%Y-%m-%d %H:%M:%S} UTC" if r["t_us"] else "-",
            *([r["wrong"] or "holds"] if verify else []),
        )
    Console().print(table)


def add_to(app: typer.Typer) -> None:
    """Make it a command of `wardround study`."""
    app.command()(updates)
