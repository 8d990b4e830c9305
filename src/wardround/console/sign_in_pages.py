"""The pages of signing in as text: plain forms, which need no live connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import segno

from wardround.console.pictures import LOGO
from wardround.console.words import safe

CODE = (
    '<label class="field">{label}<input name="code" autocomplete="one-time-code" inputmode="{mode}" autocapitalize="off"'
    ' autofocus spellcheck="false" maxlength="40" required></label>'
)


class Made(Protocol):
    """A second factor that is being made."""

    @property
    def secret(self) -> str: ...

    @property
    def address(self) -> str: ...


def login_page(site: str, *, simulated: bool, wrong: str = "", name: str = "", elsewhere: str = "", local: bool = True) -> str:
    """The sign-in page; `wrong` says what did not fit, `elsewhere` is the way by a provider, `local` whether a password opens."""
    away = f'<p><a class="btn{"" if local else " primary"}" href="/login/oidc">{safe(elsewhere)}</a></p>' if elsewhere else ""
    if not local:
        return _page(site, f'<div class="panel">{_head(site, simulated, wrong)}{away}</div>')
    return _form(
        site,
        "/login",
        "Sign in",
        f'<label class="field">Name<input name="name" autocomplete="username" autocapitalize="off" required value="{safe(name)}">'
        '</label><label class="field">Password<input name="password" type="password" autocomplete="current-password" required>'
        "</label>",
        after=f'{away}<p class="dim s12">Forgotten? Whoever runs the hub sets a new one: '
        "<code>wardround hub password NAME</code></p>",
        simulated=simulated,
        wrong=wrong,
    )


def code_page(site: str, *, simulated: bool, wrong: str = "") -> str:
    """The question for the second factor."""
    return _form(
        site,
        "/login/code",
        "Sign in",
        CODE.format(label="Code from your app", mode="text"),
        after='<p class="dim s12">App lost? Type one of your recovery codes instead. None left? Whoever runs the hub opens the '
        'door: <code>wardround user reset-factor NAME</code></p><p class="s12"><a class="link" href="/login">Begin again</a></p>',
        simulated=simulated,
        wrong=wrong,
    )


def enrol_page(site: str, *, simulated: bool, made: Made, wrong: str = "") -> str:
    """A second factor is made before coming in: the secret for the app, and the question for its first code."""
    why = "<p>This hub wants a second factor of everybody.</p>"
    return _form(site, "/login/enrol", "Turn it on", why + _secret(made), after="", simulated=simulated, wrong=wrong)


def codes_page(site: str, *, simulated: bool, codes: Sequence[str]) -> str:
    """The recovery codes, shown once."""
    items = "".join(f"<li><code>{safe(code)}</code></li>" for code in codes)
    body = (
        "<p>Your second factor is on. Keep these recovery codes where you keep paper that matters: each opens once, on a day "
        f'without your app. They are not shown again.</p><ul class="codes">{items}</ul>'
        '<a class="btn primary" href="/">I have kept them</a>'
    )
    return _page(site, f'<div class="panel">{_head(site, simulated, "")}{body}</div>')


def account_page(
    site: str, *, simulated: bool, who: str, role: str, has: bool, required: bool, made: Made | None, wrong: str = ""
) -> str:
    """Someone's own page: the second factor on or off."""
    head = f"{_head(site, simulated, wrong)}<p><b>{safe(who)}</b>, {safe(role)}</p>"
    if made is not None:
        body = (
            '<form method="post" action="/account/factor"><p>With a second factor a stolen password opens nothing.</p>'
            f'{_secret(made)}<button class="btn primary" type="submit">Turn it on</button></form>'
        )
    elif required:
        body = "<p>Your second factor is on, as this hub wants of everybody.</p>"
    else:
        body = (
            '<form method="post" action="/account/factor/remove"><p>Your second factor is on.</p>'
            f"{CODE.format(label='Code from your app', mode='text')}"
            '<button class="btn" type="submit">Turn it off</button></form>'
        )
    end = '<p class="s12"><a class="link" href="/">Back to the console</a></p>'
    return _page(site, f'<div class="panel">{head}{body if has or made else ""}{end}</div>')


def qr(text: str) -> str:
    """A QR code as SVG, dark on light in both themes, as cameras want it."""
    rows = segno.make(text, error="m", micro=False).matrix
    size = len(rows)
    path = "".join(f"M{x} {y}h1v1h-1z" for y, row in enumerate(rows) for x, dark in enumerate(row) if dark)
    return (
        f'<svg class="qr" viewBox="-4 -4 {size + 8} {size + 8}" role="img" aria-label="QR code of the secret" '
        f'shape-rendering="crispEdges"><path d="{path}"/></svg>'
    )


def _secret(made: Made) -> str:
    return (
        f"<p>Scan this with an authenticator app, or type the secret into it.</p>{qr(made.address)}"
        f'<p><code id="secret">{safe(made.secret)}</code></p>{CODE.format(label="The code it shows now", mode="numeric")}'
    )


def _form(site: str, post: str, button: str, body: str, *, after: str, simulated: bool, wrong: str) -> str:
    head = _head(site, simulated, wrong)
    return _page(
        site,
        f'<form class="panel" method="post" action="{post}">{head}{body}'
        f'<button class="btn primary" type="submit">{button}</button>{after}</form>',
    )


def _head(site: str, simulated: bool, wrong: str) -> str:
    tag = '<span class="sim">SIMULATED PATIENTS</span>' if simulated else ""
    alert = f'<p class="wrong" role="alert">{safe(wrong)}</p>' if wrong else ""
    return f'<span class="brand">{LOGO}<b>Wardround</b></span><h1>{safe(site)}</h1>{tag}{alert}'


def _page(site: str, main: str) -> str:
    return f"""\
<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in - Wardround</title><link rel="stylesheet" href="/static/tokens.css">
<link rel="stylesheet" href="/static/console.css"><script src="/static/theme.js"></script>
</head><body><main class="door" aria-label="{safe(site)}">{main}</main></body></html>"""
