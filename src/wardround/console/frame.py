"""What stands around every screen: navigation, site, live state, time, person, dialogs. Pure text."""

from __future__ import annotations

from dataclasses import dataclass

from wardround.console import pictures
from wardround.console.model import URGENCY, Overview
from wardround.console.words import full_clock, safe

FIND = "Find an edge, a study or an alert"
KEYS = (
    ("this list", "?"),
    ("find an edge, a study or an alert", "/"),
    ("the next row, the row before", "j k"),
    ("open the row", "Enter"),
    ("acknowledge the alert whose button shows a", "a"),
    ("undo the response whose button shows u", "u"),
    ("pause or resume live updates", "Space"),
    ("switch light and dark", "t"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """One screen in the navigation; `key` after `g` opens it. Every role sees every screen: what works on it differs."""

    address: str
    title: str
    key: str
    picture: str  # paths of an icon, 18 by 18
    gap: bool = False  # before it


OVERVIEW = Place(
    "/",
    "Overview",
    "o",
    '<path d="M9 2.2a6.8 6.8 0 0 1 6.4 4.5M15.6 10a6.8 6.8 0 0 1-4.5 5.4M8 15.7a6.8 6.8 0 0 1-5.4-4.6'
    'M2.4 8A6.8 6.8 0 0 1 6 2.9"/><circle cx="9" cy="9" r="1.6"/>',
)
ALERTS = Place("/alerts", "Alerts", "a", '<path d="M4.5 12.5c1-1 1-2.5 1-4.7a3.5 3.5 0 0 1 7 0c0 2.2 0 3.7 1 4.7zM7.5 15.3h3"/>')
BEDSIDE = Place(
    "/bedside",
    "Bedside",
    "b",
    '<path d="M2.4 4v10.6M2.4 11.8h13.2V9.6a2 2 0 0 0-2-2H7.4v4.2M15.6 11.8v2.8"/><circle cx="4.9" cy="8.6" r="1.5"/>',
)
WARD = Place("/ward", "Ward", "w", '<path d="M1.8 9.5h3.4l2-5 3.2 9 2-4h3.8"/>', gap=True)
FLEET = Place(
    "/fleet",
    "Fleet",
    "f",
    '<circle cx="4" cy="9" r="2"/><circle cx="14" cy="4.2" r="2"/><circle cx="14" cy="13.8" r="2"/>'
    '<path d="M6 9c3.4 0 2.4-4.8 6-4.8M6 9c3.4 0 2.4 4.8 6 4.8"/>',
)
PROCESSING = Place(
    "/processing", "Processing", "p", '<path d="M9 2.4l6.6 3.4L9 9.2 2.4 5.8zM2.4 9L9 12.4 15.6 9M2.4 12.2L9 15.6l6.6-3.4"/>'
)
STUDIES = Place("/studies", "Studies", "s", '<path d="M2.6 2.4v13h13M5.2 12.4c2-.4 2.6-6.8 9.6-7.4"/>')
HAND_OVER = Place(
    "/hand-over", "Hand-over", "h", '<path d="M2.2 6.4h9.6M9 3.2l3.4 3.2L9 9.6M15.8 11.6H6.2M9 8.4l-3.4 3.2L9 14.8"/>', gap=True
)
COMPLETENESS = Place("/completeness", "Completeness", "c", '<path d="M3 15V9M7 15V4M11 15V7M15 15V3"/>')
AUTOMATION = Place("/automation", "Automation", "m", '<circle cx="9" cy="9" r="6.8"/><path d="M9 4.6V9l3 2"/>')
GOVERNANCE = Place(
    "/governance",
    "Governance",
    "g",
    '<path d="M9 2l5.8 2v4.6c0 3.6-2.4 6-5.8 7.4-3.4-1.4-5.8-3.8-5.8-7.4V4zM6.4 9l2 2 3.4-3.8"/>',
)
SETTINGS = Place(
    "/settings",
    "Settings",
    "e",
    '<path d="M2.4 5h7M13.4 5h2.2M2.4 13h2.2M8.6 13h7"/><circle cx="11.4" cy="5" r="2"/><circle cx="6.6" cy="13" r="2"/>',
)
SCREENS = (
    OVERVIEW,
    ALERTS,
    BEDSIDE,
    WARD,
    FLEET,
    PROCESSING,
    STUDIES,
    COMPLETENESS,
    AUTOMATION,
    HAND_OVER,
    GOVERNANCE,
    SETTINGS,
)  # those that there are, in the order of the navigation


def live(view: Overview) -> dict[str, str]:
    """What changes by itself on every screen, by the ids of its elements."""
    open_ = [a for a in view.open_alerts if a.needs_person] or list(view.open_alerts)
    n = len(view.open_alerts)
    worst = min((a.priority for a in open_), key=URGENCY.index, default=None)
    told = f'{pictures.mark(worst, 15)}<b>{n}</b><span class="vh"> open</span>' if worst is not None else ""
    return {"nav-alerts": told, "now": f'{full_clock(view.now_us)} <span class="dim">UTC</span>'}


def page(view: Overview, *, who: str, role: str, here: str, main: str, sought: str = "") -> str:
    """A whole screen around `main`; `here` is its address. Its sections fill the element `answer` beside their own."""
    tag = '<span class="sim" title="Every patient on this site is simulated">SIMULATED PATIENTS</span>' if view.simulated else ""
    items = "".join(_item(place, here) for place in SCREENS)
    return f"""\
<a class="skip" href="#main">Skip to content</a>
<div class="app">
<nav class="nav" aria-label="Screens">
  <a class="brand" href="/">{pictures.LOGO}<b>Wardround</b></a>
  <ul>{items}</ul>
  <div class="foot"><span>{safe(view.hub)}, version {safe(view.version)}</span>
  <button class="link" data-act="keys" style="justify-self:start"><kbd>?</kbd> keyboard shortcuts</button></div>
</nav>
<div>
<header class="bar"><span class="where">{safe(view.site)}</span>{tag}
  <form class="find" role="search" action="/find"><input id="find" name="q" type="search" maxlength="80" value="{safe(sought)}" \
aria-label="{FIND}" placeholder="{FIND}"><kbd>/</kbd></form>
  <span class="right"><a class="icon narrow" id="find-page" href="/find" title="{FIND}" aria-label="{FIND}">\
<svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="7" cy="7" r="4.6"/><path d="M10.6 10.6l3.6 3.6"/></svg></a>\
<button class="btn quiet live" data-act="pause-toggle" title="Press Space to pause"><i></i>\
<span id="live-word">Live</span></button><span class="m" id="now"></span>\
<a class="opt" href="/account" title="Your second factor">{safe(who)}, {safe(role)}</a>
  <button class="icon" data-act="theme" title="Switch light and dark" aria-label="Switch light and dark">\
<svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6.2"/>\
<path d="M8 1.8a6.2 6.2 0 0 1 0 12.4z" fill="currentColor" stroke="none"/></svg></button>
  <form method="post" action="/logout"><button class="btn small" type="submit">Sign out</button></form></span>
</header>
<div class="lost" role="status">The hub cannot be reached<span id="lost-since"></span>. This is its last picture; edges keep \
their data and go on.</div>
<main id="main" tabindex="-1">
<div class="answer"><div id="answer"></div></div><div class="vh" role="status" id="told"></div>
<div id="said" role="alert"></div>
{main}
</main></div></div>
<dialog id="ask"></dialog><div id="toast" role="status" aria-live="polite"></div>
{_keys()}"""


def _item(place: Place, here: str) -> str:
    current = ' aria-current="page"' if place.address == here else ""
    count = '<span class="n" id="nav-alerts"></span>' if place is ALERTS else ""
    return (
        f'{"<li class=gap></li>" if place.gap else ""}<li><a class="item" href="{place.address}"{current} title="{place.title}" '
        f'data-go="{place.key}"><svg class="ic" viewBox="0 0 18 18" aria-hidden="true">{place.picture}</svg>'
        f'<span class="l">{place.title}</span>{count}</a></li>'
    )


def _keys() -> str:
    going = [(f"go to {place.title}", f"g {place.key}") for place in SCREENS]
    rows = "".join(f'<dt class="mid">{words}</dt><dd><kbd>{key}</kbd></dd>' for words, key in (*KEYS, *going))
    return (
        '<dialog id="keys" class="keys" aria-label="Keyboard shortcuts"><h2>Keyboard shortcuts</h2>'
        f'<dl>{rows}</dl><div class="acts"><button class="btn" data-act="close">Close</button></div></dialog>'
    )
