"""`wardround study`: write one, check it, start it, see how it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock, utc
from wardround.errors import StudyError
from wardround.learn.study import check as check_study
from wardround.learn.study import example_study, load_study
from wardround.process.transforms import TASKS

app = typer.Typer(no_args_is_help=True, help="Studies: one model, trained for one purpose by edges that keep their data.")
File = Annotated[Path, typer.Argument(help="The study's file, for example study.toml.")]


@app.command()
def new(
    task: Annotated[str, typer.Argument(help="What an example is; `study tasks` lists them.")],
    name: Annotated[str, typer.Option(help="The study's name.")] = "my-study",
) -> None:
    """Print a commented study to start from."""
    if task not in TASKS:
        raise StudyError(f"there is no task {task!r}", remedy=f"choose one of: {', '.join(sorted(TASKS))}")
    typer.echo(example_study(name, task, TASKS), nl=False)


@app.command()
def tasks() -> None:
    """List what a study can learn."""
    table = Table(box=None, pad_edge=False)
    for heading in ("task", "what", "classes", "features", "score"):
        table.add_column(heading)
    for task in TASKS.values():
        table.add_row(task.name, task.title, ", ".join(task.classes), str(len(task.feature_names)), task.metric)
    Console().print(table)


@app.command()
def check(file: File, as_json: AsJson = False) -> None:
    """Check a study before anything starts: keys, ranges, and what this version can honour."""
    study = load_study(file)
    check_study(study, TASKS)
    if as_json:
        typer.echo(json.dumps({"name": study.name, "task": study.task, "rounds": study.rounds.count, "ok": True}))
    else:
        typer.echo(f"{file} holds: {study.name}, {study.rounds.count} rounds, at least {study.rounds.edges_min} edges a round")


@app.command()
def start(file: File, home: Home = DEFAULT_HOME) -> None:
    """Ask the hub to run a study; a running hub begins within a second."""
    from wardround.store import StudyRecord, opened  # noqa: PLC0415

    study = load_study(file)
    with opened(home / "hub.sqlite") as store:
        check_study(study, TASKS, edges=[e.name for e in store.edges()] or None)
        if any(s.name == study.name for s in store.studies()):
            raise StudyError(f"a study called {study.name!r} is there already", remedy="give this one another name")
        now_us = SystemClock().now_us()
        store.put_study(StudyRecord(study.name, file.read_text(encoding="utf-8"), "requested", "", now_us, now_us))
    typer.echo(f"{study.name} is asked for. See it with: wardround study status --home {home}")


@app.command()
def status(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show every study: its rounds, its newest model and score."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        facts: list[dict[str, Any]] = []
        for study in store.studies():
            rounds = store.rounds(study.name)
            scored = [r for r in rounds if "score" in r.facts]
            facts.append(
                {
                    "name": study.name,
                    "state": study.state,
                    "detail": study.detail,
                    "rounds": max((r.number for r in rounds), default=0),
                    "model": rounds[-1].model if rounds else "",
                    "score": scored[-1].facts["score"] if scored else None,
                    "committed_us": rounds[-1].committed_us if rounds else 0,
                }
            )
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    if not facts:
        typer.echo("No study yet. Begin with: wardround study new ventricular-beats > study.toml")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("study", "state", "rounds", "model", "score on unseen subjects", "worst edge", "newest round"):
        table.add_column(heading)
    for fact in facts:
        score = fact["score"]
        table.add_row(
            str(fact["name"]),
            f"{fact['state']} {fact['detail']}".strip(),
            str(fact["rounds"]),
            str(fact["model"])[:8],
            f"{score['value']:.3f} {score['metric']}" if score else "-",
            f"{score['worst']:.3f} {score['worst_edge']}" if score and score["worst"] is not None else "-",
            f"{utc(fact['committed_us']):%H:%M:%S} UTC" if fact["committed_us"] else "-",
        )
    Console().print(table)
