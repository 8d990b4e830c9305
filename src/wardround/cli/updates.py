"""`wardround study updates`: what every edge sent, and what became of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.cli.models import Name, study_of
from wardround.clock import utc
from wardround.errors import LearnError
from wardround.learn.study import parse_study
from wardround.trust.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from wardround.learn.answers import Answer
    from wardround.learn.journal import Kept
    from wardround.learn.reputation import Reputation
    from wardround.learn.study import Study


def updates(
    name: Name,
    round_number: Annotated[int | None, typer.Option("--round", help="Of this round alone.", min=0)] = None,
    edge: Annotated[str, typer.Option(help="Of this edge alone.")] = "",
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1, max=100_000)] = 200,
    by_edge: Annotated[
        bool, typer.Option("--by-edge", help="How each edge has answered lately, and how often it is asked.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every kept signature again; fails if one does not hold.")
    ] = False,
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """List what edges sent and what became of it: waiting, accepted (in the model), aside, refused, late or failed, and why.

    The norm is the update's length; an edge counts with the examples it claims, up to what its past allows; a screen's score
    above its threshold sets an update aside. Refusals are kept for the newest 10,000.

    --by-edge shows each edge's reputation over the newest 50 rounds: the expectation that its next answer is of use, 0.5 for a
    newcomer, with what it came from. An edge of poor reputation is asked less (see the share of turns) and never left out; what
    an update weighs does not depend on it.

    Each update is signed by its edge's own key. --verify checks every signature again, however old: against the hub's authority,
    the journal and, where the bytes are still there, the file.
    """
    from wardround.collect.storage import FolderStorage  # noqa: PLC0415
    from wardround.learn.answers import answers, standing  # noqa: PLC0415
    from wardround.learn.journal import Journal  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        study = parse_study(study_of(store, name).toml, where=name)
    folder = home / "studies" / name
    found: Sequence[Answer] = ()
    if (folder / "journal.sqlite").exists():
        journal = Journal(FolderStorage(folder).connect)
        if by_edge:
            _show_edges(standing(journal), as_json=as_json)
            return
        check = _checker(study, folder, home / "pki") if verify else None
        found = answers(journal, round_number=round_number, edge=edge, limit=-1 if verify else limit, check=check)
        journal.close()
    kept = [a for a in found if a.wrong is not None]
    wrong = [a for a in kept if a.wrong]
    if as_json:
        typer.echo(json.dumps([_facts(a) for a in found], indent=2))
    elif not found:
        typer.echo(f"{name}: nothing has come yet.")
    else:
        _show(found, verify=verify)
        if verify:
            typer.echo(f"{len(kept) - len(wrong)} of {len(kept)} hold: the edge's own key signed what the journal says.")
    if wrong:
        raise LearnError(
            f"{len(wrong)} of {len(kept)} updates of {name} are not what their edges signed",
            remedy="set the journal beside its backup; do not use models that these updates are in",
        )


def _facts(answer: Answer) -> dict[str, object]:
    facts = asdict(answer)
    return {"round": facts.pop("round_number"), **facts}


def _checker(study: Study, folder: Path, pki: Path) -> Callable[[Kept], str]:
    """What is wrong with a kept update."""
    from wardround.learn.announcements import wrong_with  # noqa: PLC0415
    from wardround.learn.blobs import FolderBlobs  # noqa: PLC0415
    from wardround.learn.journal import update_name  # noqa: PLC0415

    blobs, authority = FolderBlobs(folder), Authority.load(pki).bundle

    def check(kept: Kept) -> str:
        path = update_name(kept.round_number, kept.update.edge)
        as_sent = blobs.size(path) and not (study.compression.zstd and kept.round_number)  # a zstd stream is kept unpacked
        digest = blobs.sha256(path) if as_sent else ""
        return wrong_with(kept.update, kept.signed, study=study.name, authority=authority, file_sha256=digest)

    return check


def _show(found: Sequence[Answer], *, verify: bool) -> None:
    headings = ("round", "edge", "verdict", "reason", "norm", "claimed", "counted", "score", "when", "why")
    table = Table(*headings, *(["signature"] if verify else []), box=None, pad_edge=False)
    for a in found:
        late = f" (from {a.based_on})" if a.based_on != a.round_number else ""
        table.add_row(
            f"{a.round_number}{late}",
            a.edge,
            a.verdict,
            a.reason or "-",
            "-" if a.norm is None else f"{a.norm:.3g}",
            "-" if a.claimed is None else f"{a.claimed:,}",
            f"{a.counted:,}" if a.counted else "-",
            "-" if a.score is None else f"{a.score:.3g} of {a.threshold:.3g}",
            f"{utc(a.t_us):%m-%d %H:%M:%S}" if a.t_us else "-",
            a.detail[:90],
            *([("" if a.wrong is None else a.wrong or "holds")] if verify else []),
        )
    Console(markup=False).print(table)


def _show_edges(standing: Mapping[str, Reputation], *, as_json: bool) -> None:
    kinds = ("accepted", "aside", "refused", "failed", "sat-out", "late")
    if as_json:
        rows = [
            {"edge": e, "reputation": round(r.score, 3), "turns": round(r.weight, 3), "good": r.good, "bad": r.bad, **r.seen}
            for e, r in standing.items()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("edge", "reputation", "share of turns", *kinds, box=None, pad_edge=False)
    for edge, own in sorted(standing.items(), key=lambda item: item[1].score):
        table.add_row(edge, f"{own.score:.2f}", f"{own.weight:.0%}", *(str(own.seen.get(kind, 0)) for kind in kinds))
    Console(markup=False).print(table)


def add_to(app: typer.Typer) -> None:
    """Make it a command of `wardround study`."""
    app.command()(updates)
