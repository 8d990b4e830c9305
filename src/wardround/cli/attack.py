"""`wardround study attack`: what can be read out of a study, and what can be done to it, before anybody else tries."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wardround.cli.drill import seeds_of
from wardround.cli.hub import AsJson
from wardround.cli.rehearse import adapted, population_of
from wardround.collect.signals import load_signals
from wardround.errors import StudyError
from wardround.learn.study import load_study
from wardround.learn.study_checks import check as check_study
from wardround.process.transforms import TASKS
from wardround.process.transforms.usual import usual_scale

if TYPE_CHECKING:
    from wardround.attacks.course import Plan

ABOUT_OUTPUT = ("file", "fail_above", "write", "as_json")
RULES = "fedavg,trimmed-mean,coordinate-median,geometric-median,multi-krum,centered-clipping"


def add_to(app: typer.Typer) -> None:
    """Add the command to those of `wardround study`."""
    app.command("attack")(attack)


def attack(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The study's file, for example study.toml.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Recordings or tables of examples, as for `study rehearse`. Default: simulated patients."),
    ] = None,
    edges: Annotated[int | None, typer.Option(min=3, max=10_000, help="Virtual edges, as for `study rehearse`.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=10_000, help="Rounds, instead of the study's own number.")] = None,
    alpha: Annotated[float, typer.Option(min=1e-3, max=1e4, help="As for `study rehearse`.")] = 0.5,
    only: Annotated[str, typer.Option(help="Of membership, inversion, poisoning.")] = "membership,inversion,poisoning",
    modes: Annotated[str, typer.Option(help="Privacy modes, with commas. Default: every one that the study can be had in.")] = "",
    seeds: Annotated[
        str, typer.Option(help="Each poisoning is played once with every seed; the others take the first.")
    ] = "0,1,2",
    models: Annotated[int, typer.Option(help="Membership: models to train, each on half of the data; an even number.")] = 16,
    unit: Annotated[str, typer.Option(help="Membership: whose is asked for, of an example or of a patient.")] = "example",
    trials: Annotated[int, typer.Option(help="Inversion: updates of each kind.")] = 5,
    search: Annotated[int, typer.Option(help="Inversion: steps of the search at most; 0: the closed form alone.")] = 200,
    attackers: Annotated[str, typer.Option(help="Poisoning: attackers, with commas, or all.")] = "all",
    shares: Annotated[str, typer.Option(help="Poisoning: shares of the edges that lie.")] = "0.2",
    rules: Annotated[str, typer.Option(help="Poisoning: rules of the fold.")] = RULES,
    fail_above: Annotated[
        str, typer.Option(help="Exit 1 where a mode is worse: auc=0.6,rate=0.05,read=0.1,drop=0.05; docs/attacks.md has them.")
    ] = "",
    write: Annotated[
        Path | None, typer.Option(help="Write the tables into this page, in place of the study's older ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Attack a study on this machine, in every privacy mode: what does it give away, and what do liars do?

    Was this example among the training data? What was in this update? How far do edges that lie bring the score down, under which
    rule? Learner, rounds, folds, triage and masks are those of a hub. An attack that fails is no proof that none succeeds.

    [b]wardround study attack study.toml --only inversion --trials 2[/b] takes about a minute. docs/attacks.md has more.
    """
    from wardround.attacks.course import Bench, broken, limits  # noqa: PLC0415 - JAX and SciPy, about two seconds
    from wardround.attacks.page import section  # noqa: PLC0415
    from wardround.attacks.page import write as write_page  # noqa: PLC0415
    from wardround.attacks.target import Target  # noqa: PLC0415

    study = adapted(load_study(file), rounds, None)
    check_study(study, TASKS, signals=load_signals().names())
    if study.kind != "model":
        raise StudyError(f"{study.name} is a study of kind `{study.kind}`", remedy="attack one that makes a model")
    allowed = limits(fail_above)
    plan = _plan(only, modes, seeds, models, unit, trials, search, attackers, shares, rules)
    plan.check()
    task = TASKS[study.task]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        population = population_of(study, data, edges, alpha, progress)
        metric, usual = study.score.metric or task.metric, usual_scale(task.name, len(task.feature_names))
        bench = Bench(Target(study, population, len(task.classes), metric, usual), plan)
        bar = progress.add_task("attacks", total=bench.steps)
        for said in bench.run():
            progress.update(bar, advance=1, description=said)
    facts = bench.facts()
    command = shlex.join(["wardround", "study", "attack", file.name, *_asked(context)])
    if write is not None:
        write_page(write, facts, command)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        Console(highlight=False).print(Markdown("\n".join(section(facts, command))))
    passed = broken(facts["worst"], allowed)
    for words in passed:
        typer.echo(words, err=True)
    if passed:
        raise typer.Exit(1)


def _asked(context: typer.Context) -> list[str]:
    """The options that decide what is measured, where they are not the usual ones; a folder by its name alone."""
    words: list[str] = []
    for option in context.command.params:
        value = context.params.get(str(option.name))
        if option.name in ABOUT_OUTPUT or value is None or value == option.default:
            continue
        words += [option.opts[0], value.name if isinstance(value, Path) else str(value)]
    return words


def _plan(
    only: str, modes: str, seeds: str, models: int, unit: str, trials: int, search: int, attackers: str, shares: str, rules: str
) -> Plan:
    from wardround.attacks.course import Plan  # noqa: PLC0415
    from wardround.attacks.poisoning import chosen_attackers  # noqa: PLC0415

    try:
        parts = tuple(float(s) for s in _words(shares))
    except ValueError as exc:
        raise StudyError(f"--shares {shares!r} are no shares", remedy="write them like 0.1,0.2") from exc
    return Plan(
        kinds=_words(only),
        modes=_words(modes),
        seeds=seeds_of(seeds),
        models=models,
        unit=unit,
        trials=trials,
        search=search,
        attackers=chosen_attackers(attackers),
        shares=parts,
        rules=_words(rules),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(p.strip() for p in text.split(",") if p.strip())
