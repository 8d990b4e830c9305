"""`wardround edge consent` and `wardround hub consent`: what a patient allows, shown and changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.collect.signals import load_signals
from wardround.errors import SettingsError
from wardround.records import Consent, Purpose
from wardround.settings import HubSettings, load_settings
from wardround.trust.consent import ANY, ConsentRecord, ConsentRegister

HUB_HOME = Path.home() / ".wardround" / "hub"
EDGE_HOME = Path.home() / ".wardround" / "edge"
Choice = Annotated[Consent | None, typer.Argument(help="raw: may leave; local: trains at the edge; none: is not kept.")]
Signal = Annotated[str, typer.Option(help="For this signal alone, by key or code; * for all.")]
For = Annotated[str, typer.Option("--purpose", help=f"{', '.join(Purpose)}; * for all.")]
AsJson = Annotated[bool, typer.Option("--json", help="Facts instead of a table.")]


def edge_consent(
    patient: Annotated[str, typer.Argument(help="As the devices were registered with it; stays on this edge.")],
    choice: Choice = None,
    signal: Signal = ANY,
    purpose: For = ANY,
    home: Annotated[Path, typer.Option(help="The edge's folder.")] = EDGE_HOME,
    as_json: AsJson = False,
) -> None:
    """Show what a patient allows, or change it. A running edge follows within seconds.

    With `none`, what is kept of it at this edge is forgotten, and what waits for the hub is not sent. What the hub has
    already stays there: `wardround erase` removes it.
    """
    from wardround.edge import EdgeHome  # noqa: PLC0415

    opened = EdgeHome.open(home)
    if not any(device.patient == patient for device in opened.registry().all()):
        raise SettingsError(f"no device of this edge belongs to {patient!r}", remedy="register one: `wardround edge device`")
    subject = opened.pseudonyms().of(patient)
    register = opened.consents()
    try:
        if choice is not None:
            register.set(subject, code_of(signal), choice, purpose_of(purpose))
        show(register, subject, as_json=as_json)
    finally:
        register.close()


def hub_consent(
    subject: Annotated[str, typer.Argument(help="The pseudonym.")],
    choice: Choice = None,
    signal: Signal = ANY,
    purpose: For = ANY,
    home: Annotated[Path, typer.Option(help="The hub's folder.")] = HUB_HOME,
    as_json: AsJson = False,
) -> None:
    """Show what a subject allows, or note at the hub what it has said: the edge that knows it follows within seconds.

    A withdrawal counts at the hub at once, a grant once the edge has taken it over.
    """
    load_settings(home / "hub.toml", HubSettings)
    register = ConsentRegister(home / "consent.sqlite")
    try:
        if choice is not None:
            edges = register.wish(subject, code_of(signal), choice, purpose_of(purpose))
            if not edges:
                raise SettingsError(
                    f"no edge has told this hub of {subject!r}", remedy="note it at the edge: `wardround edge consent PATIENT`"
                )
            typer.echo(f"On its way to {', '.join(edges)}.", err=True)
        show(register, subject, as_json=as_json)
    finally:
        register.close()


def code_of(signal: str) -> str:
    """A signal's code by its key or code.

    Raises:
        DecodeError: there is no such signal.
    """
    return ANY if signal == ANY else load_signals().resolve(signal).code


def purpose_of(purpose: str) -> str:
    """A purpose as people write it.

    Raises:
        SettingsError: there is no such purpose.
    """
    if purpose != ANY and purpose not in list(Purpose):
        raise SettingsError(f"purpose {purpose!r} is not known", remedy=f"choose one of: {', '.join(Purpose)}, *")
    return purpose


def show(register: ConsentRegister, subject: str, *, as_json: bool) -> None:
    """Print what is on file for a subject."""
    records = [r for r in register.records() if r.subject == subject]
    effective = {p.value: register.choose(subject, ANY, p)[0].value for p in Purpose}
    if as_json:
        facts = {"subject": subject, "in_force": effective, "choices": [_facts(r) for r in records]}
        typer.echo(json.dumps(facts, indent=1))
        return
    table = Table("purpose", "signal", "choice", "version", title=subject, box=None, header_style="bold", title_justify="left")
    for r in sorted(records, key=lambda r: r.version):
        table.add_row(r.purpose, r.code, r.choice.value, str(r.version))
    Console(markup=False).print(table)
    typer.echo("In force where no signal is named: " + ", ".join(f"{p} {c}" for p, c in effective.items()))


def _facts(r: ConsentRecord) -> dict[str, object]:
    return {"purpose": r.purpose, "code": r.code, "choice": r.choice.value, "version": r.version}
