"""The Completeness screen as text: what share of each patient's signals came, hour by hour, the least complete first."""

from __future__ import annotations

import bisect
import math

from wardround.console import parts, pictures
from wardround.console.frame import page
from wardround.console.looking import Looking
from wardround.console.model import HoursView, Overview, SignalHours
from wardround.console.words import clock, count, percent, safe

HOURS = 24
ROWS = 50  # on a page
LOW = 0.8  # below it a row has a mark
HEADINGS = ("Subject", "Signal", f"Last {HOURS} hours", "Least", "All hours", "This hour")
_CELL, _HEIGHT = 8, 20


def sections(view: HoursView | None, looking: Looking) -> dict[str, str]:
    """Every part of the screen by the id of its element; None: it is being looked up."""
    return {
        "answer": _answer(view),
        "signals": _table(view, looking),
    }


def frame(view: Overview, *, who: str, role: str) -> str:
    """The whole page around the sections, which are filled by `sections`."""
    main = '<section class="panel" aria-label="How complete each signal is" id="signals"></section>'
    return page(view, who=who, role=role, here="/completeness", main=main)


def _answer(view: HoursView | None) -> str:
    if view is None:
        return '<h1>One moment: the hours are being read.</h1><p class="sub"></p>'
    signals = view.least_first
    known, low = (bisect.bisect_left(signals, most, key=_mean) for most in (math.inf, LOW))
    if not known:
        words = "Nothing whose rate is known has come in the last day."
    elif low:
        words = f"{count(low, 'signal')} of {known:,} came less than {percent(LOW)} complete; the least, "
        words += f"{signals[0].title} of {signals[0].subject}, {_share(signals[0].mean)}."
    else:
        words = f"Every signal came at least {percent(LOW)} complete."
    sub = "Complete is the share of an hour's expected samples that are in the lake and not flagged."
    return f'<h1>{safe(words)}</h1><p class="sub">{safe(sub)}</p>'


def _mean(signal: SignalHours) -> float:
    return math.inf if signal.mean is None else signal.mean


def _table(view: HoursView | None, looking: Looking) -> str:
    found = view.least_first if view is not None else ()
    pages = max(1, -(-len(found) // ROWS))
    page_ = min(max(1, looking.number("page")), pages)
    shown = found[(page_ - 1) * ROWS : page_ * ROWS]
    head = f'<header><h2>By subject and signal</h2><span class="note">{len(found):,}, the least complete first</span></header>'
    if not shown:
        return f'{head}<p class="calm">Trends are made from what devices send: <code>wardround hub completeness</code></p>'
    headings = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
    rows = "".join(map(_row, shown))
    table = f'<table class="tight"><thead><tr>{headings}</tr></thead><tbody>{rows}</tbody></table>'
    return (
        f"{head}{parts.scrolled(table, 'Signals, table')}{parts.pages(looking, 'page', page_, pages, len(found), ROWS, 'signal')}"
    )


def _row(signal: SignalHours) -> str:
    least = min(((share, k) for k, share in enumerate(signal.shares) if share is not None), default=None)
    sign = pictures.mark("medium", 15) if signal.mean is not None and signal.mean < LOW else ""
    worst = (
        f"{percent(least[0])} at {clock(signal.first_us + least[1] * 3_600_000_000)} UTC" if least is not None else "not known"
    )
    return (
        f'<tr data-key="{safe(signal.subject)} {safe(signal.code)}"><td class="m">{safe(signal.subject)}</td>'
        f"<td>{safe(signal.title)}</td><td>{_strip(signal)}</td><td>{worst}</td>"
        f'<td>{sign} {_share(signal.mean)}</td><td class="dim">{_share(signal.shares[-1])}</td></tr>'
    )


def _share(share: float | None) -> str:
    return "not known" if share is None else percent(share)


def _strip(signal: SignalHours) -> str:
    """A bar an hour; a dash on the ground where nothing came, nothing where nothing was expected. One path for all of a kind."""
    bars, dashes = "", ""
    for k, share in enumerate(signal.shares):
        if share is None:
            continue
        if share > 0:
            bars += f"M{k * _CELL + 3} {_HEIGHT}V{_HEIGHT - max(1.0, share * _HEIGHT):.1f}"
        else:
            dashes += f"M{k * _CELL} {_HEIGHT - 0.5}h{_CELL - 2}"
    words = ", ".join(_share(share) for share in signal.shares)
    return (
        f'<svg class="hours" width="{HOURS * _CELL}" height="{_HEIGHT}" viewBox="0 0 {HOURS * _CELL} {_HEIGHT}" role="img" '
        f'aria-label="from the oldest hour: {words}"><path class="came" d="{bars}"/><path class="not" d="{dashes}"/></svg>'
    )
