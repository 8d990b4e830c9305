"""`wardround edge budget`: what studies have cost the patients of an edge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.edge_status import DEFAULT_HOME, Home

if TYPE_CHECKING:
    from wardround.learn.privacy.accounting import Figure
    from wardround.settings import EdgePrivacySettings


def edge_budget(
    patient: Annotated[str, typer.Argument(help="One patient, by the hospital's own identifier.")] = "",
    home: Home = DEFAULT_HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Facts instead of a table.")] = False,
) -> None:
    """Show what studies with noise have cost the patients of this edge, each by itself and all together.

    Epsilon bounds what anybody can learn about one patient from everything that left this edge's trainings, at
    privacy.patient_delta; what studies spend adds up. With privacy.patient_epsilon_max in edge.toml a patient who would get over
    it is left out of the training, and the hub is told how many were. Trainings of studies without noise are not in it: with a
    bound they are declined.

    "at least" stands before a figure that is so large that nobody looked further.
    """
    from wardround.edge import EdgeHome  # noqa: PLC0415 - the edge's libraries take a moment
    from wardround.learn.privacy.patient_budget import name_of  # noqa: PLC0415

    opened = EdgeHome.open(home)
    only = name_of(opened.pseudonyms().of(patient)) if patient else ""
    facts = _facts(home, opened.settings.privacy, only)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    console = Console()
    if not facts["studies"]:
        who = f"No study with noise has trained on {patient}" if patient else "No study with noise has trained here"
        console.print(f"{who}.", highlight=False, markup=False)
        return
    shown = Table(box=None, pad_edge=False)
    for heading in ("study", "trainings", "patients", "epsilon"):
        shown.add_column(heading, justify="left" if heading == "study" else "right")
    for row in facts["studies"]:
        shown.add_row(row["study"], str(row["trainings"]), str(row["patients"]), _words(row))
    console.print(shown)
    whose = f"{patient} has" if patient else f"Of {facts['patients']} patients the one who has given most has"
    console.print(f"{whose} spent epsilon {_words(facts)} in all, at delta {facts['delta']:g}.", highlight=False, markup=False)
    bound = facts["epsilon_max"]
    console.print(f"The bound is {bound:g}." if bound else "There is no bound (privacy.patient_epsilon_max).", highlight=False)
    console.print("Reckoned by dp-accounting, PLD; written down in " + str(home / "patients.ledger") + ".", highlight=False)


def _facts(home: Path, settings: EdgePrivacySettings, only: str) -> dict[str, Any]:
    from wardround.learn.privacy.patient_budget import highest, histories, trainings  # noqa: PLC0415

    entries, delta = trainings(home), settings.patient_delta
    rows: list[dict[str, Any]] = []
    for study in sorted({e.study for e in entries}):
        spent = {n: s for n, s in histories(entries, {study}).items() if only in ("", n)}
        if spent:
            told = sum(any(not only or only in g.patients for g in e.groups) for e in entries if e.study == study)
            rows.append({"study": study, "trainings": told, "patients": len(spent)} | _figure(highest(spent.values(), delta)))
    spent = {n: s for n, s in histories(entries).items() if only in ("", n)}
    found = {"studies": rows, "patients": len(spent), "delta": delta, "epsilon_max": settings.patient_epsilon_max}
    return found | _figure(highest(spent.values(), delta))


def _figure(figure: Figure) -> dict[str, Any]:
    return {"epsilon": figure.epsilon, "at_least": figure.least}


def _words(row: dict[str, Any]) -> str:
    return f"{'at least ' if row['at_least'] else ''}{row['epsilon']:.3g}"
