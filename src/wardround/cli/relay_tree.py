"""`wardround edge tree`: which edge gives the model to which, as the running hub sees it."""

from __future__ import annotations

import msgspec
import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.tree import Tree as Drawing

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock
from wardround.errors import LearnError
from wardround.learn.tree import STATE, StudyTree, Tree, TreeEdge

OLD_S = 10.0  # the hub writes it once a second


def tree(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Draw how the model reaches the edges: links, models, and bytes from the hub and from edge to edge."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        saved = store.load_state(STATE)
    if saved is None:
        raise LearnError("no hub has run a study here yet", remedy="`wardround hub run`, then `wardround study start`")
    known = msgspec.json.decode(saved, type=Tree)
    age_s = max(0.0, (SystemClock().now_us() - known.t_us) / 1e6)
    if as_json:
        typer.echo(msgspec.json.encode({"age_s": round(age_s, 1), **msgspec.to_builtins(known)}).decode())
        return
    console = Console()
    if age_s > OLD_S:
        console.print(f"[yellow]As of {age_s:.0f} s ago: the hub is not running, or busy.[/]")
    if not known.studies:
        console.print("No study runs.")
    for study in known.studies:
        console.print(draw(study))


def draw(study: StudyTree) -> Drawing:
    """One study's tree."""
    given = sum(edge.from_hub_bytes for edge in study.edges)
    root = Drawing(f"[bold]hub[/]  {escape(study.study)}  model {study.model[:12] or 'none yet'}  gave {decimal(given)}")
    placed = {"": root}
    for edge in study.edges:
        placed[edge.name] = placed[edge.above].add(_line(edge, study.model))
    return root


def _line(edge: TreeEdge, newest: str) -> str:
    link = "[green]attached[/]" if edge.attached else "[red]away[/]"
    model = f"model {edge.model[:12]}" if edge.model else "no model yet"
    if edge.model and edge.model != newest:
        model += " (older)"
    received = [f"{decimal(edge.from_hub_bytes)} from the hub"] if edge.from_hub_bytes or not edge.above else []
    if edge.above:
        received.append(f"{decimal(edge.from_above_bytes)} from {escape(edge.above)}")
    why = f"  [yellow]{escape(edge.why_not)}[/]" if edge.why_not else ""
    return f"{escape(edge.name)}  {link}  {model}  {', '.join(received)}{why}"
