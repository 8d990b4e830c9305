"""`wardround erase` and `wardround hub erasures`: take a subject out of hub and edges, and show the receipts."""

from __future__ import annotations

import getpass
import json
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock, utc
from wardround.errors import SettingsError, WardroundError
from wardround.settings import HubSettings, load_settings
from wardround.trust.erasures import Erasure, ErasureBook, Receipt, digest_of

LOOK_S = 0.25


def erase(
    subject: Annotated[str, typer.Argument(help="The pseudonym; at the edge, `wardround edge consent PATIENT` shows it.")],
    home: Home = DEFAULT_HOME,
    reason: Annotated[str, typer.Option(help="Why; it is kept.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
    wait_s: Annotated[float, typer.Option(help="How long to wait for the edges that are there.", min=0)] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Take a subject out of the hub and every edge, to the last byte, and show what a search found afterwards.

    Earlier versions of the lake end with it. What cannot be undone: everything. What it does not reach: models that were trained
    on the subject (they are listed), and copies that others have exported. An edge that is away follows when it is back.
    """
    settings = load_settings(home / "hub.toml", HubSettings)
    if not subject.strip() or len(subject) < 8:
        raise SettingsError(f"{subject!r} is no pseudonym", remedy="give it whole, as `wardround edge consent PATIENT` shows it")
    if not yes:
        typer.confirm(f"Erase {subject} at this hub and at every edge? This cannot be undone", abort=True)
    book = ErasureBook(home / "erasures.sqlite")
    try:
        number = _known(book, subject) or book.ask(subject, getpass.getuser(), reason, SystemClock().now_us())
        erasure = _carried_out(home, settings, book, number, wait_s)
        answers = _answers(home, book, number, wait_s)
        _print(erasure, answers, as_json=as_json)
    finally:
        book.close()
    if erasure.receipt is None or not erasure.receipt.clean or any(not r.clean for r in answers.values()):
        raise WardroundError("the erasure is not complete", remedy="see what is named above, then run the same command again")


def erasures(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Every erasure, with the receipts of the hub and of the edges."""
    load_settings(home / "hub.toml", HubSettings)
    book = ErasureBook(home / "erasures.sqlite")
    found = [(e, book.answers(e.number)) for e in book.all()]
    book.close()
    if as_json:
        typer.echo(json.dumps([_facts(e, answers) for e, answers in found], indent=1))
        return
    if not found:
        typer.echo("Nobody was erased.")
    for erasure, answers in found:
        _print(erasure, answers, as_json=False)


def _known(book: ErasureBook, subject: str) -> int:
    """An earlier request for the same subject that is not complete."""
    digest = digest_of(subject)
    return next((e.number for e in book.all() if e.digest == digest and e.receipt is None), 0)


def _carried_out(home: Path, settings: HubSettings, book: ErasureBook, number: int, wait_s: float) -> Erasure:
    """Wait for the running hub, or do it here when none runs."""
    from wardround.processing import held  # noqa: PLC0415

    until = time.monotonic() + max(wait_s, 600.0)  # a job that runs comes to its end first
    while True:
        erasure = book.get(number)
        assert erasure is not None  # noqa: S101 - it was just asked for
        if erasure.receipt is not None or time.monotonic() > until:
            return erasure
        if held(home):
            time.sleep(LOOK_S)
        else:
            _here(home, settings, book)


def _here(home: Path, settings: HubSettings, book: ErasureBook) -> None:
    from wardround.collect.inbox import Inbox  # noqa: PLC0415
    from wardround.collect.storage import FolderStorage  # noqa: PLC0415
    from wardround.erasing.hub import HubErasing  # noqa: PLC0415
    from wardround.processing import only_one, open_lake  # noqa: PLC0415
    from wardround.store import open_store  # noqa: PLC0415
    from wardround.trust.at_rest import turn_on  # noqa: PLC0415
    from wardround.trust.consent import ConsentRegister  # noqa: PLC0415
    from wardround.trust.exports import ExportBook  # noqa: PLC0415

    with only_one(home):
        seal = turn_on(home, settings.at_rest.kek)
        consents, inbox = ConsentRegister(home / "consent.sqlite"), Inbox(FolderStorage(home / "inbox"), seal)
        store, exports = open_store(home / "hub.sqlite"), ExportBook(home / "exports.sqlite")
        try:
            lake = open_lake(home, settings)
            HubErasing(
                home,
                book=book,
                exports=exports,
                consents=consents,
                inbox=inbox,
                lake=lake,
                store=store,
                clock=SystemClock(),
                seal=seal,
            ).look()
        finally:
            exports.close()
            store.close()
            inbox.close()
            consents.close()


def _answers(home: Path, book: ErasureBook, number: int, wait_s: float) -> dict[str, Receipt]:
    """The edges' receipts; those that are away answer later."""
    from wardround.processing import held  # noqa: PLC0415
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        wanted = {e.name for e in store.edges() if e.revoked_us is None}
    until = time.monotonic() + wait_s
    while True:
        answers = book.answers(number)
        if wanted <= set(answers) or time.monotonic() > until or not held(home):
            return answers
        time.sleep(LOOK_S)


def _facts(erasure: Erasure, answers: dict[str, Receipt]) -> dict[str, object]:
    return {
        "number": erasure.number,
        "asked_us": erasure.asked_us,
        "who": erasure.who,
        "reason": erasure.reason,
        "hub": msgspec.to_builtins(erasure.receipt),
        "edges": {edge: msgspec.to_builtins(receipt) for edge, receipt in answers.items()},
    }


def _print(erasure: Erasure, answers: dict[str, Receipt], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_facts(erasure, answers), indent=1))
        return
    typer.echo(f"Erasure {erasure.number}, asked for by {erasure.who}{': ' + erasure.reason if erasure.reason else ''}")
    if erasure.receipt is None:
        typer.echo("  the hub has not carried it out yet; it goes on by itself")
    for receipt in [r for r in (erasure.receipt, *answers.values()) if r is not None]:
        if not receipt.known:
            typer.echo(f"  {receipt.place}: has never heard of this subject, and takes nothing of it from now on")
            continue
        what = ", ".join(f"{count} {part}" for part, count in receipt.removed.items() if count) or "nothing"
        typer.echo(f"  {receipt.place}: {what} removed in {receipt.seconds:.2f} s")
        searched = f"{receipt.files} files, {receipt.bytes_searched} bytes on the disk, {receipt.bytes_decoded} unpacked"
        typer.echo(f"    searched afterwards: {searched} ({receipt.how})")
        typer.echo("    found: nothing" if receipt.clean else f"    FOUND: {', '.join(receipt.found)}")
    if erasure.receipt is not None and erasure.receipt.exports:
        typer.echo(f"  {len(erasure.receipt.exports)} exports hold the subject; ask whoever has them to take it out:")
        for e in erasure.receipt.exports[-20:]:
            of = f"of study {e['study']}" if e["study"] else "under the lake's own names"
            typer.echo(f"    export {e['export']} {of}, {e['format']}, {utc(int(e['t_us'])):%Y-%m-%d %H:%M} UTC, by {e['who']}")
    if erasure.receipt is not None and erasure.receipt.models:
        typer.echo(f"  {len(erasure.receipt.models)} models may have learnt from this subject; erasing does not reach into them:")
        for m in erasure.receipt.models[-20:]:
            stage = f" ({m['stage']})" if m["stage"] else ""
            typer.echo(f"    {m['study']} round {m['round']} {str(m['model'])[:12]}{stage}")
