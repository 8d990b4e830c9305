"""`wardround study new`: a commented study to start from, for a task or for the signals that there are."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated

import typer

from wardround.collect.signals import Signal, load_signals
from wardround.errors import DecodeError, StudyError
from wardround.learn.study_example import Chosen, example_study, example_survey
from wardround.process.transforms import TASKS, Task

SIGNALS_MAX = 100


def new(
    task: Annotated[str, typer.Argument(help="What an example is; `study tasks` lists them. Not needed with --signals.")] = "",
    name: Annotated[str, typer.Option(help="The study's name.")] = "my-study",
    signals: Annotated[
        str, typer.Option(help="What your devices measure, with commas: keys or codes as `wardround edge signals` lists them.")
    ] = "",
) -> None:
    """Print a commented study to start from.

    With --signals it is for what your devices measure: a model, where a task learns from these signals alone, else the federated
    statistics of them, with each signal's unit and range beside it.
    """
    chosen = _chosen(signals)
    if task and task not in TASKS:
        raise StudyError(f"there is no task {task!r}", remedy=f"choose one of: {', '.join(sorted(TASKS))}")
    codes = {signal.code for signal in chosen}
    if task and codes - _read(TASKS[task]):
        others = ", ".join(signal.key for signal in chosen if signal.code not in _read(TASKS[task]))
        raise StudyError(f"{task} does not learn from {others}", remedy=f"leave it out; it learns from {_words(TASKS[task])}")
    fits = [one.name for one in TASKS.values() if codes and codes <= _read(one)]
    if not task and not fits and not chosen:
        raise StudyError("neither a task nor signals are given", remedy="name a task, or --signals heart-rate,spo2")
    if task or fits:
        typer.echo(example_study(name, task or fits[0], TASKS), nl=False)
    else:
        rows = [Chosen(s.key, s.title, s.unit, s.low, s.high) for s in chosen]
        typer.echo(example_survey(name, rows, {one.name: _words(one) for one in TASKS.values()}), nl=False)


def _chosen(text: str) -> Sequence[Signal]:
    """The signals of these names, each once."""
    table = load_signals()
    found: dict[str, Signal] = {}
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) > SIGNALS_MAX:
        raise StudyError(f"{len(names)} signals", remedy=f"choose {SIGNALS_MAX} at most")
    for name in names:
        try:
            signal = table.resolve(name if name in table.names() else name.replace("_", "-"))
        except DecodeError as error:
            near = difflib.get_close_matches(name.replace("_", "-"), table.names(), n=1, cutoff=0.4)
            hint = f"did you mean `{near[0]}`? " if near else ""
            raise StudyError(f"there is no signal {name[:60]!r}", remedy=f"{hint}`wardround edge signals` lists them") from error
        found[signal.key] = signal
    return tuple(found.values())


def _read(task: Task) -> frozenset[str]:
    """What a task learns from: its label is not measured."""
    return task.signals - {task.label_code}


def _words(task: Task) -> str:
    table = load_signals()
    return ", ".join(sorted(table.resolve(code).key for code in _read(task)))
