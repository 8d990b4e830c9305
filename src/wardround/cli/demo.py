"""`wardround demo`: the whole system on this machine, with harm in the middle and a count at the end."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

PHASES = {"start": "Start", "collect": "Collect", "train": "Learn", "report": "Report"}


def demo(
    records: Annotated[
        Path | None,
        typer.Option(help="Replay real recordings: a folder of WFDB records, or the mitbih_subset or har_smartphone layout."),
    ] = None,
    edges: Annotated[int, typer.Option(help="How many edges, with simulated patients.")] = 4,
    nodes: Annotated[
        int,
        typer.Option(min=0, max=8, help="Prepare the data in containers on so many nodes (Podman, root)."),
    ] = 0,
    play: Annotated[float, typer.Option(help="Seconds in which the recordings are played.")] = 45.0,
    seed: Annotated[int, typer.Option(help="The same seed makes the same patients.")] = 7,
    folder: Annotated[Path, typer.Option(help="Homes of hub and edges; a demo's old one is emptied first.")] = Path("demo-run"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the facts to this file.")] = None,
    stay: Annotated[bool, typer.Option("--stay", help="Leave everything running and print the console's address.")] = False,
) -> None:
    """Run everything on this machine: a hub, edges, devices, rounds of learning, kills and faults, and a count at the end.

    Real processes over real links on loopback. Patients are simulated unless --records is given. In the middle the demo kills an
    edge and the hub with SIGKILL, lets one edge send poisoned updates and one sensor die. It ends with exit code 1 if an
    observation was lost or doubled, or left its edge without consent.
    """
    from wardround.demo.harness import run_demo  # noqa: PLC0415 - everything, about two seconds
    from wardround.demo.plan import make_plan  # noqa: PLC0415
    from wardround.demo.report import render  # noqa: PLC0415
    from wardround.demo.run import Voice  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends the demo ends its programs too
    console = Console(stderr=False)
    plan = make_plan(records, edges=edges, seed=seed)
    label = "SIMULATED PATIENTS" if plan.simulated else f"REAL RECORDINGS from {records}"
    console.print(f"[b]Wardround demo[/]  {label}: {plan.source}, {len(plan.edges)} edges")
    started = time.monotonic()
    progress = Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=28),
        TextColumn("{task.fields[words]}", style="dim"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    tasks: dict[str, TaskID] = {}

    def phase(name: str, share: float, words: str) -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(PHASES[name], total=1.0, words=words)
            if not console.is_terminal:
                console.print(f"{time.monotonic() - started:6.1f} s  {PHASES[name]}: {words}")
        progress.update(tasks[name], completed=min(1.0, share), words=words)

    def event(words: str) -> None:
        progress.console.print(f"{time.monotonic() - started:6.1f} s  {words}", highlight=False, soft_wrap=True)

    with progress:
        finished = run_demo(plan, folder.absolute(), Voice(phase, event), seed=seed, play_s=play, stay=stay, nodes=nodes)
    console.print(render(finished.report))
    if json_file is not None:
        json_file.write_text(json.dumps(finished.report.as_json(), indent=2) + "\n")
        console.print(f"The facts are in {json_file}")
    if stay:
        console.print(f"\nThe console: [b]{finished.console}[/]  sign in as [b]oncall[/] with [b]{finished.password}[/]")
        console.print("Everything keeps running. Stop it with Ctrl-C.")
        try:
            signal.pause()
        finally:
            finished.stop()
    if finished.report.problems:
        console.print("[bold red]What must not happen, did:[/] " + "; ".join(finished.report.problems))
        raise typer.Exit(1)
