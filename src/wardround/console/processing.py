"""The Processing screen as text: how far behind live, where work runs, what broke and what to do about it."""

from __future__ import annotations

from wardround.console import pictures
from wardround.console.frame import page
from wardround.console.looking import Looking
from wardround.console.model import Overview
from wardround.console.parts import button
from wardround.console.processing_model import JobView, NodeView, ProcessingView, StageView
from wardround.console.words import count, duration, safe
from wardround.trust.roles import Act

ARROW = (
    '<svg class="arrow" width="24" height="12" viewBox="0 0 24 12" aria-hidden="true">'
    '<path d="M0 6h21M16.5 1.5L21.5 6l-5 4.5"/></svg>'
)


def frame(view: Overview, looking: Looking) -> str:
    """The whole page around the sections, which are filled by `sections`."""
    main = (
        '<section class="panel" aria-label="From inbox to gold" id="flow"></section>'
        '<div class="grid w2 below"><section class="panel" aria-label="Dead letters" id="dead"></section>'
        '<section class="panel" aria-label="Nodes and containers" id="nodes"></section></div>'
        '<section class="panel below" aria-label="Jobs" id="jobs"></section>'
        '<section class="panel below" aria-label="Set aside" id="aside"></section>'
    )
    return page(view, who=looking.name, role=looking.role, here="/processing", main=main)


def sections(view: Overview, found: ProcessingView | None, looking: Looking) -> dict[str, str]:
    """Every part of the screen by the id of its element."""
    if found is None:
        waiting = '<p class="calm dim">One moment.</p>'
        parts = dict.fromkeys(("flow", "dead", "nodes", "jobs", "aside"), waiting)
        return {**parts, "answer": '<h1>One moment: the tables are being read.</h1><p class="sub"></p>'}
    return {
        "answer": _answer(view, found),
        "flow": _flow(view, found),
        "dead": _dead(view, found, looking),
        "nodes": _nodes(found),
        "jobs": _jobs(view, found, looking),
        "aside": _aside(view, found),
    }


def _answer(view: Overview, found: ProcessingView) -> str:
    dead, running = sum(d.count for d in found.dead), [j for j in found.jobs if j.state == "running"]
    gold = "Gold waits for nothing" if view.behind_s is None else f"Gold is {duration(view.behind_s)} behind live"
    waits = (
        "nothing waits" if not view.waiting else f"{count(view.waiting, 'observation waits', 'observations wait')} in the inbox"
    )
    words = f"{gold} and {waits}."
    if dead:
        words += f" {count(dead, 'part')} could not be made and {'is' if dead == 1 else 'are'} kept."
    failed = [j for j in found.jobs if j.state == "failed"]
    if failed:
        words += f" {failed[0].title} failed."
    workers = sum(n.workers for n in found.nodes)
    sub = (
        f"{count(len(found.nodes), 'place')} to work, {count(workers, 'worker')} on nodes, {count(len(running), 'job')} running."
    )
    return f'<h1>{safe(words)}</h1><p class="sub">{safe(sub)}</p>'


def _flow(view: Overview, found: ProcessingView) -> str:
    inbox = (
        '<li><h3 class="mono">inbox</h3><p class="dim s12">durable, acknowledged</p>'
        f'<p class="vv"><b>{view.waiting:,}</b><span>waiting</span></p><p class="dim s12">committed before each receipt</p></li>'
    )
    return f'<ol class="flow">{inbox}{"".join(ARROW_ITEM + _stage(s, view.now_us) for s in found.stages)}</ol>'


ARROW_ITEM = f'<li class="to" aria-hidden="true">{ARROW}</li>'


def _stage(s: StageView, now_us: int) -> str:
    if not s.rows:
        figure, words = '<p class="vv"><b>&ndash;</b><span>no row yet</span></p>', "made by its first job"
    else:
        since = duration(max(0.0, (now_us - s.changed_us) / 1e6))
        figure = f'<p class="vv"><b>{_short(s.rows)}</b><span>rows</span></p>'
        words = f"version {s.version:,}, {since} ago"
    head = f'<h3 class="mono">{safe(s.name)}</h3><p class="dim s12">{safe(s.words)}</p>'
    return f'<li>{head}{figure}<p class="dim s12">{words}</p></li>'


def _short(n: int) -> str:
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if n >= limit:
            return f"{n / (1e3 if limit == 1e4 else limit):.1f}{unit}"
    return f"{n:,}"


def _button(act: str, job: str, words: str, looking: Looking) -> str:
    return button(looking, Act.JOBS, words, act, kind="small", facts=(("job", job),))


def _dead(view: Overview, found: ProcessingView, looking: Looking) -> str:
    head = '<header><h2>Dead letters</h2><span class="note">parts that could not be made, kept until they can</span></header>'
    if not found.dead:
        return f'{head}<p class="calm">{pictures.tick()} Every part was made.</p>'
    rows = "".join(
        f'<tr data-key="{safe(d.job)} {safe(d.error[:60])}"><td class="r b">{d.count:,}</td>'
        f'<td class="wrap">{safe(d.error[:200])}</td><td class="mono">{safe(d.job)}</td>'
        f'<td class="dim">{_ago(d.since_us, view.now_us)}</td>'
        f'<td class="r">{_button("retry-job", d.job, "Try again", looking)}</td></tr>'
        for d in found.dead
    )
    table = _table(("Count|r", "Why", "Job", "Since", "|r"), rows, "Dead letters")
    hint = "Put the cause right first: a worker out of memory, a file that is damaged, a full disk."
    return f'{head}{table}<p class="calm dim s12">{hint}</p>'


def _nodes(found: ProcessingView) -> str:
    head = "<header><h2>Nodes and containers</h2></header>"
    rows = "".join(map(_node, found.nodes))
    hint = '<p class="calm dim s12">More machines: <code>wardround node add NAME ssh://USER@HOST</code></p>'
    return f"{head}{_table(('Node', 'State', 'Workers|r'), rows, 'Nodes')}{hint}"


def _node(n: NodeView) -> str:
    sign = pictures.tick() if n.state == "ready" else pictures.mark("info", 15) if n.remedy else ""
    workers = f"{n.workers} of {n.wanted}" if n.wanted else "beside the hub"
    more = f'<span class="dim"> {safe(n.words)} {safe(n.remedy)}</span>' if n.words or n.remedy else ""
    return (
        f'<tr data-key="{safe(n.name)}"><td class="m">{safe(n.name)}</td><td class="wrap">{sign} {safe(n.state)}{more}</td>'
        f'<td class="r">{workers}</td></tr>'
    )


def _jobs(view: Overview, found: ProcessingView, looking: Looking) -> str:
    head = '<header><h2>Jobs</h2><span class="note">what each reads and makes, and its newest run</span></header>'
    rows = "".join(_job(j, view.now_us, looking) for j in found.jobs)
    headings = ("Job", "State", "Parts|r", "Rows|r", "Took|r", "When", "Lineage", "|r")
    return f"{head}{_table(headings, rows, 'Jobs')}"


def _job(j: JobView, now_us: int, looking: Looking) -> str:
    state = f'<span class="tag{" acc" if j.state == "running" else ""}">{safe(j.state or "not run yet")}</span>'
    if j.error:
        state += f' <span class="dim" title="{safe(j.error)}">{safe(j.error[:60])}</span>'
    parts = f"{j.done:,} of {j.parts:,}" if j.state else ""
    parts += f" ({j.failed:,} failed)" if j.failed else ""
    every = f"each {duration(j.every_s)}" if j.every_s else "when asked"
    when = f"{_ago(j.changed_us, now_us)}, {every}" if j.changed_us else every
    lineage = j.source or f"{j.reads} to {j.makes}"
    return (
        f'<tr data-key="{safe(j.name)}"><td><span class="m">{safe(j.title)}</span> '
        f'<span class="dim mono">{safe(j.name)}</span></td><td>{state}</td><td class="r">{parts}</td>'
        f'<td class="r">{f"{j.rows:,}" if j.state else ""}</td>'
        f'<td class="r">{f"{j.seconds:.1f} s" if j.state else ""}</td><td class="dim">{when}</td>'
        f'<td class="dim s12">{safe(lineage)}</td><td class="r">{_button("run-job", j.name, "Run", looking)}</td></tr>'
    )


def _aside(view: Overview, found: ProcessingView) -> str:
    head = (
        f'<header><h2>Set aside</h2><span class="note">{view.set_aside:,} messages and updates that were not taken, and why'
        "</span></header>"
    )
    if not found.aside:
        return f'{head}<p class="calm">{pictures.tick()} Nothing was set aside.</p>'
    rows = "".join(
        f'<tr data-key="{safe(a.edge)} {safe(a.what)} {safe(a.reason)}"><td class="r b">{a.count:,}</td><td>{safe(a.reason)}</td>'
        f'<td>{safe(a.what)}</td><td class="m">{safe(a.edge)}</td><td class="dim">{_ago(a.newest_us, view.now_us)}</td></tr>'
        for a in found.aside
    )
    table = _table(("Count|r", "Why", "What", "From", "Newest"), rows, "Set aside")
    hint = "What devices sent lies at its edge: <code>wardround edge quarantine list</code>"
    return f'{head}{table}<p class="calm dim s12">{hint}</p>'


def _table(headings: tuple[str, ...], rows: str, label: str) -> str:
    cells = ""
    for heading in headings:
        words, _, side = heading.partition("|")
        cells += f'<th class="{side}">{words}</th>' if words else '<td class="th"></td>'
    return (
        f'<div class="tw" tabindex="0" role="region" aria-label="{label}, table"><table class="tight"><thead>'
        f"<tr>{cells}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _ago(t_us: int, now_us: int) -> str:
    return f"{duration(max(0.0, (now_us - t_us) / 1e6))} ago"
