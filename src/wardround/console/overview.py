"""The Overview as text: pure functions from the read model to HTML, one for each part that changes by itself."""

from __future__ import annotations

from wardround.console import parts, pictures
from wardround.console.at_edges import at_edges, yours
from wardround.console.frame import ALERTS, page
from wardround.console.looking import Looking
from wardround.console.model import AlertView, Overview
from wardround.console.words import count, duration, lately, metric, rate, safe, spoken
from wardround.trust.roles import Act

LINES_SHOWN = 8
HANDLED_SHOWN = 8


def sections(view: Overview, *, since_us: int | None, role: str = "") -> dict[str, str]:
    """Every part of the screen by the id of its element; `since_us` is when this person was last here, as `role`."""
    looking = Looking("", role)
    return {
        "answer": _answer(view, since_us, role),
        "step-collect": _collect(view),
        "step-process": _process(view),
        "step-learn": _learn(view),
        "step-watch": _watch(view),
        "need": _need(view, looking),
        "handled": _handled(view, looking),
        "at-edges": at_edges(view, role),
        "since": _since(view, since_us),
    }


def frame(view: Overview, *, who: str, role: str) -> str:
    """The whole page around the sections, which are filled by `sections`."""
    steps = "".join(
        f'<section class="step" aria-label="{title}"><div class="head"><span class="i">{i}</span><h2 class="h">{title}</h2></div>'
        f'<div id="step-{title.lower()}"></div></section>'
        for i, title in enumerate(("Collect", "Process", "Learn", "Watch"), 1)
    )
    main = f"""\
<section class="panel picture" aria-label="The four steps"><div class="steps">{steps}</div>
 <div class="back"><svg class="loop" viewBox="0 0 1184 44" preserveAspectRatio="none" aria-hidden="true">\
<path d="M740 0v14c0 8-6 14-14 14H52c-8 0-14-6-14-14V6" fill="none" stroke="var(--series-1)" stroke-opacity=".38" \
stroke-width="3"/><path d="M32 10l6-8 6 8" fill="none" stroke="var(--series-1)" stroke-opacity=".7" stroke-width="2"/></svg>\
<span>the model returns to the edges and trains where the data is</span></div></section>
<div class="grid low"><div class="panel"><div id="need"></div><div id="handled"></div><div id="at-edges"></div></div>
<div class="panel" id="since"></div></div>
<p class="dim s12" style="margin-top:14px">Decision support for staff. Never the primary alarm of a patient.</p>"""
    return page(view, who=who, role=role, here="/", main=main)


def undo_dialog(alert: AlertView) -> str:
    """What undoing will do, and why it is undone."""
    return parts.confirm(
        title=alert.undo_title,
        detail=alert.detail,
        consequences=alert.undo_consequences,
        keep=alert.undo_keep,
        do=alert.undo_words,
        act="undo",
        facts=(("alert", alert.alert_id),),
        fields=parts.reason_field(),
    )


def _answer(view: Overview, since_us: int | None, role: str) -> str:
    need = [a for a in view.open_alerts if a.needs_person]
    rest = len(view.open_alerts) - len(need)
    silent = [e for e in view.edges if e.state == "silent"]
    theirs = yours(view, role)
    if theirs:
        words = f"{theirs[0].title}: who and why stands at that edge."
        more = len(need) + len(theirs) - 1
        words += f" {spoken(more).capitalize()} more {'thing needs' if more == 1 else 'things need'} a person." if more else ""
    elif len(need) == 1:
        words = f"{need[0].title}: it needs a person now."
        if silent:
            words += f" {_connected(view)}."
        else:
            words += " Everything else runs or is being handled." if rest or view.edges else ""
    elif need:
        words = f"{spoken(len(need)).capitalize()} things need a person now. First: {need[0].title}."
    elif rest:
        handled = f"{spoken(rest)} {'alert is' if rest == 1 else 'alerts are'} handled or can wait"
        words = f"Nothing needs a person now; {handled}."
    elif silent:
        words = f"{len(view.edges) - len(silent)} of {count(len(view.edges), 'edge')} are connected. {silent[0].name} is silent."
    elif view.at_edges:
        words = f"Nothing needs a person here; {count(len(view.at_edges), 'alert is', 'alerts are')} open at edges."
    elif view.edges:
        words = f"Everything runs as expected. {_connected(view)}."
    else:
        words = "No edge has joined yet."
    kind = "simulated patient" if view.simulated else "subject"
    sub = f"{count(len(view.edges), 'edge')}, {count(view.subjects, kind)}, {count(view.studies, 'study', 'studies')}."
    if since_us:
        newer = sum(1 for line in view.happened if line.t_us > since_us)
        things = "nothing has" if not newer else f"{spoken(newer)} {'thing has' if newer == 1 else 'things have'}"
        things += " happened since"
        sub += f" You were last here at {lately(since_us, view.now_us)} UTC; {things}."
    return f'<h1>{safe(words)}</h1><p class="sub">{safe(sub)}</p>'


def _connected(view: Overview) -> str:
    connected = sum(e.state != "silent" for e in view.edges)
    return f"{connected} of {count(len(view.edges), 'edge')} connected"


def _figure(number: str, unit: str, caption: str, mark: str, state: str) -> str:
    return (
        f'<div class="fig"><span class="num">{number}</span><span class="u">{safe(unit)}</span></div>'
        f'<div class="cap">{safe(caption)}</div><div class="st">{mark}<span>{safe(state)}</span></div>'
    )


def _collect(view: Overview) -> str:
    silent = [e for e in view.edges if e.state == "silent"]
    figure, unit = rate(view.samples_per_s)
    state = _connected(view)
    if silent:
        state += f"; {silent[0].name} silent {duration(silent[0].silent_s)}"
        state += f" and {len(silent) - 1} more" if len(silent) > 1 else ""
    spooled = sum(e.spooled for e in view.edges)
    if spooled and not silent:
        state += f"; {spooled:,} on their way"
    sign = pictures.mark("medium", 15) if silent else pictures.tick()
    return pictures.collect(view.edges) + _figure(figure, unit, "samples arriving, last 10 s", sign, state)


def _process(view: Overview) -> str:
    figure, unit = ("–", "") if view.behind_s is None else duration(view.behind_s).split(" ", 1)
    waits = count(view.waiting, "observation waits", "observations wait")
    state = f"{waits} in the inbox" if view.waiting else "nothing waits"
    state += f"; {count(view.set_aside, 'item')} set aside" if view.set_aside else ""
    caption = "no study asks for gold tables" if view.behind_s is None else "gold tables behind live"
    return pictures.process(view.behind_s, view.waiting) + _figure(figure, unit, caption, pictures.tick(), state)


def _learn(view: Overview) -> str:
    study = view.study
    if study is None:
        return pictures.learn(None) + _figure("–", "", "no study runs", "", "wardround study start study.toml")
    aside = [name for name, part in study.parts if part == "set-aside"]
    state = f"{aside[0]} set aside: weight 0" if len(aside) == 1 else f"{len(aside)} edges set aside: weight 0" if aside else ""
    sign = pictures.mark("medium", 15) if aside else pictures.tick()
    if not state:
        state = f"{study.name}: round {study.round_number} of {study.rounds}" + (
            f", {study.state}" if study.state != "running" else ""
        )
    if study.score is None:
        return pictures.learn(study) + _figure("–", metric(study.metric), "no model has been scored yet", sign, state)
    caption = f"round {study.round_number}"
    caption += f", worst edge {study.worst:.3f} ({study.worst_edge})" if study.worst is not None else ""
    return pictures.learn(study) + _figure(f"{study.score:.3f}", metric(study.metric), caption, sign, state)


def _watch(view: Overview) -> str:
    need = [a for a in view.open_alerts if a.needs_person]
    n_open = len(view.open_alerts)
    picture = pictures.watch(view.alerts, view.now_us)
    if not n_open:
        return picture + _figure("0", "open", "open alerts", pictures.tick(), "all as expected")
    unit, rest = f"of {n_open}", n_open - len(need)
    caption = f"open {'alert' if n_open == 1 else 'alerts'} {'needs' if len(need) == 1 else 'need'} a person now"
    others = f"the other {rest} are" if rest > 1 else "the other is"
    state = f"{others} handled or can wait" if need and rest else "handled, or can wait" if rest else "see below"
    sign = pictures.mark(need[0].priority if need else view.open_alerts[0].priority, 15)
    return picture + _figure(str(len(need)), unit, caption, sign, state)


def _need(view: Overview, looking: Looking) -> str:
    need = [a for a in view.open_alerts if a.needs_person]
    everything = f'<a class="link" href="{ALERTS.address}">All alerts</a>' if view.open_alerts else ""
    head = parts.head("Needs a person now", f"{len(need):,}", everything)
    if not need:
        return head + f'<p class="calm">{pictures.tick(17)}<span>Nothing. What comes up shows here first.</span></p>'
    rows, keyed = [], False
    for i, alert in enumerate(need[:HANDLED_SHOWN]):
        tint = alert.priority if i == 0 else ""
        told = f"{safe(alert.acknowledged_by)} is on it" if alert.acknowledged_by else "<b>not yet acknowledged</b>"
        button = ""
        if not alert.acknowledged_by:
            facts = (("alert", alert.alert_id),)
            words, key = "Acknowledge", "" if keyed else "a"
            button = parts.button(looking, Act.ACKNOWLEDGE, words, "acknowledge", kind="primary", key=key, facts=facts)
            keyed = True
        rows.append(
            f'<li class="att {tint}" data-key="{safe(alert.alert_id)}"><div>{pictures.mark(alert.priority, 24)}</div>'
            f'<div class="tx"><div class="meta"><span class="pri {alert.priority}">{alert.priority.capitalize()}</span>'
            f"<span>{safe(alert.category)}</span><span>since {lately(alert.since_us, view.now_us)} UTC</span></div>"
            f'<a class="ti" href="/alerts/{safe(alert.alert_id)}">{safe(alert.title)}</a>'
            f"<p>{safe(alert.detail)} {safe(alert.action)}</p>"
            f'<p class="done">{told}</p></div><div class="go">{button}</div></li>'
        )
    return head + f"<ul>{''.join(rows)}</ul>{_more(len(need))}"


def _more(n: int) -> str:
    """The way to those of `n` alerts that are not drawn here."""
    if n <= HANDLED_SHOWN:
        return ""
    return (
        f'<p class="calm"><a class="link" href="{ALERTS.address}">and {n - HANDLED_SHOWN:,} more: all of them in Alerts</a></p>'
    )


def _handled(view: Overview, looking: Looking) -> str:
    handled = [a for a in view.open_alerts if not a.needs_person]
    head = f'<header style="padding-top:2px"><h2>Handled, or can wait</h2><span class="note">{len(handled)}</span></header>'
    if not handled:
        return head + '<p class="calm">None open.</p>'
    rows, keyed = [], False
    for alert in handled[:HANDLED_SHOWN]:
        undo = ""
        if alert.undo_title:
            facts, key = (("alert", alert.alert_id),), "" if keyed else "u"
            button = parts.button(looking, Act.UNDO, "Undo", "ask-undo", kind="small", key=key, facts=facts)
            undo, keyed = f'<span class="end">{button}</span>', True
        rows.append(
            f'<li class="hrow" data-key="{safe(alert.alert_id)}">{pictures.mark(alert.priority)}'
            f'<a class="m nw" href="/alerts/{safe(alert.alert_id)}">{safe(alert.title)}</a>'
            f'<span class="dim" title="{safe(alert.detail)}">'
            f"{safe(alert.response or alert.detail)}</span>{undo}</li>"
        )
    return head + f'<ul class="hlist">{"".join(rows)}</ul>{_more(len(handled))}'


def _since(view: Overview, since_us: int | None) -> str:
    title = "Since you were here" if since_us else "What happened"
    lines = [line for line in view.happened if not since_us or line.t_us > since_us][:LINES_SHOWN]
    note = f"{lately(since_us, view.now_us)} UTC to now, newest first" if since_us else "UTC, newest first"
    if not lines:
        return f'<header><h2>{title}</h2><span class="note">{note}</span></header><p class="calm">Nothing new.</p>'
    rows = "".join(
        f'<li data-key="{line.t_us}"><time>{lately(line.t_us, view.now_us)}</time><span><b class="m">{safe(line.title)}</b> '
        f'<span class="dim">{safe(line.detail)}</span></span></li>'
        for line in lines
    )
    return f'<header><h2>{title}</h2><span class="note">{note}</span></header><ol class="tl">{rows}</ol>'
