"""`wardround drill --live`: the drill on a running hub and the edges that allow it, in a sandbox."""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wardround.cli.alert_places import HubAlerts
from wardround.errors import StudyError

if TYPE_CHECKING:
    from wardround.drill.live import Options
    from wardround.drill.outcome import Drilled
    from wardround.live_drills.plan import Plan, Shown

LOOK_S, GRACE_S = 0.25, 120.0  # between two looks; beyond the drill's minutes, after which its hub should have ended it


class RunningHub:
    """A hub in another process, asked through its store."""

    def __init__(self, home: Path) -> None:
        self._home, self._place, self._who = home, HubAlerts(home), getpass.getuser()
        self._ends_s = 0.0  # by when the drill's hub ends it

    def edges(self) -> Sequence[str]:
        found: list[str] = json.loads(self._place.ask("edges", {}, self._who, "drills"))
        return found

    def start(self, plan: Plan) -> str:
        self._ends_s = time.monotonic() + 60 * plan.minutes
        return self._place.ask("start", msgspec.to_builtins(plan), self._who, "drills")

    def wait(self, study: str) -> Shown:
        from wardround.live_drills.plan import SHOWN, Shown  # noqa: PLC0415
        from wardround.processing import held  # noqa: PLC0415

        time.sleep(LOOK_S)
        shown = msgspec.json.decode(self._place.shown(SHOWN), type=Shown)
        if shown.study != study:  # it was shown before `start` was answered
            raise StudyError(f"the hub shows {shown.study} and nothing of {study}", remedy="see its log, and play it again")
        if shown.state == "running" and not held(self._home):  # after a kill the last word stays in the store
            raise StudyError(f"{study} is over: its hub has ended", remedy="start the hub, and play it again")
        if shown.state == "running" and time.monotonic() > self._ends_s + GRACE_S:
            raise StudyError(f"{study} should have ended, and its hub does not end it", remedy="see the hub's log")
        return shown

    def stop(self) -> None:
        self._place.ask("stop", {}, self._who, "drills")


def play_live(home: Path, fault: str, seeds: Sequence[int], options: Options) -> tuple[Drilled, dict[str, Any]]:
    """Play it, with progress on stderr; what has come of it, and what was said of where."""
    from wardround.drill.catalogue import FROM_THE_START, chosen  # noqa: PLC0415 - JAX and SciPy, about two seconds
    from wardround.drill.live import NOT_LIVE, ORDERED, LiveCourse  # noqa: PLC0415

    faults = [] if fault == "none" else chosen(fault, FROM_THE_START if options.from_round == 0 else ORDERED)
    for own in faults:
        if own.name in NOT_LIVE:
            raise StudyError(f"{own.name} is not ordered to running edges", remedy=NOT_LIVE[own.name])
    stamp = f"{time.time_ns() // 1_000_000:x}"
    course = LiveCourse(RunningHub(home), faults, seeds, options, stamp)
    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, transient=True) as progress:
        bar = progress.add_task("drill", total=course.runs * options.rounds)

        def say(words: str, at: int) -> None:
            progress.update(bar, completed=len(course.shown) * options.rounds + at, description=words)

        for _ in course.run(say):
            pass
    left_out = NOT_LIVE if fault == "all" else {}
    alerts = [{"drill": s.study, "alerts": s.alerts, "folder": s.folder} for s in course.shown]
    return course.done, {"edges": list(course.edges), "not_live": left_out, "drills": alerts}


def say_live(played: Mapping[str, Any]) -> None:
    """What the table does not say; nothing where nothing was played live."""
    for name, why in played.get("not_live", {}).items():
        typer.echo(f"{name}: not played live; {why}")
