"""The Ward screen as text: subjects by need, and beside them one subject's record. It is decision support and says so."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from wardround.console import pictures
from wardround.console import ward_charts as charts
from wardround.console.frame import page
from wardround.console.looking import Looking
from wardround.console.model import Overview
from wardround.console.parts import no_permission
from wardround.console.record import record_panels
from wardround.console.ward_model import RecordView, SubjectRow, WardList
from wardround.console.words import count, lately, percent, safe
from wardround.trust.roles import Act

SUPPORT = "Decision support: do not rely on Wardround for primary alarms."
LOW = 0.8
EDGES_LISTED = 40  # beyond it one types the edge's name


def frame(view: Overview, looking: Looking) -> str:
    """The whole page around the sections, which are filled by `sections`."""
    main = (
        '<div class="grid wd"><section class="panel plist" aria-label="Subjects by need" id="ward-list"></section>'
        '<div class="stack" id="record"></div></div>'
    )
    return page(view, who=looking.name, role=looking.role, here="/ward", main=main)


def refused(looking: Looking) -> dict[str, str]:
    """The sections for somebody whose role does not cover patients' data."""
    return {
        "answer": '<h1>Patients are seen by clinicians.</h1><p class="sub">Your role does not cover patients\' data.</p>',
        "ward-list": no_permission(looking, Act.PATIENTS, "Who is on the ward is not shown."),
        "record": "",
    }


def sections(
    view: Overview,
    subjects: WardList | None,
    record: RecordView | None,
    *,
    edge: str = "",
    find: str = "",
    chosen: str = "",
    reading: bool = False,
) -> dict[str, str]:
    """Every part of the screen by the id of its element. `chosen`: whose record is asked for; `reading`: it is on its way."""
    shown = record_panels(record, simulated=view.simulated) if record is not None else _nobody(chosen, reading=reading)
    return {
        "answer": _answer(subjects, record, "" if reading else chosen),
        "ward-list": _list(subjects, edge=edge, find=find, chosen=chosen),
        "record": shown,
    }


def address(edge: str, subject: str, more: Mapping[str, str]) -> str:
    """A record's address, with what is asked of the list beside it."""
    asked = {k: v for k, v in more.items() if v}
    return f"/ward/{quote(edge, safe='')}/{quote(subject, safe='')}" + (f"?{urlencode(asked)}" if asked else "")


def _answer(subjects: WardList | None, record: RecordView | None, chosen: str) -> str:
    sub = SUPPORT
    if record is not None:
        score = record.news2
        if score is None or score.news2 is None:
            words = f"Of {record.subject} no NEWS2 can be said."
        else:
            least = "at least " if score.at_least else ""
            then = score.scores[0] if score.scores else score.news2
            words = f"{record.subject} scores NEWS2 {least}{score.news2}"
            words += f", {'up' if then < score.news2 else 'down'} from {then}." if then != score.news2 else "."
            sub = f"{_response(score.news2, red=score.red)} {SUPPORT}"
    elif chosen:
        words = "There is no such subject, or consent shows nothing of it."
    elif subjects is None:
        words = "One moment: the ward is being read."
    elif not subjects.total:
        words = "No subject's data may be shown here yet."
    else:
        high = [r for r in subjects.rows if r.news2 is not None and r.news2 >= 7]
        words = (
            f"{count(len(high), 'subject')} on this page score NEWS2 7 or more."
            if high
            else "Nobody here scores NEWS2 7 or more."
        )
        words = words.replace("1 subject on this page score ", "1 subject on this page scores ")
    return f'<h1>{safe(words)}</h1><p class="sub">{safe(sub)}</p>'


def _response(total: int, *, red: bool) -> str:
    if total >= 7:
        return "7 or more asks for emergency assessment and continuous monitoring."
    if total >= 5:
        return "5 or 6 asks for an urgent review."
    return "3 in one parameter asks for an urgent look." if red else "Below 5: as the ward's routine has it."


def _list(subjects: WardList | None, *, edge: str, find: str, chosen: str) -> str:
    if subjects is None:
        return '<header><h2>Subjects</h2></header><p class="calm">The list is being read.</p>'
    head = f'<header><h2>Subjects</h2><span class="note">{subjects.matching:,} by need</span></header>'
    head += _filter(subjects, edge, find)
    if not subjects.total:
        return (
            f'{head}<p class="calm">Subjects show here once their data reach the lake and their consent for care says raw: '
            "<code>wardround edge device DEVICE --patient ID --consent raw</code></p>"
        )
    newer = ""
    if subjects.newer:
        here = "?" + urlencode({"edge": edge, "find": find, "page": subjects.page})
        newer = (
            f'<p class="calm s12"><a class="link" href="/ward{safe(here)}">{subjects.newer} stand elsewhere by now, show</a></p>'
        )
    rows = "".join(_row(r, edge, find, subjects, chosen) for r in subjects.rows)
    return (
        f'{head}{newer}<div class="ph" aria-hidden="true"><span></span><span>subject</span><span>12 h</span>'
        f'<span class="r">complete</span><span class="r">NEWS2</span></div><ul>{rows}</ul>{_pages(subjects, edge, find)}'
        '<p class="calm dim s12">Names stay at the edge. Only its bedside screen can join a pseudonym to a person.</p>'
    )


def _filter(subjects: WardList, edge: str, find: str) -> str:
    listed = subjects.edges if len(subjects.edges) <= EDGES_LISTED else ()
    options = "".join(f'<option value="{safe(e)}"{" selected" if e == edge else ""}>{safe(e)}</option>' for e in listed)
    choice = f'<select id="ward-edge" name="edge"><option value="">every edge</option>{options}</select>'
    if len(subjects.edges) > EDGES_LISTED:
        choice = f'<input id="ward-edge" name="edge" value="{safe(edge)}" placeholder="every edge" autocomplete="off">'
    return (
        '<form class="filter" method="get" action="/ward"><label class="vh" for="ward-edge">Edge</label>'
        f"{choice}"
        f'<label class="vh" for="ward-find">Pseudonym begins with</label><input id="ward-find" name="find" value="{safe(find)}" '
        'placeholder="pseudonym begins with" autocomplete="off" spellcheck="false"><button class="btn small">Show</button></form>'
    )


def _row(row: SubjectRow, edge: str, find: str, subjects: WardList, chosen: str) -> str:
    sign = pictures.mark(row.priority) if row.priority is not None else ""
    where = address(row.edge, row.subject, {"edge": edge, "find": find, "page": str(subjects.page) if subjects.page > 1 else ""})
    here = ' aria-current="true"' if row.subject == chosen else ""
    if row.news2 is None:
        score, words = '<span class="dim s12 nw">no score</span>', "no score"
    else:
        least = '<span class="dim">&ge;</span>' if row.at_least else ""
        score, words = f"{least}{row.news2}", f"NEWS2 {'at least ' if row.at_least else ''}{row.news2}"
    if row.complete is None:
        complete = f'<span class="dim">{f"lost {lately(row.last_us, subjects.looked_us)}" if row.last_us else "no data"}</span>'
    else:
        complete = f'<span class="{"b" if row.complete < LOW else "dim"}">{percent(row.complete)}</span>'
    return (
        f'<li data-key="{safe(row.subject)}"><a class="pr" href="{safe(where)}"{here} '
        f'title="{safe(row.subject)} at {safe(row.edge)}, {words}"><span>{sign}</span>'
        f'<span class="mono">{safe(short(row.subject))}</span>'
        f'<span>{charts.spark(row.scores)}</span><span class="r">{complete}</span><span class="r nw2">{score}</span></a></li>'
    )


def short(subject: str) -> str:
    """The beginning of a pseudonym, by which people tell subjects of a ward apart; the whole stands in its record."""
    return "-".join(subject.split("-")[:2])


def _pages(subjects: WardList, edge: str, find: str) -> str:
    if subjects.pages == 1:
        return ""

    def link(to: int, words: str) -> str:
        if not 1 <= to <= subjects.pages:
            return f'<span class="dim">{words}</span>'
        asked = urlencode({k: v for k, v in (("edge", edge), ("find", find), ("page", str(to))) if v})
        return f'<a class="link" href="/ward?{safe(asked)}">{words}</a>'

    return (
        f'<nav class="pages" aria-label="Pages of subjects">{link(subjects.page - 1, "Before")}'
        f"<span>page {subjects.page:,} of {subjects.pages:,}</span>{link(subjects.page + 1, 'Next')}</nav>"
    )


def _nobody(chosen: str, *, reading: bool) -> str:
    if chosen and reading:
        return '<section class="panel skeleton" aria-busy="true"><p class="calm dim">The record is being read.</p></section>'
    words = (
        "Nothing of this subject may be shown: it is unknown here, was erased, or consent for care keeps its data at the edge."
        if chosen
        else "Choose a subject. That its record was opened, by whom and when, is in the audit log."
    )
    return f'<section class="panel"><p class="calm">{words}</p></section>'
