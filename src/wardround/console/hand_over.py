"""The hand-over of a shift as text: what happened, what is still open, what is due, and the note of who leaves."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import quote, urlencode

from wardround.console import bedside, parts, pictures
from wardround.console.frame import page
from wardround.console.hand_over_model import (
    HOURS,
    NEEDS,
    NOTE_CHARS,
    RISE,
    HandOverDesk,
    HandOverView,
    Note,
    ShiftAlert,
    ShiftPart,
    ShiftStudy,
)
from wardround.console.looking import Facts, Looking, OnAct, Reply, Screen
from wardround.console.model import EdgeView, Overview, RoutineView
from wardround.console.tables import Column, Table
from wardround.console.ward_model import SubjectRow
from wardround.console.words import clock, count, day_clock, duration, full_clock, lately, safe, spoken
from wardround.errors import NotAllowed, WardroundError
from wardround.trust.roles import Act

PATH = "/hand-over"
TITLES: dict[ShiftPart, str] = {"clinical": "Patients", "technical": "Edges, studies and the hub"}
PRINTED, NAMED = 500, 50
NOTHING = '<span class="dim">-</span>'
EMPTY = ("note", "alerts", "patients", "edges", "due")


def screens(desk: HandOverDesk) -> tuple[Screen, ...]:
    """The page, and the page as it is printed."""

    def live(looking: Looking) -> dict[str, str]:
        return sections(desk, looking)

    return tuple(Screen(path, "Hand-over", frame, live, _acts(desk)) for path in (PATH, f"{PATH}/{{item}}"))


def frame(view: Overview, looking: Looking) -> str:
    """The whole page around the sections."""
    main = (
        '<section class="panel" aria-label="The note" id="note"></section>'
        '<section class="panel below" aria-label="Alerts" id="alerts"></section>'
        '<section class="panel below" aria-label="Patients" id="patients"></section>'
        '<section class="panel below" aria-label="Edges and studies" id="edges"></section>'
        '<section class="panel below" aria-label="What is due" id="due"></section>'
    )
    return page(view, who=looking.name, role=looking.role, here=PATH, main=main)


def part_of(looking: Looking) -> ShiftPart | None:
    """The part that the address asks for, or the one that the role covers; None: it covers neither."""
    may = [part for part, act in NEEDS.items() if looking.may(act)]
    asked = looking.params.get("part", "")
    return asked if asked in may else may[0] if may else None


def hours_of(looking: Looking) -> int:
    """How long the shift was, of the few lengths that there are."""
    asked = looking.number("hours")
    return asked if asked in HOURS else HOURS[0]


def sections(desk: HandOverDesk, looking: Looking) -> dict[str, str]:
    """Every part of the page by the id of its element; what there is nothing of is empty."""
    part = part_of(looking)
    if part is None:
        words = "The hand-over is for who is on call: clinicians, and operators."
        return {
            **dict.fromkeys(EMPTY, ""),
            "answer": parts.answer(words),
            "note": parts.no_permission(looking, Act.PATIENTS, words),
        }
    try:
        view = desk.view(looking.name, part, hours_of(looking))
    except NotAllowed as refused:
        return {**dict.fromkeys(EMPTY, ""), "answer": parts.answer(f"{refused}.")}
    except WardroundError as error:  # what cannot be recorded is not shown
        return {
            **dict.fromkeys(EMPTY, ""),
            "answer": parts.answer("The hand-over cannot be shown."),
            "note": parts.error(f"{error}.", error.remedy),
        }
    clinical = part == "clinical"
    return {
        "answer": answer(view, looking),
        "note": _notes(view, looking),
        "alerts": _alerts(view, looking),
        "patients": _patients(view, looking) if clinical else "",
        "edges": "" if clinical else _edges(view),
        "due": "" if clinical else _due(view),
    }


def answer(view: HandOverView, looking: Looking) -> str:
    """One sentence of what the next one takes over."""
    opened, still = sum(a.opened_here for a in view.alerts), sum(a.open for a in view.alerts)
    words = f"In {view.hours} hours {spoken(opened)} {'alert was' if opened < 2 else 'alerts were'} opened"
    words += f", {spoken(still) if still else 'none'} {'is' if still < 2 else 'are'} still open."
    if view.part == "clinical":
        rising = len(view.rising or ())
        if view.rising is not None:
            words += f" {count(rising, 'patient') if rising else 'No patient'} {'has' if rising < 2 else 'have'} a rising NEWS2."
    else:
        silent, late = len(view.silent), sum(bool(r.late_s) for r in view.due)
        words += f" {count(silent, 'edge')} {'is' if silent == 1 else 'are'} silent" if silent else " No edge is silent"
        words += f", {count(late, 'routine')} late." if late else ", nothing is late."
    newest = view.notes[0] if view.notes else None
    if newest is not None and not newest.confirmed_us:
        sub = f"{newest.who} has left a note that nobody has confirmed."
    else:
        sub = "Who leaves writes a note; who comes confirms it."
    both = all(looking.may(act) for act in NEEDS.values())
    tabs = parts.tabs(looking, "hours", [("" if h == HOURS[0] else str(h), f"{h} h") for h in HOURS], "How long")
    if both:
        names = [("" if p == "clinical" else p, title) for p, title in TITLES.items()]
        tabs = parts.tabs(looking, "part", names, "Which part") + tabs
    acts = parts.button(looking, NEEDS[view.part], "Write the note", "ask-hand-over", kind="primary", facts=_facts(view))
    if looking.item == "print":
        asked = urlencode({key: value for key, value in looking.params.items() if key in ("part", "hours")})
        back = f"{PATH}?{asked}" if asked else PATH
        acts = f'<a class="btn" href="{safe(back)}">Back</a><button class="btn primary" data-act="print">Print</button>'
        return parts.answer(words, f"Printed for {looking.name}, {full_clock(view.now_us)} UTC. {sub}", acts)
    printed = replace(looking, address=f"{PATH}/print").link({})
    return parts.answer(words, sub, f'{tabs}<a class="btn" href="{safe(printed)}">Print view</a>{acts}')


def _facts(view: HandOverView) -> tuple[tuple[str, str], ...]:
    return (("part", view.part), ("hours", str(view.hours)))


def _notes(view: HandOverView, looking: Looking) -> str:
    head = parts.head("The note", f"{TITLES[view.part]}; {day_clock(view.since_us)} to {clock(view.now_us)} UTC")
    if not view.notes:
        return head + parts.empty(
            "Nobody has left a note", "What is below comes by itself; what only you know goes into the note."
        )
    newest, *older = view.notes
    earlier = "".join(f'<li data-key="{n.number}">{_told(n, view.now_us)}</li>' for n in older)
    more = (
        f'<details><summary class="s13">{count(len(older), "earlier note")}</summary><ul class="fd">{earlier}</ul></details>'
        if older
        else ""
    )
    button = ""
    if not newest.confirmed_us and newest.who != looking.name:
        button = parts.button(
            looking,
            NEEDS[view.part],
            "I have read it and take over",
            "confirm-hand-over",
            kind="primary",
            facts=(("number", str(newest.number)),),
        )
    return f'{head}<div class="body"><div data-key="{newest.number}">{_told(newest, view.now_us)}</div>{button}{more}</div>'


def _told(note: Note, now_us: int) -> str:
    stands = (
        f"{pictures.tick(13)} confirmed by {safe(note.confirmed_by)}, {day_clock(note.confirmed_us)} UTC"
        if note.confirmed_us
        else f"{pictures.mark('medium', 13)} not confirmed yet, {duration(max(0.0, (now_us - note.written_us) / 1e6))} old"
    )
    return (
        f'<p class="left">{safe(note.text)}</p><p class="dim s12">{safe(note.who)}, {day_clock(note.written_us)} UTC, '
        f"of {note.hours} hours. {stands}</p>"
    )


def _alerts(view: HandOverView, looking: Looking) -> str:
    opened, still = sum(a.opened_here for a in view.alerts), sum(a.open for a in view.alerts)
    head = parts.head("Alerts", f"{opened:,} opened, {still:,} still open; what is open first")
    if not view.alerts:
        return head + parts.empty("No alert in this time", "What was opened, acknowledged or over stands here.")
    return head + _table(looking, view.now_us).html(looking, view.alerts)


def _table(looking: Looking, now_us: int) -> Table[ShiftAlert]:
    def alert(row: ShiftAlert) -> str:
        address = f"/alerts/{quote(row.alert_id, safe='')}"
        sign = pictures.mark(row.priority, 15) if row.open else pictures.tick(15)
        return f'{sign} <a class="m" href="{safe(address)}">{safe(row.title)}</a><span class="need dim">{safe(row.where)}</span>'

    def state(row: ShiftAlert) -> str:
        words = f"open for {duration(max(0.0, (now_us - row.since_us) / 1e6))}" if row.open else "over"
        return (
            words
            + (", silenced" if row.silenced else "")
            + ("" if row.opened_here else '<span class="need dim">from before</span>')
        )

    def taken(row: ShiftAlert) -> str:
        if not row.acknowledged_by:
            return "nobody" if row.open else NOTHING
        at = f", {lately(row.acknowledged_us, now_us)} UTC" if row.acknowledged_us else ""
        return f"{safe(row.acknowledged_by)}{at}"

    def done(row: ShiftAlert) -> str:
        undo = (
            parts.button(looking, Act.UNDO, "Undo", "ask-undo", kind="small", facts=(("alert", row.alert_id),))
            if row.undo
            else ""
        )
        return f"{safe(row.done) or NOTHING} {undo}".strip()

    columns = (
        Column("alert", "Alert", alert),
        Column("state", "State", state, by=lambda r: (not r.open, r.since_us)),
        Column("by", "Acknowledged by", taken, by=lambda r: r.acknowledged_by),
        Column("done", "What was done", done),
    )
    return Table("shift", columns, lambda r: r.alert_id, "alert", rows=PRINTED if looking.item == "print" else 50)


def _patients(view: HandOverView, looking: Looking) -> str:
    head = parts.head("Patients", f"NEWS2 up by {RISE} or more from the lowest of the last 12 hours")
    if view.rising is None:
        body = '<p class="calm dim">One moment: the ward is being read.</p>'
    elif view.rising:
        rows = "".join(map(_rising, view.rising[:NAMED]))
        more = len(view.rising) - NAMED
        table = (
            '<table class="tight"><thead><tr><th>Subject</th><th>Edge</th><th class="r">NEWS2</th><th>By hour</th></tr></thead>'
        )
        body = parts.scrolled(f"{table}<tbody>{rows}</tbody></table>", "Patients with a rising NEWS2")
        body += f'<p class="calm dim">and {more:,} more: the Ward lists them by need</p>' if more > 0 else ""
    else:
        body = '<p class="calm">No patient of whom the hub may know has a rising NEWS2.</p>'
    own = parts.head("Open at the edges", "alerts that edges raise themselves; what was over before stands at the edge")
    if view.bedside:
        cells = bedside.table(looking, view.now_us, whose=True, devices=False)
        own += cells.html(looking, view.bedside)
    else:
        own += '<p class="calm">Nothing that an edge has told of.</p>'
    return f'{head}{body}{own}<p class="ds">{bedside.DISCLAIMER}</p>'


def _rising(row: SubjectRow) -> str:
    address = f"/ward/{quote(row.edge, safe='')}/{quote(row.subject, safe='')}?why=hand-over"
    score = f"<b>{'at least ' if row.at_least else ''}{row.news2}</b>, up {row.rise}"
    return (
        f'<tr data-key="{safe(row.subject)}" data-row tabindex="-1"><td><a class="mono" href="{safe(address)}">'
        f'{safe(row.subject)}</a></td><td>{safe(row.edge)}</td><td class="r">{score}</td>'
        f'<td class="dim">{" ".join(map(str, row.scores[-12:]))}</td></tr>'
    )


def _edges(view: HandOverView) -> str:
    head = parts.head("Edges and studies", "who is silent, what is paused, what was done")
    rows = "".join(map(_silent, view.silent[:NAMED]))
    more = len(view.silent) - NAMED
    rows += f'<li class="dim">and {more:,} more are silent: the Fleet lists them</li>' if more > 0 else ""
    rows += "".join(
        f'<li data-key="aside {safe(e.name)}">{pictures.mark("medium", 15)}<span><b class="m">{safe(e.name)}</b> is set aside: '
        "its updates weigh nothing.</span></li>"
        for e in view.aside[:NAMED]
    )
    rows += "".join(f'<li data-key="{safe(s.study)} {i}">{_study(s)}</li>' for i, s in enumerate(view.studies))
    if not rows:
        return f'{head}<p class="calm">Every edge is heard of, and nothing was done to a study.</p>'
    return f'{head}<div class="body"><ul class="fd">{rows}</ul></div>'


def _silent(e: EdgeView) -> str:
    name = f'<a class="m" href="/fleet/{quote(e.name, safe="")}">{safe(e.name)}</a>'
    return (
        f'<li data-key="{safe(e.name)}">{parts.cross(15)}<span>{name} is silent for {duration(e.silent_s)}; '
        f"{count(e.spooled, 'observation')} waited there when it was last heard of.</span></li>"
    )


def _study(s: ShiftStudy) -> str:
    name = f'<a class="m" href="/studies/{quote(s.study, safe="")}">{safe(s.study)}</a>'
    if not s.who:
        why = f": {safe(s.why)}" if s.why else ""
        sign = pictures.mark("medium" if s.what in ("paused", "failed") else "info", 15)
        return f"{sign}<span>{name} is {safe(s.what)}{why}</span>"
    why = f", because: {safe(s.why)}" if s.why else ""
    return f"{pictures.mark('info', 15)}<span>{name}: {safe(s.what)}, by {safe(s.who)}, {day_clock(s.t_us)} UTC{why}</span>"


def _due(view: HandOverView) -> str:
    head = parts.head("What is due", f"late or failed, then the next {view.hours} hours; all of it: Automation")
    if not view.due:
        return f'{head}<p class="calm">Nothing is late, and nothing seldom is due.</p>'
    rows = "".join(map(_routine, view.due))
    table = '<table class="tight"><thead><tr><th>What</th><th>Due, UTC</th><th>Last outcome</th></tr></thead>'
    return head + parts.scrolled(f"{table}<tbody>{rows}</tbody></table>", "What is due, table")


def _routine(r: RoutineView) -> str:
    sign = (
        f"{pictures.mark('medium', 15)} late by {duration(r.late_s)}"
        if r.late_s
        else day_clock(r.next_us)
        if r.next_us
        else "now"
    )
    outcome = f"{r.outcome} {r.detail}".strip()
    cells = f'<td class="m">{safe(r.title)}</td><td>{sign}</td><td class="dim">{safe(outcome)}</td>'
    return f'<tr data-key="{safe(r.name)}">{cells}</tr>'


def note_dialog(part: ShiftPart, hours: int) -> str:
    """Before a note is left."""
    field = (
        f'<label class="field">The note<textarea class="note" name="note" required maxlength="{NOTE_CHARS}" '
        'placeholder="What is under way, what you would do next, whom you have called"></textarea></label>'
    )
    return parts.confirm(
        title=f"Hand over {TITLES[part][:1].lower()}{TITLES[part][1:]}, {hours} hours?",
        detail="Name patients by their pseudonym alone.",
        consequences=(
            "Your name and the time stand with it; it cannot be changed afterwards, only followed by another.",
            "The next one on call confirms that they have read it.",
        ),
        keep="Not yet",
        do="Leave the note",
        act="hand-over",
        facts=(("part", part), ("hours", str(hours))),
        fields=field,
    )


def _acts(desk: HandOverDesk) -> dict[str, OnAct]:
    def asked(facts: Facts) -> tuple[ShiftPart, int]:
        part: ShiftPart = "clinical" if facts.get("part") == "clinical" else "technical"
        return part, next((hours for hours in HOURS if str(hours) == facts.get("hours")), HOURS[0])

    def ask(facts: Facts, _: Looking) -> Reply:
        return Reply(dialog=note_dialog(*asked(facts)))

    def write(facts: Facts, looking: Looking) -> Reply:
        desk.write(looking.name, *asked(facts), facts.get("note", ""))
        return Reply(toast="The note is left. The next one on call confirms it.")

    def confirm(facts: Facts, looking: Looking) -> Reply:
        number = facts.get("number", "")
        desk.confirm(looking.name, int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 0)
        return Reply(toast="You have taken over.")

    return {"ask-hand-over": ask, "hand-over": write, "confirm-hand-over": confirm}
