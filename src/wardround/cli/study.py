"""`wardround study`: write one, check it, start it, see how it goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from wardround.cli import attack, budget, calibrate, models, rehearse, set_aside, sheets, updates
from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.cli.study_new import new
from wardround.clock import SystemClock, utc
from wardround.collect.signals import load_signals
from wardround.errors import StudyError
from wardround.learn.study import load_study, parse_study
from wardround.learn.study_checks import check as check_study
from wardround.process.transforms import TASKS

app = typer.Typer(no_args_is_help=True, help="Studies: one model, trained for one purpose by edges that keep their data.")
File = Annotated[Path, typer.Argument(help="The study's file, for example study.toml.")]


app.command("new")(new)


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
    from wardround.study_starting import check_learner_here  # noqa: PLC0415 - the hub's libraries take a second

    study = load_study(file)
    check_study(study, TASKS, signals=load_signals().names())
    check_learner_here(study)
    rounds = 1 if study.kind == "statistics" else study.rounds.count
    if as_json:
        typer.echo(json.dumps({"name": study.name, "kind": study.kind, "task": study.task, "rounds": rounds, "ok": True}))
    else:
        plural = "s" if rounds != 1 else ""
        typer.echo(f"{file} holds: {study.name}, {rounds} round{plural}, at least {study.rounds.edges_min} edges a round")


@app.command()
def start(file: File, home: Home = DEFAULT_HOME) -> None:
    """Ask the hub to run a study; a running hub begins within a second."""
    from wardround.store import opened  # noqa: PLC0415
    from wardround.study_starting import check_learner_here, put_new_study  # noqa: PLC0415 - the hub's libraries take a second

    study = load_study(file)
    with opened(home / "hub.sqlite") as store:
        check_study(study, TASKS, edges=[e.name for e in store.edges()] or None, signals=load_signals().names())
        check_learner_here(study)
        put_new_study(store, file.read_text(encoding="utf-8"), study, SystemClock().now_us())
    typer.echo(f"{study.name} is asked for. See it with: wardround study status --home {home}")


@app.command()
def result(name: Annotated[str, typer.Argument(help="The study.")], home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show what a study of kind `statistics` found: counts, means and distributions over all edges."""
    from wardround.learn.blobs import FolderBlobs  # noqa: PLC0415
    from wardround.learn.journal import model_name  # noqa: PLC0415
    from wardround.learn.models import decode_model  # noqa: PLC0415
    from wardround.learn.survey import QUANTILES, results  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415
    from wardround.studies import survey_settings  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        record = next((s for s in store.studies() if s.name == name), None)
        rounds = store.rounds(name)
    if record is None:
        raise StudyError(f"there is no study {name!r}", remedy="`wardround study status` lists them")
    study, signals = parse_study(record.toml, where=name), load_signals()
    if study.kind != "statistics":
        raise StudyError(f"{name} makes a model, and has no table of results", remedy="see `wardround study status`")
    if not rounds:
        raise StudyError(f"{name} has no result yet ({record.state})", remedy="see `wardround study status`")
    settings = survey_settings(study, signals)
    total = decode_model(FolderBlobs(home / "studies" / name).read(model_name(rounds[0].model)))
    found = list(zip([signals.resolve(s) for s in study.statistics.signals], results(total, settings), strict=True))
    if as_json:
        facts = [{"signal": s.key, "unit": s.unit} | (msgspec.to_builtins(r) if r is not None else {}) for s, r in found]
        typer.echo(json.dumps({"study": name, "edges": sorted(rounds[0].facts["folded"]), "signals": facts}, indent=2))
        return
    console = Console()
    console.print(f"{name}: {len(rounds[0].facts['folded'])} edges; no value has left any of them. Quantiles are to one bin.")
    table = Table(box=None, pad_edge=False)
    for heading in ("signal", "unit", "n", "patients", "mean", "std", *(f"p{q * 100:02.0f}" for q in QUANTILES)):
        table.add_column(heading, justify="left" if heading in ("signal", "unit") else "right", no_wrap=True)
    published = [(signal, r) for signal, r in found if r is not None]
    for signal, r in published:
        numbers = [f"{v:.4g}" for v in (r.mean, r.std, *r.quantiles)]
        table.add_row(signal.key, signal.unit, f"{r.count:,}", str(r.subjects), *numbers)
    if published:
        console.print(table)
    for signal, r in published:
        console.print(f"{signal.key:20} {_blocks(r.histogram)}", highlight=False)
    for signal, answer in found:
        if answer is None:
            console.print(f"{signal.key}: not published, no edge has {settings.subjects_min} patients with it")


def _blocks(histogram: Sequence[int]) -> str:
    """A line of blocks, the empty ends left out."""
    there = [i for i, n in enumerate(histogram) if n]
    shown = histogram[there[0] : there[-1] + 1] if there else []
    most = max(shown, default=1)
    return "".join(" ▁▂▃▄▅▆▇█"[min(8, -(-8 * n // most))] for n in shown)


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


budget.add_to(app)
calibrate.add_to(app)
rehearse.add_to(app)
sheets.add_to(app)
attack.add_to(app)
models.add_to(app)
set_aside.add_to(app)
updates.add_to(app)
