"""The Governance screen as text: may we, did we, can we prove it."""

from __future__ import annotations

from urllib.parse import urlencode

from wardround.console import pictures
from wardround.console.frame import page
from wardround.console.governance_model import AuditRow, GovernanceView, SignalConsent, Step
from wardround.console.looking import Looking
from wardround.console.model import Overview
from wardround.console.parts import button, confirm, no_permission, reason_field
from wardround.console.words import count, duration, full_clock, safe, spoken
from wardround.trust.roles import Act

BAR, BAR_HIGH = 210, 18
FACTS_SHOWN = 4
CONSEQUENCES = (
    "Everything of this subject goes from the lake, the inbox and every edge, to the last byte, with the key of its values.",
    "Whatever comes of it later is refused for ever.",
    "Models that learnt from it cannot forget; the receipt names them, and the exports it is in.",
    "This cannot be undone.",
)


def frame(view: Overview, looking: Looking) -> str:
    """The whole page around the sections, which are filled by `sections`."""
    main = (
        '<div class="grid w11"><div class="stack"><section class="panel" aria-label="Consent by signal" id="consent"></section>'
        '<section class="panel" aria-label="Register" id="register"></section></div>'
        '<section class="panel" aria-label="Erasures" id="erasure"></section></div>'
        '<section class="panel below" aria-label="Audit" id="audit"></section>'
        '<section class="panel below" aria-label="Exports" id="exports"></section>'
    )
    return page(view, who=looking.name, role=looking.role, here="/governance", main=main)


def refused(looking: Looking) -> dict[str, str]:
    """The sections for somebody whose role does not cover it."""
    words = "Your role does not cover consent, erasure and the audit log."
    return {
        "answer": f'<h1>Governance is the data officer\'s.</h1><p class="sub">{words}</p>',
        "consent": no_permission(looking, Act.AUDIT, "Consent, erasures and the audit log are not shown."),
        "register": "",
        "erasure": "",
        "audit": "",
        "exports": "",
    }


def erase_dialog(subject: str) -> str:
    """Before an erasure: what it does, the pseudonym typed, and why."""
    return confirm(
        title=f"Erase {subject} at this hub and at every edge?",
        detail="The subject has to have asked for it, or the law.",
        consequences=CONSEQUENCES,
        keep="Keep the subject",
        do="Erase the subject",
        act="erase",
        facts=(("subject", subject),),
        typed=subject,
        fields=reason_field("Who asked for it, and why?"),
        danger=True,
    )


def sections(view: Overview, found: GovernanceView | None, looking: Looking) -> dict[str, str]:
    """Every part of the screen by the id of its element."""
    if found is None:
        waiting = '<p class="calm dim">One moment.</p>'
        parts = dict.fromkeys(("consent", "register", "erasure", "audit", "exports"), waiting)
        return {**parts, "answer": '<h1>One moment: the books are being read.</h1><p class="sub"></p>'}
    return {
        "answer": _answer(found, view.now_us),
        "consent": _consent(found),
        "register": _register(found, looking),
        "erasure": _erasures(found, view.now_us),
        "audit": _audit(found, view.now_us),
        "exports": _exports(found, view.now_us),
    }


def _answer(found: GovernanceView, now_us: int) -> str:
    chain, waiting = found.chain, [e for e in found.erasures if not e.complete]
    whole = chain is not None and not chain.wrong
    if chain is not None and chain.wrong:
        words = "The audit log does not hold."
    elif waiting:
        places = waiting[0].places - waiting[0].answered
        words = f"Erasure {waiting[0].number} waits for {spoken(places)} {'place' if places == 1 else 'places'}."
    elif found.erasures:
        words = f"{'Every erasure is' if len(found.erasures) > 1 else 'The one erasure is'} done everywhere."
    else:
        words = "Nobody has asked to be erased."
    words += " The audit chain is whole." if whole else ""
    words = words if chain is not None else f"{words} The audit chain is not verified yet."
    sub = f"{count(found.subjects, 'subject')} with consent on file."
    if chain is not None:
        sub += f" Verified {duration((now_us - chain.checked_us) / 1e6)} ago."
    return f'<h1>{safe(words)}</h1><p class="sub">{safe(sub)}</p>'


def _consent(found: GovernanceView) -> str:
    head = (
        '<header><h2>Consent by signal</h2><span class="note">raw: may reach the hub; local: trains at its edge; none: not kept'
        "</span></header>"
    )
    if not found.subjects:
        words = "Choices come from the edges, which own them: <code>wardround edge consent PATIENT</code>"
        return f'{head}<p class="calm">{words}</p>'
    return f'{head}<div class="body"><dl class="bars">{"".join(_bar(s, found.subjects) for s in found.signals)}</dl></div>'


def _bar(s: SignalConsent, subjects: int) -> str:
    x, parts = 0.0, []
    for kind, n in (("raw", s.raw), ("local", s.local), ("none", s.none)):
        width = BAR * n / max(1, subjects)
        if n:
            place = f'x="{x + 0.5:.1f}" y="0.5" width="{max(1.0, width - 1):.1f}"'
            parts.append(f'<rect class="{kind}" {place} height="{BAR_HIGH - 1}" rx="3"/>')
        x += width
    words = f"{s.raw:,} raw, {s.local:,} local, {s.none:,} none"
    hatch = (
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<path d="M0 0V6" stroke="var(--series-1)" stroke-width="2.4"/></pattern></defs>'
    )
    return (
        f'<dt>{safe(s.title)}</dt><dd><svg viewBox="0 0 {BAR} {BAR_HIGH}" width="{BAR}" height="{BAR_HIGH}" role="img" '
        f'aria-label="{safe(s.title)}: {words}">{hatch}{"".join(parts)}</svg><span class="dim s12">{words}</span></dd>'
    )


def _register(found: GovernanceView, looking: Looking) -> str:
    find = looking.params.get("find", "")
    head = f'<header><h2>Register</h2><span class="note">{found.matching:,}, most often changed first</span></header>'
    form = (
        '<form class="filter" method="get" action="/governance"><label class="vh" for="gov-find">Pseudonym begins with</label>'
        f'<input id="gov-find" name="find" value="{safe(find)}" placeholder="pseudonym begins with" autocomplete="off" '
        'spellcheck="false"><button class="btn small">Show</button></form>'
    )
    rows = "".join(
        f'<tr data-key="{safe(r.edge)} {safe(r.subject)}"><td class="mono">{safe(r.subject)}</td><td>v{r.version}</td>'
        f'<td>{safe(r.says)}</td><td>{safe(r.edge)}</td><td class="r">'
        f"{button(looking, Act.ERASE, 'Erase', 'ask-erase', kind='small', facts=(('subject', r.subject),))}</td></tr>"
        for r in found.register
    )
    if not rows:
        return f'{head}{form}<p class="calm">No subject matches.</p>'
    table = (
        '<div class="tw" tabindex="0" role="region" aria-label="Register of consent"><table class="tight"><thead><tr>'
        '<th>Subject</th><th>Version</th><th>Says</th><th>Edge</th><td class="th"></td></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
    return f"{head}{form}{table}{_pages(found, find)}"


def _pages(found: GovernanceView, find: str) -> str:
    if found.pages == 1:
        return ""

    def link(to: int, words: str) -> str:
        if not 1 <= to <= found.pages:
            return f'<span class="dim">{words}</span>'
        asked = urlencode({k: v for k, v in (("find", find), ("page", str(to))) if v})
        return f'<a class="link" href="/governance?{safe(asked)}">{words}</a>'

    return (
        f'<nav class="pages" aria-label="Pages of the register">{link(found.page - 1, "Before")}'
        f"<span>page {found.page:,} of {found.pages:,}</span>{link(found.page + 1, 'Next')}</nav>"
    )


def _erasures(found: GovernanceView, now_us: int) -> str:
    chosen = found.chosen
    if chosen is None:
        return (
            '<header><h2>Erasures</h2></header><p class="calm">When a subject asks for it, everything of theirs goes, '
            "place by place, and a receipt says what a search found afterwards.</p>"
        )
    steps = "".join(_step(step, now_us) for step in chosen.steps)
    why = f": {chosen.reason}" if chosen.reason else ""
    head = (
        f'<header><h2>Erasure {chosen.number}</h2><span class="note">asked for by {safe(chosen.who)}{safe(why)}</span>'
        f'<span class="end"><span class="tag">{chosen.answered} of {chosen.places} places</span></span></header>'
    )
    receipt = f'<p class="s13"><a class="link" href="/governance/erasures/{chosen.number}/receipt.json" download>Receipt</a></p>'
    rows = "".join(
        f'<tr><td class="b">{e.number}</td><td>{_when(e.asked_us, now_us)}</td><td>{e.answered} of {e.places} places'
        f'{", complete" if e.complete else ""}</td><td class="r"><a class="link" href="/governance/erasures/{e.number}" '
        f'aria-label="Open erasure {e.number}">Open</a></td></tr>'
        for e in found.erasures
        if e.number != chosen.number
    )
    earlier = f'<div class="tw"><table class="tight"><tbody>{rows}</tbody></table></div>' if rows else ""
    return f'{head}<div class="body"><ul class="steps-list">{steps}</ul>{receipt}</div>{earlier}'


def _step(step: Step, now_us: int) -> str:
    signs = {
        "done": pictures.tick(),
        "waiting": '<i class="ring"></i>',
        "found": pictures.mark("high", 15),
        "said": pictures.mark("info", 15),
    }
    end = _when(step.t_us, now_us) if step.t_us else {"waiting": "waiting", "said": "stated"}.get(step.state, "")
    return (
        f'<li class="{step.state}">{signs[step.state]}<span><b class="m">{safe(step.title)}</b>'
        f'<span class="dim">{safe(step.detail)}</span></span><span class="dim">{end}</span></li>'
    )


def _audit(found: GovernanceView, now_us: int) -> str:
    chain = found.chain
    if chain is None:
        note, sign = "not verified yet", ""
    elif chain.wrong:
        note, sign = safe("; ".join(chain.wrong)[:200]), f"{pictures.mark('high', 15)} <b>does not hold</b>"
    else:
        held = f"head {chain.head[:4]}…{chain.head[-2:]} is held by {count(chain.heads, 'edge')}, so a cut tail would show"
        note = f"verified from entry 0 to {chain.entries - 1:,}; " + (held if chain.heads else "no edge keeps a head yet")
        sign = f"{pictures.tick()} whole"
    head = (
        f'<header><h2>Audit</h2><span class="note">{note}</span><span class="end">{sign} '
        '<a class="link" href="/governance/audit.log" download>Download</a></span></header>'
    )
    rows = "".join(_entry(e, now_us) for e in found.audit)
    return (
        f'{head}<div class="tw" tabindex="0" role="region" aria-label="Newest entries of the audit log">'
        '<table class="tight"><thead><tr>'
        '<th>Time</th><th class="r">Entry</th><th>Who</th><th>Kind</th><th>Did</th><th>What</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _entry(e: AuditRow, now_us: int) -> str:
    shown = [(k, str(v)) for k, v in list(e.facts.items())[:FACTS_SHOWN]]
    facts = ", ".join(v if v.startswith(k) else f"{k} {v}" for k, v in shown)
    return (
        f'<tr data-key="{e.number}"><td class="dim">{_when(e.t_us, now_us)}</td><td class="r mono">{e.number:,}</td>'
        f'<td>{safe(e.who)}</td><td class="dim">{safe(e.kind)}</td><td class="m">{safe(e.what)}</td>'
        f'<td class="dim">{safe(facts[:160])}</td></tr>'
    )


def _exports(found: GovernanceView, now_us: int) -> str:
    head = (
        '<header><h2>Exports</h2><span class="note">what left with rows of subjects in it</span><span class="end">'
        '<a class="link" href="/records">Take a record away</a></span></header>'
    )
    if not found.exports:
        return f'{head}<p class="calm">Nothing has left: <code>wardround process export --help</code></p>'
    rows = "".join(
        f'<tr><td class="b">{e.number}</td><td class="dim">{_when(e.t_us, now_us)}</td><td>{safe(e.who)}</td>'
        f'<td>{safe(e.study or "the lake’s own names")}</td><td>{safe(e.format)}</td><td class="r">{e.subjects:,}</td></tr>'
        for e in found.exports
    )
    return (
        f'{head}<div class="tw"><table class="tight"><thead><tr><th>No.</th><th>When</th><th>Who</th><th>Names of study</th>'
        f'<th>Format</th><th class="r">Subjects</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _when(t_us: int, now_us: int) -> str:
    words = full_clock(t_us)
    day, of_day = words.split(", ")
    return of_day if day == full_clock(now_us).split(", ")[0] else words
