"""`wardround audit show|verify|head`: what was seen, exported, changed, deleted or denied, and whether the log holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson
from wardround.clock import SystemClock, utc
from wardround.errors import SettingsError, TrustError
from wardround.trust.audit import KINDS, AuditLog, Entry, Head, subject_ref
from wardround.trust.audit_files import HEADS_STATE, KeptHead, KeptHeads, open_log, role_of, verify_log

app = typer.Typer(no_args_is_help=True, help="The audit log: who saw, exported, changed, deleted or was denied what.")
Home = Annotated[Path, typer.Option(help="The folder of a hub, or of an edge, which has its own.")]


@app.command()
def show(
    home: Home = DEFAULT_HOME,
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1)] = 50,
    kind: Annotated[str, typer.Option(help=f"Of this kind alone: {', '.join(KINDS)}.")] = "",
    who: Annotated[str, typer.Option(help="Of this person, edge or address alone.")] = "",
    subject: Annotated[str, typer.Option(help="About this pseudonym alone; it stands in the log as a digest.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the newest entries. Whether they may be believed is said by `verify`."""
    if kind and kind not in KINDS:
        raise SettingsError(f"{kind!r} is no kind of entry", remedy=f"choose one of: {', '.join(KINDS)}")
    log = _opened(home)
    ref = subject_ref(subject) if subject else ""
    found = [e for e in log.entries() if e.what != "checkpoint" and _fits(e, kind, who, ref)][-limit:]
    log.close()
    if as_json:
        typer.echo(json.dumps([msgspec.to_builtins(e) for e in found], indent=1))
        return
    table = Table("no.", "when, UTC", "kind", "who", "what", "", box=None, header_style="bold")
    for e in found:
        facts = "  ".join(f"{name}={value}" for name, value in e.facts.items())
        table.add_row(str(e.n), f"{utc(e.t_us):%Y-%m-%d %H:%M:%S}", e.kind, e.who, e.what, facts)
    Console(markup=False).print(table)


@app.command()
def verify(
    home: Home = DEFAULT_HOME,
    head: Annotated[list[Path] | None, typer.Option(help="A file that `wardround audit head` wrote at an edge.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check every entry, every signature, and the end of the log against the heads that edges keep.

    Entries that were changed, taken out, put in or moved are always seen. That the end was cut off is seen against a head kept
    elsewhere: the hub remembers what edges have told it, and --head takes a file straight from an edge.
    """
    anchors = [*_told(home), *(_from_file(path) for path in head or [])]
    verdict = verify_log(home, anchors)
    if as_json:
        facts = asdict(verdict) | {"head": verdict.head.hex(), "heads_compared": len(anchors)}
        typer.echo(json.dumps(facts, indent=1))
    else:
        typer.echo(f"{verdict.entries} entries, {verdict.checkpoints} signed checkpoints, {len(anchors)} heads kept elsewhere.")
        typer.echo(f"The last {verdict.unsigned} entries have no signature yet; an edge's head covers them once it has one.")
    if verdict.wrong:
        raise TrustError(f"the audit log does not hold: {'; '.join(verdict.wrong)}", remedy="keep a copy of it as evidence")
    if not as_json:
        typer.echo("It holds." if anchors else "It holds as far as it goes; nothing here says that its end was not cut off.")


@app.command()
def head(home: Home = DEFAULT_HOME) -> None:
    """Print a head to keep elsewhere: of a hub's own log; at an edge, the newest of the hub's log that it keeps."""
    if role_of(home) == "edge":
        kept = KeptHeads(home / "audit" / "hub-heads.json").all()
        if not kept:
            raise SettingsError("this edge has no head of the hub's log yet", remedy="run it, attached to its hub")
        newest = kept[-1]
    else:
        log = _opened(home)
        now = log.head()
        log.close()
        newest = KeptHead(now.entries, now.hash.hex(), SystemClock().now_us())
    typer.echo(msgspec.json.encode(newest).decode())


def _opened(home: Path) -> AuditLog:
    role_of(home)
    return open_log(home, SystemClock())


def _fits(entry: Entry, kind: str, who: str, ref: str) -> bool:
    return (not kind or entry.kind == kind) and (not who or entry.who == who) and (not ref or _about(entry, ref))


def _about(entry: Entry, ref: str) -> bool:
    return any(ref == fact or (isinstance(fact, list) and ref in fact) for fact in entry.facts.values())


def _told(home: Path) -> list[Head]:
    """What edges have told the hub that they keep."""
    if role_of(home) != "hub":
        return []
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        heads = msgspec.json.decode(store.load_state(HEADS_STATE) or b"{}", type=dict[str, KeptHead])
    return [Head(h.entries, bytes.fromhex(h.hash)) for h in heads.values()]


def _from_file(path: Path) -> Head:
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=KeptHead)
        return Head(kept.entries, bytes.fromhex(kept.hash))
    except (OSError, ValueError, msgspec.MsgspecError) as exc:
        raise SettingsError(f"{path} holds no head: {exc}", remedy="write it with `wardround audit head --home EDGE`") from exc
