"""What stands around every screen: navigation, site, live state, time, person, dialogs. Pure text."""

from __future__ import annotations

from wardround.console import pictures
from wardround.console.model import Overview
from wardround.console.words import safe

KEYS = (
    ("this list", "?"),
    ("acknowledge the first alert", "a"),
    ("undo the last response", "u"),
    ("pause or resume live updates", "Space"),
    ("switch light and dark", "t"),
)
SCREENS = (  # address, title, picture
    (
        "/",
        "Overview",
        '<path d="M9 2.2a6.8 6.8 0 0 1 6.4 4.5M15.6 10a6.8 6.8 0 0 1-4.5 5.4M8 15.7a6.8 6.8 0 0 1-5.4-4.6'
        'M2.4 8A6.8 6.8 0 0 1 6 2.9"/>'
        '<circle cx="9" cy="9" r="1.6"/>',
    ),
    ("/completeness", "Completeness", '<path d="M3 15V9M7 15V4M11 15V7M15 15V3"/>'),
    ("/automation", "Automation", '<circle cx="9" cy="9" r="6.8"/><path d="M9 4.6V9l3 2"/>'),
)


def page(view: Overview, *, who: str, role: str, here: str, main: str) -> str:
    """A whole screen around `main`; `here` is its address. Its sections fill the elements `answer` and `now` beside their own."""
    tag = '<span class="sim" title="Every patient on this site is simulated">SIMULATED PATIENTS</span>' if view.simulated else ""
    items = "".join(
        f'<li><a class="item" href="{address}"{current} title="{title}"><svg class="ic" viewBox="0 0 18 18" aria-hidden="true">'
        f'{picture}</svg><span class="l">{title}</span></a></li>'
        for address, title, picture in SCREENS
        for current in (' aria-current="page"' if address == here else "",)
    )
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
  <span class="right"><button class="btn quiet live" data-act="pause-toggle" title="Press Space to pause"><i></i>\
<span id="live-word">Live</span></button><span class="m" id="now"></span>\
<a class="opt" href="/account" title="Your second factor">{safe(who)}, {safe(role)}</a>
  <button class="icon" data-act="theme" title="Switch light and dark" aria-label="Switch light and dark">\
<svg viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6.2"/>\
<path d="M8 1.8a6.2 6.2 0 0 1 0 12.4z" fill="currentColor" stroke="none"/></svg></button>
  <form method="post" action="/logout"><button class="btn small" type="submit">Sign out</button></form></span>
</header>
<div class="lost" role="status">The hub cannot be reached. This is its last picture; edges keep their data and go on.</div>
<main id="main" tabindex="-1">
<div class="answer"><div aria-live="polite" id="answer"></div></div>
{main}
</main></div></div>
<dialog id="ask"></dialog><div id="toast" role="status" aria-live="polite"></div>
{_keys()}"""


def _keys() -> str:
    rows = "".join(f'<dt class="mid">{words}</dt><dd><kbd>{key}</kbd></dd>' for words, key in KEYS)
    return (
        '<dialog id="keys" class="keys" aria-label="Keyboard shortcuts"><h2>Keyboard shortcuts</h2>'
        f'<dl>{rows}</dl><div class="acts"><button class="btn" data-act="close">Close</button></div></dialog>'
    )
