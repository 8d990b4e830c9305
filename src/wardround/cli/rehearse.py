"""`wardround study rehearse`: a study over virtual edges on this machine, before a hospital runs it."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from wardround.cli.hub import AsJson
from wardround.collect.signals import load_signals
from wardround.errors import StudyError
from wardround.learn.study import Study, load_study
from wardround.learn.study_checks import check as check_study
from wardround.process.transforms import TASKS

if TYPE_CHECKING:
    from wardround.rehearsal.data import Population
    from wardround.rehearsal.run import Rehearsal, Rehearsed

EDGES = 100  # with simulated patients
ROWS = 8  # of the table of rounds


def add_to(app: typer.Typer) -> None:
    """Add the command to those of `wardround study`."""
    app.command("rehearse")(rehearse)


def rehearse(
    file: Annotated[Path, typer.Argument(help="The study's file, for example study.toml.")],
    edges: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help=f"Virtual edges. Default: one a file of --data, else {EDGES}."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds, instead of the study's own number.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Recordings (as for `wardround demo --records`) or tables of examples. Default: simulated patients."),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(min=1e-3, max=1e4, help="How alike the edges' labels are when examples are split: 0.1 hardly, 100 quite."),
    ] = 0.5,
    faults: Annotated[str, typer.Option(help="What goes wrong, as shares: absent=0.1,slow=0.2,nan=0.02,label-flip=0.1.")] = "",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of patients, split, faults and training, instead of learner.seed.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="No triage and no screen: several times faster, and nobody is found out.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(min=0, max=256, help="Processes that train, over examples on disk: for fleets larger than memory."),
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write rehearsal.json, model.safetensors and score.svg to this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a study over virtual edges on this machine: will it learn, how many rounds does it take, what do faults do to it?

    Learner, strategy, compression, rounds and triage are those of a hub with as many edges; links and disks alone are left out.

    Every model is scored on subjects that the study's own rule holds back. docs/rehearse.md has more.
    """
    from wardround.learn.faults import parse_faults  # noqa: PLC0415 - JAX and SciPy, about two seconds
    from wardround.rehearsal.run import Rehearsal  # noqa: PLC0415

    study = adapted(load_study(file), rounds, seed)
    wrong = parse_faults(faults)
    check_study(study, TASKS, signals=load_signals().names())
    if study.kind != "model":
        raise StudyError(f"{study.name} is a study of kind `{study.kind}`", remedy="rehearse one that makes a model")
    task = TASKS[study.task]
    screen = Console(stderr=True)
    with _progress(screen) as progress:
        population = population_of(study, data, edges, alpha, progress)
        rehearsal = Rehearsal(study, population, len(task.classes), study.score.metric or task.metric, wrong, fast, workers)
        with closing(rehearsal):
            _run(rehearsal, progress)
    written = rehearsal.write(out) if out is not None else []
    if as_json:
        typer.echo(json.dumps(rehearsal.facts(), indent=2))
        return
    _report(rehearsal, written)


def _run(rehearsal: Rehearsal, progress: Progress) -> None:
    """All rounds, with a bar."""
    bar = progress.add_task("rounds", total=rehearsal.study.rounds.count)
    began = time.perf_counter()
    for done in rehearsal.run():
        score = "" if done.score is None else f"{rehearsal.metric} {done.score:.3f}, "
        each = (time.perf_counter() - began) / done.number
        said = f"round {done.number}: {score}{done.participants} edges, {each:.2g} s a round"
        progress.update(bar, completed=done.number, description=said)


def adapted(study: Study, rounds: int | None, seed: int | None) -> Study:
    """The study with what the command line says instead."""
    if rounds is not None:
        study = msgspec.structs.replace(study, rounds=msgspec.structs.replace(study.rounds, count=rounds))
    if seed is not None:
        study = msgspec.structs.replace(study, learner=msgspec.structs.replace(study.learner, seed=seed))
    return study


def _progress(screen: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=screen, transient=True)


def population_of(study: Study, data: Path | None, edges: int | None, alpha: float, progress: Progress) -> Population:
    """Whose examples are rehearsed with, as --data and --edges say."""
    from wardround.rehearsal.data import recorded_population, simulated_population  # noqa: PLC0415

    task, bars = TASKS[study.task], dict[str, TaskID]()

    def heard(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = progress.add_task(what, total=total)
        progress.update(bars[what], completed=done + 1)

    seed = study.learner.seed
    if data is None:
        return simulated_population(task, study.score, edges=edges or EDGES, alpha=alpha, seed=seed, heard=heard)
    return recorded_population(data, task, study.score, edges=edges, alpha=alpha, seed=seed, heard=heard)


def _report(rehearsal: Rehearsal, written: list[Path]) -> None:
    from wardround.rehearsal.chart import text_chart  # noqa: PLC0415

    console, study, population = Console(highlight=False), rehearsal.study, rehearsal.population
    sizes = sorted(len(e) for e in population.edges.values())
    console.print(
        f"{study.name}: {study.strategy.name} over {len(population.edges):,} virtual edges of {sizes[0]} to {sizes[-1]} examples "
        f"(median {sizes[len(sizes) // 2]}); {population.source}",
        soft_wrap=True,
    )
    if rehearsal.unusable:
        console.print(f"  {rehearsal.unusable} of them have fewer than {study.rounds.examples_min} examples and are never asked")
    table = Table(box=None, pad_edge=False)
    for heading in ("round", rehearsal.metric, "loss", "edges", "lost", "refused", "aside", "s", "virtual s"):
        table.add_column(heading, justify="right")
    for one in _chosen(rehearsal):
        table.add_row(
            str(one.number),
            "-" if one.score is None else f"{one.score:.4f}",
            "-" if one.loss is None else f"{one.loss:.4f}",
            str(one.participants),
            str(one.lost),
            str(one.refused),
            str(one.aside),
            f"{one.seconds:.2f}",
            f"{one.virtual_s:,.0f}",
        )
    console.print(table)
    rounds, scores = rehearsal.scores()
    for line in text_chart(rounds, scores):
        console.print(line, markup=False)
    if not scores:
        console.print("No score: no subject is held back. Raise score.held_back, or name some in score.held_back_subjects.")
    _report_aside(console, rehearsal)
    for path in written:
        console.print(f"written: {path}", soft_wrap=True)


def _report_aside(console: Console, rehearsal: Rehearsal) -> None:
    """Whom the screen set aside, and whether their labels had been flipped."""
    wrong, aside = rehearsal.flipped & set(rehearsal.fleet.names), set(rehearsal.aside)
    if wrong and not rehearsal.fast:
        console.print(f"labels flipped at {len(wrong)} edges; the screen set {len(wrong & aside)} of them aside")
    if others := sorted(aside - wrong):
        console.print(f"set aside without a fault: {', '.join(others[:8])}{' ...' if len(others) > 8 else ''}")


def _chosen(rehearsal: Rehearsal) -> list[Rehearsed]:
    """Rounds of the table: the first, the last, and some between."""
    done = rehearsal.rounds
    step = max(1, -(-(len(done) - 1) // (ROWS - 1)))
    return [*done[:-1:step], *done[-1:]]
