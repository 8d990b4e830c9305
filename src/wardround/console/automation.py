"""The Automation screen as text: what the hub does by the clock, what is late first."""

from __future__ import annotations

from collections.abc import Sequence

from wardround.console import parts, pictures
from wardround.console.frame import page
from wardround.console.model import Overview, RoutineView
from wardround.console.words import count, duration, full_clock, lately, safe, spoken

HEADINGS = ("What", "Schedule", "Last run", "Outcome", "Next run", "Late")


def sections(view: Overview, routines: Sequence[RoutineView]) -> dict[str, str]:
    """Every part of the screen by the id of its element."""
    return {
        "answer": _answer(routines, view.now_us),
        "routines": _table(routines, view.now_us),
    }


def frame(view: Overview, *, who: str, role: str) -> str:
    """The whole page around the sections, which are filled by `sections`."""
    main = '<section class="panel" aria-label="What runs by the clock" id="routines"></section>'
    return page(view, who=who, role=role, here="/automation", main=main)


def _answer(routines: Sequence[RoutineView], now_us: int) -> str:
    late = [r for r in routines if r.late_s]
    failed = [r for r in routines if r.outcome == "failed"]
    if late:
        words = f"{late[0].title}: late by {duration(late[0].late_s)}."
        words += f" {spoken(len(late) - 1).capitalize()} more {'is' if len(late) == 2 else 'are'} late." if len(late) > 1 else ""
    elif failed:
        words = f"Nothing is late; {failed[0].title} failed last time and is tried again."
    elif routines:
        words = "Everything runs in its time."
    else:
        words = "Nothing has run yet."
    due = [r for r in routines if r.next_us]
    following = min(due, key=lambda r: r.next_us, default=None)
    sub = f"{count(len(routines), 'routine')}."
    sub += f" Next: {following.title}, {lately(following.next_us, now_us)} UTC." if following is not None else ""
    return f'<h1>{safe(words)}</h1><p class="sub">{safe(sub)}</p>'


def _table(routines: Sequence[RoutineView], now_us: int) -> str:
    head = f'<header><h2>By the clock</h2><span class="note">{len(routines)}</span></header>'
    if not routines:
        return f'{head}<p class="calm">A hub fills this table within seconds of its start: <code>wardround automation</code></p>'
    headings = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
    rows = "".join(_row(r, now_us) for r in routines)
    table = f'<table class="tight"><thead><tr>{headings}</tr></thead><tbody>{rows}</tbody></table>'
    return head + parts.scrolled(table, "What runs by the clock, table")


def _row(routine: RoutineView, now_us: int) -> str:
    last = _when(routine.last_us, now_us) if routine.last_us else "never"
    took = f", {routine.seconds:.1f} s" if routine.seconds >= 0.05 else ""
    due = _when(routine.next_us, now_us) if routine.next_us > now_us else "now" if routine.next_us else "nothing is due"
    sign = pictures.mark("medium", 15) if routine.late_s or routine.outcome == "failed" else ""
    late = f"{sign} {duration(routine.late_s)}" if routine.late_s else "no"
    outcome = f"{sign if not routine.late_s else ''} {safe(routine.outcome)}".strip()
    return (
        f'<tr data-key="{safe(routine.name)}"><td class="m">{safe(routine.title)}</td>'
        f'<td class="dim">{safe(routine.schedule)}</td><td>{last}</td>'
        f'<td>{outcome}<span class="dim">{took} {safe(routine.detail)}</span></td><td>{due}</td><td>{late}</td></tr>'
    )


def _when(t_us: int, now_us: int) -> str:
    """With its day where that is not today."""
    words = full_clock(t_us)
    day, of_day = words.split(", ")
    return f"{of_day} UTC" if day == full_clock(now_us).split(", ")[0] else f"{words} UTC"
