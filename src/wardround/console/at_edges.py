"""What is open at edges that watch their own patients and devices, as the Overview shows it. Pure: a read model in, HTML out.

The hub is told numbers, priorities and whether it is about a patient, and nothing of whom or why (docs/privacy.md): so the
console says where to look. Each role sees the ones it acts on, line by line, and how many others there are.
"""

from __future__ import annotations

from dataclasses import dataclass

from wardround.console import pictures
from wardround.console.model import AtEdgeView, Overview
from wardround.console.words import count, safe
from wardround.trust.roles import Role

ROWS_SHOWN = 6
PATIENTS, DEVICES = {Role.CLINICIAN, Role.ADMIN}, {Role.OPERATOR, Role.ADMIN}  # who goes to look after each


@dataclass(frozen=True, slots=True)
class Yours:
    """One that the person who looks at the screen should see to: what, and the command that names whom, at its edge."""

    alert: AtEdgeView
    title: str
    command: str


def yours(view: Overview, role: str) -> list[Yours]:
    """What somebody of this role should see to now, the most urgent first."""
    return [_line(a) for a in view.at_edges if a.needs_person and _is_for(a, role)]


def at_edges(view: Overview, role: str) -> str:
    """The section; empty where no edge has said of an alert of its own."""
    if not view.at_edges:
        return ""
    own = [a for a in view.at_edges if _is_for(a, role)]
    others = [a for a in view.at_edges if not _is_for(a, role)]
    rows = [_row(_line(a)) for a in own[:ROWS_SHOWN]]
    if len(own) > ROWS_SHOWN:
        rows.append(f'<li class="hrow dim">and {len(own) - ROWS_SHOWN} more: wardround alert edges</li>')
    for physiological, words in ((True, "about patients"), (False, "about devices or edges")):
        these = [a for a in others if (a.category == "physiological") is physiological]
        if these:
            where = ", ".join(sorted({a.edge for a in these})[:ROWS_SHOWN])
            waiting = sum(a.needs_person for a in these)
            told = f"{waiting} not yet acknowledged" if waiting else "each is seen to, or can wait"
            rows.append(
                f'<li class="hrow">{pictures.mark(these[0].priority)}'
                f'<span class="m nw">{count(len(these), "alert")} {words}</span>'
                f'<span class="dim">at {safe(where)}; {told}</span></li>'
            )
    more = '<span class="end"><a class="link" href="/bedside">All of them</a></span>'
    head = f'<header style="padding-top:2px"><h2>At the edges</h2><span class="note">{len(view.at_edges)}</span>{more}</header>'
    return f'{head}<ul class="hlist">{"".join(rows)}</ul>'


def _is_for(alert: AtEdgeView, role: str) -> bool:
    return role in (PATIENTS if alert.category == "physiological" else DEVICES)


def _line(alert: AtEdgeView) -> Yours:
    if alert.category == "physiological":
        title = f"A patient at {alert.edge} should be looked at"
    else:
        title = f"A device of {alert.edge}, or the edge itself, needs a look"
    return Yours(alert, title, f"wardround edge alerts show {alert.alert_id}")


def _row(line: Yours) -> str:
    alert = line.alert
    told = "not yet acknowledged" if alert.state == "firing" else alert.state
    told += "; the edge is silent, and said so last" if alert.stale else ""
    return (
        f'<li class="hrow" data-key="{safe(alert.edge)}-{safe(alert.alert_id)}">{pictures.mark(alert.priority)}'
        f'<span class="m nw">{safe(line.title)}</span><span class="dim">{safe(told)}</span>'
        f'<span class="end dim" title="to be typed at that edge"><code>{safe(line.command)}</code></span></li>'
    )
