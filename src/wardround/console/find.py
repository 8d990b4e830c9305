"""Find: from a few letters to the edge, study or alert that is meant."""

from __future__ import annotations

from dataclasses import dataclass

from wardround.console import parts
from wardround.console.frame import FIND, SCREENS, page
from wardround.console.looking import Looking
from wardround.console.model import Overview
from wardround.console.words import count, safe

SHOWN = 50


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that is meant, perhaps."""

    kind: str
    name: str
    detail: str
    address: str


def find(view: Overview, words: str) -> list[Found]:
    """What the words may mean: what is called so first, then what begins so, then what holds them."""
    wanted = words.strip().casefold()
    if not wanted:
        return []
    everything = [Found("edge", e.name, e.state, f"/fleet/{e.name}") for e in view.edges]
    everything += [Found("study", name, "", f"/studies/{name}") for name in view.study_names]
    everything += [Found("alert", a.alert_id, a.title, f"/alerts/{a.alert_id}") for a in view.alerts]
    there = tuple(f"{place.address}/" for place in SCREENS if place.address != "/")
    everything = [f for f in everything if f.address.startswith(there)]
    hits = [f for f in everything if wanted in f"{f.name} {f.detail if f.kind == 'alert' else ''}".casefold()]
    return sorted(hits, key=lambda f: (f.name.casefold() != wanted, not f.name.casefold().startswith(wanted)))


def sections(view: Overview, looking: Looking) -> dict[str, str]:
    """Every part of the screen by the id of its element."""
    words = looking.params.get("q", "").strip()
    found = find(view, words)
    told = f"{count(len(found), 'thing')} {'fits' if len(found) == 1 else 'fit'} {words}." if words else "Find by name or number."
    rows = "".join(
        f'<li class="hrow" data-key="{safe(f.address)}" data-row tabindex="-1"><span class="dim">{f.kind}</span>'
        f'<a class="link m nw" href="{safe(f.address)}">{safe(f.name)}</a><span class="dim">{safe(f.detail)}</span></li>'
        for f in found[:SHOWN]
    )
    none = parts.empty("Nothing fits", "Edges, studies and alerts are found by parts of their names; patients in the Ward.")
    return {"answer": parts.answer(told), "found": f'<ul class="hlist">{rows}</ul>' if rows else none}


def frame(view: Overview, looking: Looking) -> str:
    """The whole page around the sections."""
    sought = looking.params.get("q", "")
    main = (
        '<section class="panel" aria-label="What was found"><form class="filter narrow" role="search" action="/find">'
        f'<label class="vh" for="find-here">{FIND}</label><input id="find-here" name="q" type="search" maxlength="80" '
        f'value="{safe(sought)}" placeholder="{FIND}"><button class="btn small">Find</button></form>'
        '<div id="found"></div></section>'
    )
    return page(view, who=looking.name, role=looking.role, here="/find", main=main, sought=sought)
