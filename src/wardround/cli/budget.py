"""`wardround study budget`: what a study's privacy has cost, or would cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli import budget_plan
from wardround.cli.budget_plan import EXAMPLES_MAX
from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.errors import StudyError
from wardround.learn.study import Study, load_study, parse_study

if TYPE_CHECKING:
    from wardround.learn.privacy.central import Plan

NOISES = (0.5, 1.0, 1.5, 2.0, 4.0)  # times the study's own, in the table of a plan
SHARES = (0.25, 0.5, 1.0, 2.0)  # of its rounds


def add_to(app: typer.Typer) -> None:
    """Add the command to those of `wardround study`."""
    app.command("budget")(budget)


def budget(
    name: Annotated[str, typer.Argument(help="The study, of a hub's home.")] = "",
    plan: Annotated[Path | None, typer.Option(help="A study's file: what it would cost, before anything runs.")] = None,
    examples: Annotated[int, typer.Option(help="With --plan: labelled examples of an edge.", min=0, max=EXAMPLES_MAX)] = 0,
    patient: Annotated[int, typer.Option(help="With --plan: how many of them are one patient's.", min=1, max=EXAMPLES_MAX)] = 1,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """Show the privacy budget of a study of mode `clear-dp` or `blind-dp`: epsilon spent, and how many rounds are left.

    Epsilon bounds what anybody can learn from all models of the study about one unit ([privacy] unit): at 1 the odds of any
    guess about it change by a factor of 2.7 at most, at 8 by 3,000, but for a chance of delta. Less is more private.

    --plan STUDY.toml shows what the study would cost for other rounds and other noise, and the least noise that keeps to its
    target. A study that would overspend is refused by `study check` and `study start`. With `learner.dp_sgd` it shows what one
    example costs at edges of several sizes, or of --examples; and it says what the study costs one patient, as an edge adds it up
    over all studies. What DP-SGD has cost is each edge's own to show: `wardround edge budget`.
    """
    if (plan is None) == (not name):
        raise StudyError("say which budget", remedy="give a study's name, or --plan STUDY.toml")
    if plan is not None:
        _show_plan(load_study(plan), examples, patient, as_json=as_json)
    else:
        _show_spent(name, home, as_json=as_json)


def _own(study: Study) -> Plan:
    """What the rounds of the study release.

    Raises:
        StudyError: it has no budget.
    """
    from wardround.learn.privacy.central import Plan  # noqa: PLC0415

    if not study.privacy.has_budget:
        raise StudyError(
            f"privacy.mode of {study.name} is `{study.privacy.mode}`: it has no budget",
            remedy='choose [privacy] mode = "clear-dp" or "blind-dp"; docs/privacy.md says what it asks of the rest of the study',
        )
    if study.privacy.population < 1:
        raise StudyError("privacy.population is 0", remedy="say how many units take part at least")
    return Plan.of(study.privacy)


def _words(study: Study) -> dict[str, Any]:
    """What the figures mean."""
    from wardround.learn.privacy.accounting import conversion, neighbours  # noqa: PLC0415

    own = study.privacy
    return {
        "study": study.name,
        "unit": own.unit,
        "neighbours": neighbours(own.sampling),
        "sampling": own.sampling,
        "mechanism": own.mechanism,
        "band": own.band if own.is_banded else 1,
        "noise": own.noise,
        "delta": own.delta,
        "target_epsilon": own.target_epsilon,
        "reckoned_by": f"dp-accounting, {conversion(own.sampling)}",
    }


def _show_plan(study: Study, examples: int, of_one: int, *, as_json: bool) -> None:
    at_edges = budget_plan.of_edges(study, examples) if study.learner.dp_sgd.on else []
    known = study.privacy.has_budget or bool(at_edges)
    patient = budget_plan.of_patient(study, examples, of_one) if known and (examples or not at_edges) else None
    facts = {} if at_edges and not study.privacy.has_budget else _central_facts(study)
    if as_json:
        typer.echo(json.dumps(facts | {"edges": at_edges, "patient": patient}, indent=2))
        return
    console = Console()
    if facts:
        _show_central(console, study, facts)
    budget_plan.show(console, study, at_edges, patient)


def _central_facts(study: Study) -> dict[str, Any]:
    from wardround.learn.privacy.accounting import epsilon, noise_for  # noqa: PLC0415

    plan, own, count = _own(study), study.privacy, study.rounds.count
    release = plan.release
    rounds = sorted({max(1, round(count * share)) for share in SHARES})
    noises = [own.noise * times for times in NOISES]
    table = {n: {r: epsilon({release._replace(noise=n): plan.paid(r)}, own.delta) for r in rounds} for n in noises}
    return _words(study) | {
        "rounds": count,
        "epsilon": epsilon({release: plan.paid(count)}, own.delta),
        "rounds_that_fit": plan.left(own, {}, 0),
        "noise_that_fits": noise_for(release, plan.paid(count), own.target_epsilon, own.delta),
        "table": [{"noise": n, "rounds": r, "epsilon": e} for n, row in table.items() for r, e in row.items()],
    }


def _show_central(console: Console, study: Study, facts: dict[str, Any]) -> None:
    own, count = study.privacy, study.rounds.count
    table: dict[float, dict[int, float]] = {}
    for cell in facts["table"]:
        table.setdefault(cell["noise"], {})[cell["rounds"]] = cell["epsilon"]
    console.print(
        f"{study.name}: {count} rounds cost epsilon {facts['epsilon']:.3g} at delta {own.delta:g}, for one {own.unit} "
        f"({facts['neighbours']}); the target is {own.target_epsilon:g}.",
        highlight=False,
    )
    shown = Table(box=None, pad_edge=False)
    for heading in ("epsilon", *(f"{r} rounds" for r in next(iter(table.values())))):
        shown.add_column(heading, justify="right")
    for noise, row in table.items():
        shown.add_row(f"noise {noise:g}", *(f"{e:.3g}" for e in row.values()))
    console.print(shown)
    least = f"noise {facts['noise_that_fits']:g} is the least for {count} rounds"
    console.print(f"Within the target: {facts['rounds_that_fit']:,} rounds; {least}.", highlight=False)
    console.print(f"Reckoned by {facts['reckoned_by']}.", highlight=False)


def _show_spent(name: str, home: Path, *, as_json: bool) -> None:
    from wardround.learn.privacy.accounting import epsilon  # noqa: PLC0415
    from wardround.learn.privacy.ledger import NAME, read_ledger, spent  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        record = next((s for s in store.studies() if s.name == name), None)
    if record is None:
        raise StudyError(f"there is no study {name!r}", remedy="`wardround study status` lists them")
    study = parse_study(record.toml, where=name)
    plan, own = _own(study), study.privacy
    entries = read_ledger(home / "studies" / name / NAME)
    made = spent(entries)
    facts = _words(study) | {
        "releases": len(entries),
        "epsilon": epsilon(made, own.delta),
        "rounds_left": plan.left(own, made, len(entries)),
        "clip": entries[-1].clip_next if entries else own.clip_norm,
        "newest_round": entries[-1].round if entries else None,
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    console = Console()
    console.print(
        f"{name}: epsilon {facts['epsilon']:.3g} of {own.target_epsilon:g} is spent at delta {own.delta:g}, for one {own.unit} "
        f"({facts['neighbours']}), in {len(entries)} releases.",
        highlight=False,
    )
    console.print(f"{facts['rounds_left']:,} more rounds fit. The clip is {facts['clip']:.4g}.", highlight=False)
    console.print(f"Reckoned by {facts['reckoned_by']}; written down in {home / 'studies' / name / NAME}.", highlight=False)
