"""Parts that screens are made of: states, buttons by role, dialogs, meters. Each is a function from values to HTML."""

from __future__ import annotations

from collections.abc import Sequence

from wardround.console import pictures
from wardround.console.looking import Looking, who_may
from wardround.console.model import Priority
from wardround.console.words import count, safe
from wardround.trust.roles import Act


def answer(words: str, sub: str = "", acts: str = "") -> str:
    """The first line of a screen: one sentence made from state, what it rests on, and the screen's main buttons."""
    return f'<h1>{safe(words)}</h1><p class="sub">{safe(sub)}</p>' + (f'<div class="acts">{acts}</div>' if acts else "")


def head(title: str, note: str = "", end: str = "") -> str:
    """The head of a panel; `end` is HTML."""
    tail = f'<span class="end">{end}</span>' if end else ""
    return f'<header><h2>{safe(title)}</h2><span class="note">{safe(note)}</span>{tail}</header>'


def empty(title: str, words: str, command: str = "") -> str:
    """Nothing is here yet: what it is for, and the next command."""
    return f'<div class="state"><p class="b">{safe(title)}</p><p class="mid">{safe(words)}</p>{to_copy(command)}</div>'


def error(what: str, means: str, command: str = "", priority: Priority = "medium") -> str:
    """Something failed: what, what it means for what is seen, and what to do."""
    return (
        f'<div class="state wrong">{pictures.mark(priority, 20)}<div><p class="b">{safe(what)}</p>'
        f'<p class="mid">{safe(means)}</p>{to_copy(command)}</div></div>'
    )


def stale(words: str) -> str:
    """A value that is not of now, with its own time."""
    return f'<span class="tag stale">{cross(13)}{safe(words)}</span>'


def no_permission(looking: Looking, act: Act, what: str) -> str:
    """What a role may not see or do, and who may."""
    return (
        f'<div class="state"><p class="b">{safe(what)}</p><p class="mid">You are signed in as <b>{safe(looking.role)}</b>. '
        f"To {safe(act)} needs the role <b>{safe(who_may(act))}</b>.</p></div>"
    )


def to_copy(command: str) -> str:
    """A command with a button that copies it; empty where there is none."""
    if not command:
        return ""
    return (
        f'<div class="copy"><pre class="cmd" tabindex="0">{safe(command)}</pre>'
        f'<button class="btn small" data-act="copy" data-text="{safe(command)}">Copy</button></div>'
    )


def button(
    looking: Looking, needs: Act, words: str, act: str, *, kind: str = "", key: str = "", facts: Sequence[tuple[str, str]] = ()
) -> str:
    """A button for an act. Whoever may not press it sees it in its place, disabled, with who may."""
    classes = f"btn {kind}".strip()
    if not looking.may(needs):
        told = safe(f"Needs the role {who_may(needs)}")
        return f'<button class="{classes}" disabled title="{told}">{safe(words)}<span class="vh">. {told}</span></button>'
    data = "".join(f' data-{name}="{safe(value)}"' for name, value in facts)
    press = f" <kbd>{safe(key)}</kbd>" if key else ""
    return f'<button class="{classes}" data-act="{safe(act)}"{data}>{safe(words)}{press}</button>'


def link_button(looking: Looking, needs: Act, words: str, address: str, *, kind: str = "", download: bool = False) -> str:
    """A button that goes somewhere, or gives a file. Whoever may not go there sees it in its place, disabled."""
    if not looking.may(needs):
        return button(looking, needs, words, "", kind=kind)
    file = " download" if download else ""
    return f'<a class="btn {kind}" href="{safe(address)}"{file}>{safe(words)}</a>'


def confirm(
    *,
    title: str,
    detail: str,
    consequences: Sequence[str],
    keep: str,
    do: str,
    act: str,
    facts: Sequence[tuple[str, str]] = (),
    typed: str = "",
    fields: str = "",
    danger: bool = False,
) -> str:
    """A dialog before an act: the question with the name in it, what will happen, what to fill in, and two buttons that say
    what they do. `typed` is what has to be typed first: for what cannot be undone."""
    listed = "".join(f"<li>{pictures.mark('info', 16)}<span>{safe(line)}</span></li>" for line in consequences)
    must = (
        f'<label class="field">Type {safe(typed)} to go on<input name="typed" autocomplete="off" autocapitalize="off" '
        f'data-must="{safe(typed)}"></label>'
        if typed
        else ""
    )
    data = "".join(f' data-{name}="{safe(value)}"' for name, value in facts)
    return (
        f'<h2 id="ask-title">{safe(title)}</h2><p class="mid s13">{safe(detail)}</p><ul class="cons">{listed}</ul>'
        f'<div class="fields">{fields}{must}</div><div class="acts">'
        f'<button class="btn" data-act="close">{safe(keep)}</button>'
        f'<button class="btn {"solid-danger" if danger else "primary"}" data-act="{safe(act)}"{data}>{safe(do)}</button></div>'
    )


def reason_field(hint: str = "What made you decide this?") -> str:
    """Why something is done; it is kept with it."""
    return f'<label class="field">Reason<input name="reason" required maxlength="300" placeholder="{safe(hint)}"></label>'


def choice_field(name: str, words: str, choices: Sequence[tuple[str, str]]) -> str:
    """One of a few: value and words."""
    options = "".join(f'<option value="{safe(value)}">{safe(told)}</option>' for value, told in choices)
    return f'<label class="field">{safe(words)}<select name="{safe(name)}">{options}</select></label>'


def meter(share: float, words: str, kind: str = "") -> str:
    """A share from 0 to 1 as a bar, beside its words."""
    width = 100 * min(1.0, max(0.0, share))
    return f'<span class="meter {kind}" aria-hidden="true"><i style="width:{width:.0f}%"></i></span> {safe(words)}'


def cross(size: int = 15) -> str:
    """No signal: absent, stale or silent."""
    return (
        f'<svg class="mk mk-off" width="{size}" height="{size}" viewBox="0 0 18 18" aria-hidden="true">'
        '<path class="s" d="M4 4l10 10M14 4L4 14"/></svg>'
    )


def pages(looking: Looking, param: str, here: int, last: int, n: int, rows: int, one: str, many: str = "") -> str:
    """The way to the other pages of a long list of `n`, of which each page has `rows`; empty where there is one page alone."""
    if last == 1:
        return ""
    links = "".join(
        f'<a class="btn small" href="{safe(looking.link({param: to}))}">{words}</a>'
        if 1 <= to <= last
        else f'<button class="btn small" disabled>{words}</button>'
        for words, to in (("Before", here - 1), ("Next", here + 1))
    )
    told = f"{(here - 1) * rows + 1:,} to {min(n, here * rows):,} of {count(n, one, many)}"
    return f'<nav class="pages" aria-label="Pages"><span class="dim">{safe(told)}</span>{links}</nav>'


def scrolled(table: str, label: str) -> str:
    """A table in a box of its own, which scrolls by touch and by key where the table is wider."""
    return f'<div class="tw" tabindex="0" role="region" aria-label="{safe(label)}">{table}</div>'


def tabs(looking: Looking, param: str, choices: Sequence[tuple[str, str]], label: str) -> str:
    """Which of a few lists is shown; it stands in the address. The first choice's value is empty."""
    chosen = looking.params.get(param, "")
    links = "".join(
        f'<a href="{safe(looking.link({param: value}))}"{current}>{safe(words)}</a>'
        for value, words in choices
        for current in (' aria-current="true"' if value == chosen else "",)
    )
    return f'<nav class="tabs" aria-label="{safe(label)}">{links}</nav>'
