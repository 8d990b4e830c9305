"""The Settings screen as text: what the hub runs with, what its file says by now, and what is changed elsewhere and how."""

from __future__ import annotations

import re

from wardround.console import parts, pictures
from wardround.console.frame import page
from wardround.console.looking import Looking, Screen, who_may
from wardround.console.model import Overview
from wardround.console.settings_model import SettingRow, SettingsDesk, SettingsView
from wardround.console.words import count, day_clock, safe
from wardround.errors import NotAllowed
from wardround.trust.roles import Act

PATH = "/settings"
RESTART = "Settings count from the next start of the hub on: edges keep their data and go on meanwhile."
CHANGED_ELSEWHERE: tuple[tuple[str, str, str, str, Act], ...] = (  # what, address, its name, command, who may
    ("Who may sign in, with which role", "", "", "wardround user add|role|password|remove", Act.PEOPLE),
    ("Which edges there are, who is drained", "/fleet", "Fleet", "wardround hub invite|revoke, wardround edge drain", Act.EDGES),
    ("Nodes and their workers, jobs", "/processing", "Processing", "wardround node add|drain, wardround process run", Act.JOBS),
    ("Studies, and what is done about alerts by itself", "/studies", "Studies", "wardround study start|pause|stop", Act.STUDIES),
    ("Silences", "/alerts?show=silenced", "Alerts", "wardround alert silence|unsilence", Act.ACKNOWLEDGE),
    ("Consent", "/governance", "Governance", "wardround hub consent, wardround edge consent", Act.CONSENT),
    ("Tokens of programs", "", "", "wardround token new|list|revoke", Act.PEOPLE),
    ("An edge's own settings", "", "", "edge.toml at that edge, then its restart", Act.EDGES),
)


def screens(desk: SettingsDesk) -> tuple[Screen, ...]:
    """The one page."""

    def live(looking: Looking) -> dict[str, str]:
        try:
            return sections(desk.view(looking.name), looking)
        except NotAllowed:
            words = "What the hub runs with is for operators."
            refused = parts.no_permission(looking, Act.EDGES, "Settings of the hub are not shown.")
            return {"answer": parts.answer(words), "runs": refused, "own": _own(), "elsewhere": ""}

    return (Screen(PATH, "Settings", frame, live),)


def frame(view: Overview, looking: Looking) -> str:
    """The whole page around the sections."""
    main = (
        '<section class="panel" aria-label="What the hub runs with" id="runs"></section>'
        '<section class="panel below" aria-label="What is changed elsewhere" id="elsewhere"></section>'
        '<section class="panel below" aria-label="Your own" id="own"></section>'
    )
    return page(view, who=looking.name, role=looking.role, here=PATH, main=main)


def sections(view: SettingsView, looking: Looking) -> dict[str, str]:
    """Every part of the screen by the id of its element."""
    return {"answer": answer(view), "runs": _runs(view, looking), "elsewhere": _elsewhere(), "own": _own()}


def answer(view: SettingsView) -> str:
    """One sentence of whether the file is what runs."""
    changed = sum(row.changed for row in view.rows)
    sub = f"Read from {view.path} at its start, {day_clock(view.started_us)} UTC. {RESTART}"
    if view.wrong:
        return parts.answer("hub.toml does not hold as it is now: the hub would not start again.", sub)
    if view.pending:
        names = ", ".join(row.key for row in view.pending[:3]) + (" and more" if len(view.pending) > 3 else "")
        return parts.answer(f"hub.toml has changed since the start: {names}.", sub)
    return parts.answer(f"The hub runs with what hub.toml says: {count(changed, 'key')} of {len(view.rows)} set.", sub)


def _runs(view: SettingsView, looking: Looking) -> str:
    head = parts.head("What the hub runs with", "secrets never stand here; an address is shown in part")
    wrong = parts.error(f"{view.wrong}.", f"It goes on with what it has read. {view.remedy}.") if view.wrong else ""
    everything = looking.params.get("show", "") == "all"
    rows = [row for row in view.rows if everything or row.changed or row.file is not None]
    set_ = sum(r.changed or r.file is not None for r in view.rows)
    tabs = parts.tabs(looking, "show", (("", f"Set {set_}"), ("all", f"All {len(view.rows)}")), "Which")
    if not rows:
        return head + wrong + tabs + parts.empty("Nothing is set", "Every key is as it comes; All shows them.")
    headings = "".join(f'<th scope="col">{words}</th>' for words in ("Key", "Runs with", "What it means"))
    body = "".join(map(_row, rows))
    table = f'<table class="tight"><thead><tr>{headings}</tr></thead><tbody>{body}</tbody></table>'
    return f'{head}{wrong}{tabs}<div class="tw" tabindex="0" role="region" aria-label="Settings">{table}</div>'


def _row(row: SettingRow) -> str:
    value = f"<b>{safe(row.value)}</b>" if row.changed else safe(row.value)
    if row.file is not None:
        value += f'<span class="need">{pictures.mark("low", 13)} from the next start: <b>{safe(row.file)}</b></span>'
    if row.changed:
        value += f'<span class="need dim">as it comes: {safe(row.default)}</span>'
    return (
        f'<tr data-key="{safe(row.key)}"><td class="mono">{safe(row.key)}</td><td class="wrap mono">{value}</td>'
        f'<td class="wrap">{_words(row.meaning)}</td></tr>'
    )


def _words(markdown: str) -> str:
    """Of a line of docs/settings.md: code as code, of a link its words."""
    text = safe(re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", markdown))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def _elsewhere() -> str:
    head = parts.head("Changed while it runs", "none of it stands in hub.toml")
    rows = "".join(
        f'<tr><td class="m">{safe(what)}</td><td>{_link(to, name)}</td><td><code>{safe(command)}</code></td>'
        f'<td class="dim">{safe(who_may(act))}</td></tr>'
        for what, to, name, command, act in CHANGED_ELSEWHERE
    )
    headings = "".join(f'<th scope="col">{words}</th>' for words in ("What", "Here", "Or by command", "Who may"))
    table = f'<table class="tight"><thead><tr>{headings}</tr></thead><tbody>{rows}</tbody></table>'
    return f'{head}<div class="tw" tabindex="0" role="region" aria-label="Changed while it runs">{table}</div>'


def _link(to: str, name: str) -> str:
    return f'<a class="link" href="{to}">{name}</a>' if to else '<span class="dim">-</span>'


def _own() -> str:
    head = parts.head("Your own")
    return (
        f'{head}<div class="body s13"><p><a class="link" href="/account">Second factor and recovery codes</a></p>'
        '<p>Light or dark: <button class="btn small" data-act="theme">Switch</button> <span class="dim">kept in this browser'
        "</span></p></div>"
    )
