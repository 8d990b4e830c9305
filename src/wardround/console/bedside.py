"""The Bedside screen as text: open alerts of edges that watch their own patients, and what load they are."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from urllib.parse import quote

from wardround.console import parts, pictures
from wardround.console.bedside_model import BedsideDesk, BedsideLoad, BedsideRow, BedsideView
from wardround.console.frame import page
from wardround.console.looking import Facts, Looking, OnAct, Reply, Screen
from wardround.console.model import URGENCY, Overview
from wardround.console.tables import Column, Table
from wardround.console.words import clock, count, duration, full_clock, number, percent, safe, spoken
from wardround.errors import WardroundError
from wardround.trust.roles import Act

PATH = "/bedside"
DISCLAIMER = "Decision support, not a primary alarm: it may come late, and it may be wrong. Bedside monitors alarm by themselves."
TABS = (("", "Patients"), ("devices", "Devices and edges"))
NOTHING = '<span class="dim">-</span>'
STAYS = '<span class="dim">stays at the edge</span>'


def screens(desk: BedsideDesk) -> tuple[Screen, ...]:
    """The one page."""

    def live(looking: Looking) -> dict[str, str]:
        whose = False
        if looking.may(Act.PATIENTS):
            with contextlib.suppress(WardroundError):  # what cannot be recorded is not shown
                whose = desk.seen(looking.name)
        return sections(desk.view(), looking, whose=whose)

    return (Screen(PATH, "Bedside", frame, live, _acts(desk)),)


def frame(view: Overview, looking: Looking) -> str:
    """The whole page around the sections."""
    main = (
        '<section class="panel" aria-label="Open alerts" id="open"></section>'
        '<section class="panel below" aria-label="Alarm load" id="load"></section>'
    )
    return page(view, who=looking.name, role=looking.role, here=PATH, main=main)


def sections(view: BedsideView, looking: Looking, *, whose: bool) -> dict[str, str]:
    """Every part of the screen by the id of its element. `whose`: the person may see of whom an alert is."""
    return {"answer": answer(view), "open": _open(view, looking, whose=whose), "load": _load(view, looking)}


def answer(view: BedsideView) -> str:
    """One sentence of how many patients should be looked at."""
    patients = [r for r in view.rows if r.about_patient]
    now = [r for r in patients if r.needs_person]
    sub = DISCLAIMER
    if now:
        urgent = sum(r.priority == "high" for r in now)
        words = f"{spoken(len(now)).capitalize()} {'alert' if len(now) == 1 else 'alerts'} about patients wait for somebody"
        words = words.replace("patients wait", "a patient waits") if len(now) == 1 else words
        where = sorted({r.edge for r in now})
        words += f" at {', '.join(where[:3])}{f' and {len(where) - 3:,} more edges' if len(where) > 3 else ''}"
        words += f", {spoken(urgent)} of high priority." if urgent else "."
    elif patients:
        words = f"{count(len(patients), 'alert')} about patients {'is' if len(patients) == 1 else 'are'} open; none waits."
    elif view.watching:
        words = f"No patient needs a look at {count(view.watching, 'edge')} that {'watches' if view.watching == 1 else 'watch'}."
    else:
        words = "No edge has told of a patient whom it watches."
    return parts.answer(words, sub)


def _open(view: BedsideView, looking: Looking, *, whose: bool) -> str:
    devices, edge = looking.params.get("show", "") == "devices", looking.params.get("edge", "")
    of_kind = [r for r in view.rows if r.about_patient is not devices]
    rows = [r for r in of_kind if not edge or r.edge == edge]
    head = parts.head("Open at the edges", f"{len(rows):,}; as each edge last said")
    tabs = parts.tabs(looking, "show", TABS, "About what")
    everywhere = f'<a class="link" href="{safe(looking.link({"edge": ""}))}">Show every edge</a>'
    chosen = f'<p class="calm s12">Of {safe(edge)} alone. {everywhere}</p>' if edge else ""
    if not rows:
        words = (
            "What an edge finds about its own devices shows here." if devices else "An edge that watches its patients tells here."
        )
        return head + tabs + chosen + parts.empty("Nothing is open", words, "wardround alert edges")
    more = f'<p class="calm dim">and {view.more:,} more: wardround alert edges</p>' if view.more else ""
    return head + tabs + chosen + table(looking, view.now_us, whose=whose, devices=devices).html(looking, rows) + more


def table(looking: Looking, now_us: int, *, whose: bool, devices: bool) -> Table[BedsideRow]:
    """The table of open alerts at edges, of patients or of devices. `whose`: the person may see of whom an alert is."""
    return _Cells(looking, now_us, whose).table(devices=devices)


@dataclass(frozen=True, slots=True)
class _Cells:
    """The cells of a row, for one person at one time. `whose`: they may see of whom an alert is."""

    looking: Looking
    now_us: int
    whose: bool

    def table(self, *, devices: bool) -> Table[BedsideRow]:
        columns = [
            Column("alert", "Alert", self.alert, by=lambda r: (URGENCY.index(r.priority), r.alert_id)),
            Column("edge", "Edge", self.edge, by=lambda r: r.edge),
        ]
        if not devices:
            columns += [
                Column("patient", "Subject", self.patient),
                Column("found", "What", self.found),
                Column("news2", "NEWS2", self.score, right=True),
                Column("since", "Since, UTC", self.since),
            ]
        columns += [Column("state", "State", self.state, by=lambda r: r.state), Column("act", "Acknowledge", self.act)]
        return Table("bedside", columns, lambda r: f"{r.edge} {r.alert_id}", "alert")

    def alert(self, row: BedsideRow) -> str:
        return f'{pictures.mark(row.priority, 15)} <span class="m">{safe(row.alert_id)}</span>'

    def edge(self, row: BedsideRow) -> str:
        at = f'<a class="b" href="{safe(self.looking.link({"edge": row.edge}))}">{safe(row.edge)}</a>'
        return f"{at} {parts.stale('silent, said so last')}" if row.stale else at

    def patient(self, row: BedsideRow) -> str:
        if not row.subject or not self.whose:
            return STAYS
        address = f"/ward/{quote(row.edge, safe='')}/{quote(row.subject, safe='')}?why={quote(row.alert_id, safe='')}"
        return f'<a class="mono" href="{safe(address)}">{safe(row.subject)}</a>'

    def found(self, row: BedsideRow) -> str:
        return safe(row.title) if row.title and self.whose else STAYS

    def score(self, row: BedsideRow) -> str:
        return f"<b>{row.news2}</b>" if row.news2 is not None and self.whose else NOTHING

    def since(self, row: BedsideRow) -> str:
        if not row.since_us or not self.whose:
            return NOTHING
        age_s = max(0.0, (self.now_us - row.since_us) / 1e6)
        return f'<span title="{full_clock(row.since_us)} UTC">{clock(row.since_us)}, {duration(age_s)}</span>'

    def state(self, row: BedsideRow) -> str:
        if row.state == "firing":
            return "nobody is on it"
        return safe(f"{row.acknowledged_by} is on it" if row.acknowledged_by and self.whose else row.state)

    def act(self, row: BedsideRow) -> str:
        if row.state != "firing":
            return NOTHING
        if not row.acknowledges or row.stale:
            return f'<code title="to be typed at that edge">wardround edge alerts ack {safe(row.alert_id)}</code>'
        facts = (("edge", row.edge), ("alert", row.alert_id))
        needs = Act.PATIENTS if row.about_patient else Act.ACKNOWLEDGE
        return parts.button(self.looking, needs, "I am on it", "acknowledge-at-edge", kind="small", facts=facts)


def _load(view: BedsideView, looking: Looking) -> str:
    head = parts.head("Alarm load, last 7 days", "actionable: of those that somebody has judged")
    if not view.load:
        return head + parts.empty(
            "No edge has told of its load", "At the edge itself, for any time:", "wardround edge alerts load --last 7d"
        )
    total = "".join(f"<li><b>{_of(one)}</b> {safe(_sum(one))}</li>" for one in view.total)
    return f'{head}<div class="load"><div class="ld"><ul>{total}</ul></div></div>{_LOAD.html(looking, view.load)}'


def _of(load: BedsideLoad) -> str:
    if load.per_patient_day is None:
        return f"{load.alerts:,}"
    return number(load.per_patient_day)


def _sum(load: BedsideLoad) -> str:
    words = f"{load.category} {'alert' if load.alerts == 1 else 'alerts'}"
    if load.per_patient_day is not None:
        words = f"for each patient and day: {load.alerts:,} {words}"
    words += f", {percent(load.acknowledged)} acknowledged" if load.acknowledged is not None else ""
    return words + (
        f", {percent(load.actionable)} of {load.judged:,} judged were actionable" if load.actionable is not None else ""
    )


def _share(share: float | None) -> str:
    return percent(share) if share is not None else NOTHING


_LOAD: Table[BedsideLoad] = Table(
    "load",
    (
        Column("edge", "Edge", lambda r: f'<span class="b">{safe(r.edge)}</span>', by=lambda r: r.edge),
        Column("about", "About", lambda r: safe(r.category), by=lambda r: r.category),
        Column("alerts", "Alerts", lambda r: f"{r.alerts:,}", by=lambda r: r.alerts, right=True),
        Column(
            "per",
            "For each patient and day",
            lambda r: number(r.per_patient_day) if r.per_patient_day is not None else NOTHING,
            by=lambda r: r.per_patient_day or 0.0,
            right=True,
        ),
        Column("ack", "Acknowledged", lambda r: _share(r.acknowledged), by=lambda r: r.acknowledged or 0.0, right=True),
        Column(
            "answer",
            "Answered after (median)",
            lambda r: duration(r.answer_s) if r.answer_s is not None else NOTHING,
            right=True,
        ),
        Column("judged", "Judged", lambda r: f"{r.judged:,}", by=lambda r: r.judged, right=True),
        Column("act", "Actionable", lambda r: _share(r.actionable), by=lambda r: r.actionable or 0.0, right=True),
    ),
    lambda r: f"{r.edge} {r.category}",
    "edge and category",
    "edges and categories",
)


def _acts(desk: BedsideDesk) -> dict[str, OnAct]:
    def acknowledge(facts: Facts, looking: Looking) -> Reply:
        edge, alert = facts.get("edge", ""), facts.get("alert", "")
        desk.acknowledge(looking.name, edge, alert)
        return Reply(toast=f"{edge} is told that you are on {alert}; its next heartbeats say so here.")

    return {"acknowledge-at-edge": acknowledge}
