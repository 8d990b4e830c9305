"""`wardround study columns` and `wardround study examples`: a study on the reader's own CSV of a wearable."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from wardround.cli.hub import AsJson
from wardround.errors import StudyError
from wardround.process.transforms import TASKS

Sheet = Annotated[Path, typer.Argument(help="CSV with a header: one row a sample, with a time, a label, and the signals.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to those of `wardround study`."""
    app.command("columns")(columns)
    app.command("examples")(examples)


def columns(
    file: Sheet,
    task: Annotated[str, typer.Option(help="What an example is; `study tasks` lists them.")] = "activity",
) -> None:
    """Print what the columns of a wearable's CSV are, as far as its header and rows say: to be read and mended.

    What the file leaves open is written as "?": units that the header does not name are never guessed.

    Example: wardround study columns wearable.csv > columns.toml
    """
    from wardround.rehearsal.sheet_columns import movement_task, propose  # noqa: PLC0415

    movement_task(task, TASKS)
    typer.echo(propose(file), nl=False)


def examples(
    file: Sheet,
    columns: Annotated[Path, typer.Option(help="What its columns are, from `study columns`.")] = Path("columns.toml"),
    out: Annotated[Path | None, typer.Option(help="Folder for the table of examples; not needed with --dry-run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read, check and count; write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make examples of a wearable's CSV, for `wardround study rehearse --data`: by the same transforms as at an edge.

    A wrong column, number, time, unit or label stops it with the line and what to do. Rows with an empty cell are gaps.

    Example: wardround study examples wearable.csv --out examples
    """
    from wardround.rehearsal.sheet_columns import load_columns  # noqa: PLC0415
    from wardround.rehearsal.sheets import read_sheet, write_table  # noqa: PLC0415 - SciPy

    if out is None and not dry_run:
        raise StudyError("where to write the examples is not said", remedy="give --out FOLDER, or --dry-run")
    target = None if out is None else out / f"{file.stem}.parquet"
    if target is not None and not dry_run and target.exists():
        raise StudyError(f"{target} is there already", remedy="delete it, or give another --out")
    mapping, task = load_columns(columns, TASKS)
    screen = Console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bar:
        line = bar.add_task(f"reading {file.name}", total=file.stat().st_size if file.is_file() else None)
        found = read_sheet(file, mapping, task, heard=lambda done: bar.update(line, completed=done))
    count = Counter(task.classes[label] for e in found.edges.values() for label in e.labels if label >= 0)
    subjects = {str(s) for e in found.edges.values() for s in e.subjects}
    if target is not None and not dry_run:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_table(target, found.edges, task)
        except OSError as exc:
            raise StudyError(f"{target} cannot be written: {exc.strerror}", remedy="give a folder that you may write to") from exc
    if as_json:
        facts = {"rows": found.rows, "gaps": found.gaps, "subjects": len(subjects), "edges": len(found.edges)}
        typer.echo(json.dumps(facts | {"examples": dict(count), "rates_hz": dict(found.rates_hz)}))
        return
    low, high = min(found.rates_hz.values()), max(found.rates_hz.values())
    rate = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
    typer.echo(
        f"{file.name}: {found.rows:,} rows, {found.gaps:,} with an empty cell; {len(subjects)} subjects, "
        f"{found.seconds / 60:.3g} minutes at {rate} Hz, {len(found.edges)} edges"
    )
    typer.echo("  examples: " + ", ".join(f"{count[c]:,} {c}" for c in task.classes))
    if lacking := [c for c in task.classes if not count[c]]:
        typer.echo(f"  no example of {', '.join(lacking)}: a model cannot learn them from this file")
    if len(subjects) < 5:
        typer.echo(f"  {len(subjects)} subjects: too few for a score on people whom the model has not seen to say much")
    typer.echo("nothing written: dry run" if dry_run else f"written: {target}")
