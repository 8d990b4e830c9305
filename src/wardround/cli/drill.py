"""`wardround drill`: faults put into a rehearsal on purpose. Is each seen, how soon, and who is named?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from wardround.cli.drill_live import play_live, say_live
from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.cli.rehearse import population_of
from wardround.collect.signals import load_signals
from wardround.errors import StudyError
from wardround.learn.study import load_study
from wardround.learn.study_checks import check as check_study
from wardround.process.transforms import TASKS

if TYPE_CHECKING:
    from wardround.drill.course import Course, Plan
    from wardround.drill.outcome import Drilled

ROUNDS_MIN, ROUNDS_MAX = 10, 100_000


def drill(
    fault: Annotated[str, typer.Option(help="A fault, several with commas, or all. --list shows them.")] = "all",
    list_: Annotated[bool, typer.Option("--list", help="Show every fault: what happens, and what should see it.")] = False,
    study: Annotated[
        Path | None, typer.Option(help="Your own study's file. Default: a synthetic study of 40 wards that differ.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="With --study: recordings or tables, as `study rehearse` takes them. Default: simulated."),
    ] = None,
    edges: Annotated[
        int | None, typer.Option(min=8, max=100_000, help="With --study: virtual edges, as for `study rehearse`.")
    ] = None,
    mode: Annotated[
        str,
        typer.Option(help="Without --study: clear; or blind, where the hub has sums alone and edges screen themselves."),
    ] = "clear",
    seeds: Annotated[str, typer.Option(help="Each fault is played once with every seed.")] = "0,1,2",
    from_round: Annotated[
        int, typer.Option(min=0, max=50_000, help="The fault's first round; 0: it was always there, so nobody has a past.")
    ] = 120,
    rounds: Annotated[int | None, typer.Option(min=ROUNDS_MIN, max=ROUNDS_MAX, help="Of a run; 80 with the fault.")] = None,
    healthy: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Rounds without any fault beside: what is said in them is a false alarm.")
    ] = 0,
    live: Annotated[
        bool, typer.Option("--live", help="On the hub that runs in --home, with its edges that allow it: a sandbox.")
    ] = False,
    strike: Annotated[str, typer.Option(help="With --live: who is struck, names with commas. Default: by the seed.")] = "",
    tell: Annotated[
        bool, typer.Option("--tell", help="With --live: send the alerts to people, too; their titles begin with DRILL.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="With --live: leave journal and models in the hub's drills folder.")
    ] = False,
    minutes: Annotated[float, typer.Option(min=1, max=120, help="With --live: a run that is not over then is ended.")] = 30.0,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as docs/drill.md has it.")] = False,
) -> None:
    """Put faults into a rehearsal on purpose: does the watch see each, how soon, whom does it name, and what is done about it?

    Triage, screens, detectors, thresholds and quarantine are those of a hub. The exit code is 1 when a fault was not seen.
    With --live they are those of your hub, and real edges are struck: those with `learning.drills = true` in edge.toml.

    [b]wardround drill --fault label-flip --seeds 0[/b] takes some ten seconds. docs/drill.md shows what all of them give.
    """
    from wardround.drill.catalogue import FAULTS, FROM_THE_START, chosen  # noqa: PLC0415 - JAX and SciPy, about two seconds
    from wardround.drill.course import ROUNDS_AFTER, Course, synthetic_plan  # noqa: PLC0415
    from wardround.drill.live import Options  # noqa: PLC0415
    from wardround.drill.page import markdown  # noqa: PLC0415

    if list_:
        _list(as_json=as_json)
        return
    numbers = seeds_of(seeds)
    count = rounds if rounds is not None else from_round + ROUNDS_AFTER
    if count <= from_round + 1:
        raise StudyError(f"--rounds {count} ends before the fault of round {from_round}", remedy="raise --rounds")
    if study is None and (data is not None or edges is not None):
        raise StudyError("--data and --edges are for a study of your own", remedy="give its file with --study")
    if study is not None and mode != "clear":
        raise StudyError("--mode is for the drill's own study", remedy="write privacy.mode into the study's file")
    if live and (study is not None or healthy):
        raise StudyError("--study and --healthy are for rehearsals", remedy="a live drill plays a synthetic study of its own")
    played: dict[str, Any] = {}
    if live:
        struck = tuple(sorted({name.strip() for name in strike.split(",") if name.strip()}))
        done, played = play_live(home, fault, numbers, Options(count, from_round, struck, minutes, tell, keep))
        words = f"live at {home}: {len(played['edges'])} edges, a sandbox of synthetic wards"
    else:
        faults = [] if fault == "none" else chosen(fault, FROM_THE_START if from_round == 0 else tuple(FAULTS))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            plan = synthetic_plan(count, mode) if study is None else _own(study, data, edges, count, progress)
            course = Course(plan, faults, numbers, from_round, healthy)
            _play(course, progress)
        done, words = course.done, plan.words
    if as_json:
        more = {"live": played} if live else {}
        typer.echo(json.dumps({"study": words, "seeds": numbers, **done.facts(), **more}, indent=2))
    elif as_markdown:
        typer.echo(markdown(done.facts()))
    else:
        _report(done, words)
        say_live(played)
    if done.missed:
        raise typer.Exit(1)


def seeds_of(text: str) -> list[int]:
    """`0,1,2` as numbers.

    Raises:
        StudyError: they are none.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise StudyError(f"--seeds {text!r} are no seeds", remedy="write them like 0,1,2")
    return found


def _own(file: Path, data: Path | None, edges: int | None, count: int, progress: Progress) -> Plan:
    from wardround.drill.course import own_plan  # noqa: PLC0415

    study = load_study(file)
    check_study(study, TASKS, signals=load_signals().names())
    if study.kind != "model":
        raise StudyError(f"{study.name} is a study of kind `{study.kind}`", remedy="drill one that makes a model")
    population = population_of(study, data, edges, 0.5, progress)
    task = TASKS[study.task]
    return own_plan(study, population, len(task.classes), study.score.metric or task.metric, count)


def _play(course: Course, progress: Progress) -> None:
    bar = progress.add_task("drill", total=course.rounds)
    for run in course.run():
        said = sum(s.number >= max(1, run.from_round) for s in run.sightings)
        words = f"{run.fault or 'healthy'}, seed {run.seed}: {said} sightings" if run.fault else f"healthy, seed {run.seed}"
        progress.update(bar, advance=1, description=words)


def _list(*, as_json: bool) -> None:
    from wardround.drill.catalogue import FAULTS  # noqa: PLC0415

    if as_json:
        rows = [
            {"fault": f.name, "title": f.title, "story": f.story(), "seen_by": f.seen_by, "share": f.share, "within": f.delay_max}
            for f in FAULTS.values()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    console = Console(highlight=False)
    for f in FAULTS.values():
        who = f"{f.share:.1%} of the edges" if f.share else "nobody's"
        console.print(f"[b]{f.name}[/b]  {f.title} ({who})")
        console.print(f"  {f.story()}")
        start = f" From round 0: {f.from_the_start}." if f.from_the_start else ""
        console.print(f"  [dim]Seen by: {f.seen_by}; within {f.delay_max} rounds.{start}[/dim]\n")


def _report(done: Drilled, words: str) -> None:
    from wardround.drill.page import sentences  # noqa: PLC0415

    console, facts = Console(highlight=False), done.facts()
    since = f"from round {done.from_round} on" if done.from_round else "from the start"
    if done.outcomes:
        console.print(f"{words}; each fault {since}", soft_wrap=True)
        console.print(_table(facts))
    for said in sentences(facts):
        console.print(said, soft_wrap=True)
    for name in done.missed:
        console.print(f"[b]not seen in every run: {name}[/b]")


def _table(facts: Mapping[str, Any]) -> Table:
    from wardround.drill.page import HEADINGS, cells  # noqa: PLC0415

    table = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in (HEADINGS[0], *HEADINGS[-2:]) else "right")
    for row in facts["faults"]:
        table.add_row(*cells(row))
    return table
