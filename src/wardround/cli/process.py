"""`wardround process`: what would run, run it, see how it went, make again what failed."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from wardround.cli.export import export, exports
from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock, utc
from wardround.errors import ProcessError
from wardround.settings import HubSettings, load_settings

if TYPE_CHECKING:
    from wardround.process.catalogue import Job
    from wardround.process.jobs import Jobs
    from wardround.processing import Processing
    from wardround.settings import ProcessingSettings
    from wardround.store import JobRunRecord, Store

app = typer.Typer(no_args_is_help=True, help="Data processing: jobs that turn what was received into what models are fed.")
app.command()(export)
app.command()(exports)
Names = Annotated[list[str] | None, typer.Argument(help="Jobs; all when none is named.")]
TAKEN_S = 120.0  # a running hub takes a request up by then: one job runs at a time
FOLLOW_S = 3600.0
LOOK_S = 0.3


@app.command()
def plan(names: Names = None, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show what each job would do now, and run nothing."""
    jobs, processing = _looking(home)
    chosen = _jobs(names)
    plans = [(job, jobs.plan(job), len(jobs.dead(job))) for job in chosen]
    if as_json:
        facts = [
            {
                "job": job.name,
                "reads": job.source,
                "writes": job.target,
                "parts": [str(p) for p in p_.parts],
                "whole": p_.whole,
                "dead": dead,
            }
            for job, p_, dead in plans
        ]
        typer.echo(json.dumps(facts, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("job", "writes", "part", "every", "to make", "failed"):
        table.add_column(heading, no_wrap=True)
    for job, found, dead in plans:
        how = f"{len(found.parts)}, all anew" if found.whole and found.parts else str(len(found.parts))
        every = f"{job.interval_s or processing.interval_s:g} s" if job.name not in processing.jobs_off else "when asked"
        span = f"{job.span_us / 3_600_000_000:g} h"
        table.add_row(job.name, job.target, span, every, how, str(dead or "-"))
    Console().print(table)


@app.command()
def run(names: Names = None, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Run jobs over what is new: a running hub does it and this follows, else it is done here. What is done is kept."""
    _carry_out("run", names, home, as_json=as_json)


@app.command()
def retry(names: Names = None, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Make the parts again that failed."""
    _carry_out("retry", names, home, as_json=as_json)


@app.command()
def stop(home: Home = DEFAULT_HOME) -> None:
    """Stop the job that somebody asked the running hub for; what is done is kept."""
    from wardround.processing import ask, held  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    if not held(home):
        typer.echo("No hub runs here, so no job of its does.")
        return
    with opened(home / "hub.sqlite") as store:
        ask(store, SystemClock(), "stop")
    typer.echo("The job stops after the parts in hand; what is done is kept for the next run.")


@app.command()
def status(home: Home = DEFAULT_HOME, as_json: AsJson = False, last: Annotated[int, typer.Option(min=1, max=500)] = 12) -> None:
    """Show the last runs: where, how far, from which versions by which code, and which parts failed and why."""
    from wardround.process.catalogue import JOBS  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    jobs, _ = _looking(home)
    with opened(home / "hub.sqlite") as store:
        runs = store.job_runs(limit=last)
    dead = [(job.name, str(part), words) for job in JOBS.values() for part, words in jobs.dead(job)]
    if as_json:
        facts = {"runs": [msgspec.to_builtins(r) for r in runs], "dead": [list(d) for d in dead]}
        typer.echo(json.dumps(facts, indent=2))
        return
    if not runs:
        typer.echo("Nothing has run yet. See what would: wardround process plan")
        return
    Console().print(_runs_table(runs))
    if dead:
        table = Table(title="parts that failed", title_justify="left", box=None, pad_edge=False)
        for heading in ("job", "part", "why"):
            table.add_column(heading)
        for job_name, part, words in dead[:50]:
            table.add_row(job_name, escape(part), escape(words))
        Console().print(table)
        Console().print(f"{len(dead)} in all. Once the cause is put right: [b]wardround process retry[/]")


def _runs_table(runs: list[JobRunRecord]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("job", "state", "UTC", "took", "parts", "rows"):
        table.add_column(heading, no_wrap=True)
    table.add_column("where")
    for r in runs:
        table.add_row(
            r.job,
            r.state,
            f"{utc(r.started_us):%H:%M:%S}",
            f"{(r.changed_us - r.started_us) / 1e6:.1f} s",
            f"{r.parts_done}/{r.parts}" + (f", {r.failed} failed" if r.failed else ""),
            f"{r.rows:,}",
            escape(str(r.facts.get("error") or str(r.facts.get("place", "")).split(",")[0])),
        )
    return table


def _looking(home: Path) -> tuple[Jobs, ProcessingSettings]:
    """The jobs of a home, to look at, and its settings of processing."""
    from wardround.hub import known  # noqa: PLC0415 - the hub's libraries take a second
    from wardround.processing import onlooker  # noqa: PLC0415

    settings = load_settings(home / "hub.toml", HubSettings)
    return onlooker(home, settings, SystemClock(), known()), settings.processing


def _jobs(names: list[str] | None) -> list[Job]:
    from wardround.process.catalogue import JOBS  # noqa: PLC0415
    from wardround.processing import job_named  # noqa: PLC0415

    return [job_named(n) for n in names] if names else list(JOBS.values())


def _carry_out(kind: str, names: list[str] | None, home: Path, *, as_json: bool) -> None:
    from wardround.processing import held  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    chosen = _jobs(names)
    load_settings(home / "hub.toml", HubSettings)
    with ExitStack() as stack:
        store = stack.enter_context(opened(home / "hub.sqlite"))
        progress = stack.enter_context(_progress())
        if held(home):
            runs = [_follow(store, kind, job, progress) for job in chosen]
        else:
            processing = _open_here(stack, home, store)
            runs = [_here(processing, store, kind, job, progress) for job in chosen]
    done = [r for r in runs if r.parts or r.state != "done"]
    if as_json:
        typer.echo(json.dumps([msgspec.to_builtins(r) for r in done], indent=2))
    elif done:
        Console().print(_runs_table(done))
    else:
        typer.echo("Nothing is new.")
    if any(r.failed or r.state == "failed" for r in done):
        typer.echo("Some parts failed: wardround process status says which and why.", err=True)
        raise typer.Exit(1)


def _progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _open_here(stack: ExitStack, home: Path, store: Store) -> Processing:
    from wardround.hub import open_processing  # noqa: PLC0415
    from wardround.processing import only_one  # noqa: PLC0415

    stack.enter_context(only_one(home))
    settings = load_settings(home / "hub.toml", HubSettings)
    processing = open_processing(home, settings, store, SystemClock(), say=_say)
    stack.callback(processing.close)
    processing.look()
    return processing


def _say(title: str, detail: str) -> None:
    typer.echo(f"{title}: {detail}", err=True)


def _here(processing: Processing, store: Store, kind: str, job: Job, progress: Progress) -> JobRunRecord:
    """No hub runs: the work is done by this command, as the hub would."""
    from wardround.processing import new_id  # noqa: PLC0415

    task, run_id = progress.add_task(job.title, total=None), new_id(SystemClock())

    def watch(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total or None)

    processing.run(job, retry=kind == "retry", run_id=run_id, watch=watch)
    return next(r for r in store.job_runs() if r.run_id == run_id)


def _follow(store: Store, kind: str, job: Job, progress: Progress) -> JobRunRecord:
    """Ask the running hub, and follow what it notes."""
    from wardround.processing import ask  # noqa: PLC0415

    task = progress.add_task(job.title, total=None)
    run_id = ask(store, SystemClock(), kind, job.name)
    started = time.monotonic()
    while time.monotonic() - started < FOLLOW_S:
        mine = next((r for r in store.job_runs() if r.run_id == run_id), None)
        if mine is None and time.monotonic() - started > TAKEN_S and store.take_job_request(run_id):
            raise ProcessError(f"the hub did not take up {job.name} in {TAKEN_S:.0f} s", remedy="see `wardround process status`")
        if mine is not None:
            progress.update(task, completed=mine.parts_done, total=mine.parts or None)
            if mine.state != "running":
                return mine
        time.sleep(LOOK_S)
    raise ProcessError(f"{job.name} still runs after an hour", remedy="follow it with `wardround process status`")
