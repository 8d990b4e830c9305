"""One subject's record as text: vital signs with their points and what is usual, waveforms, NEWS2, trends, findings."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from wardround.console import pictures
from wardround.console import ward_charts as charts
from wardround.console.ward_model import SPANS, RecordView, TrendView, VitalView
from wardround.console.words import clock, duration, full_clock, lately, number, safe, unit

STALE_S = 180.0  # three missed minutes


def record_panels(view: RecordView, *, simulated: bool) -> str:
    """The panels of a record, from the most urgent to the longest view."""
    parts = [_vitals(view, simulated=simulated)]
    if view.waves:
        parts.append(_waves(view))
    parts.append(f'<div class="grid w2">{_scores(view)}{_findings(view)}</div>')
    parts.append(_trends(view))
    return "".join(parts)


def _place(view: RecordView) -> str:
    return f"/ward/{quote(view.edge, safe='')}/{quote(view.subject, safe='')}"


def _vitals(view: RecordView, *, simulated: bool) -> str:
    tag = '<span class="sim">SIMULATED</span>' if simulated else ""
    score = view.news2
    total = ""
    if score is not None and score.news2 is not None:
        least = "at least " if score.at_least else ""
        total = f'<span class="end"><span class="dim">NEWS2</span> <span class="big">{least}{score.news2}</span></span>'
    newest = max((v.at_us for v in view.vitals), default=0)
    note = safe(
        f"{view.edge}; newest value {lately(newest, view.until_us)} UTC" if newest else f"{view.edge}; no vital sign has come"
    )
    then = ""
    if not view.live:
        note += f"; as of {full_clock(view.until_us)} UTC"
        then = f' <a class="link s12" href="{_place(view)}?span={view.span}">Show now</a>'
    head = f'<header><h2 class="mono">{safe(view.subject)}</h2>{tag}<span class="note">{note}</span>{then}{total}</header>'
    boxes = "".join(_vital(v, view.until_us) for v in view.vitals)
    body = f'<div class="vits">{boxes}</div>' if boxes else '<p class="calm">No vital sign that may be shown has come lately.</p>'
    missing = ""
    if view.missing:
        missing = (
            f'<p class="calm dim s12">The score is a lowest one: {safe(", ".join(view.missing))} '
            f"{'is' if len(view.missing) == 1 else 'are'} not known here.</p>"
        )
    return f'<section class="panel" aria-label="Vital signs">{head}{body}{missing}</section>'


def _vital(v: VitalView, until_us: int) -> str:
    age_s = (until_us - v.at_us) / 1e6 - 60.0
    stale = age_s > STALE_S
    points = ""
    if v.points is not None:
        points = f'<span class="pt v{v.points}" title="{v.points} points of the NEWS2">{v.points}</span>'
    usual = f"usual {number(v.usual[0])} to {number(v.usual[1])}" if v.usual is not None else "usual range not known yet"
    if stale:
        usual = f"{clock(v.at_us)} UTC, {duration(age_s)} old; {usual}"
    title = v.title.split(",")[0].removesuffix(" by pulse oximetry")
    return (
        f'<div class="vt{" stale" if stale else ""}" data-key="{safe(v.code)}"><div class="vh2"><span title="{safe(v.title)}">'
        f"{safe(title)}</span>{points}</div>"
        f'<div class="vv"><b>{number(v.value)}</b><span>{safe(unit(v.unit))}</span></div>'
        f'{charts.spark(v.means, width=120, height=22, label=f"{v.title}, 12 hours")}<div class="vr" title="{safe(usual)}">'
        f"{safe(usual)}</div></div>"
    )


def _waves(view: RecordView) -> str:
    rows = "".join(
        f'<figure data-key="{safe(w.code)}"><figcaption>{safe(w.title)} <span class="dim">{safe(unit(w.unit))}</span>'
        "</figcaption>"
        f"{charts.wave(w)}</figure>"
        for w in view.waves
    )
    note = "the newest 8 seconds that reached the hub; lines every 0.2 s, of an ECG every 0.5 mV"
    return (
        f'<section class="panel" aria-label="Waveforms"><header><h2>Waveforms</h2><span class="note">{note}</span></header>'
        f'<div class="body">{rows}</div></section>'
    )


def _scores(view: RecordView) -> str:
    words = SPANS[view.span][0]
    head = f'<header><h2>NEWS2</h2><span class="note">{words}; by hour, from what devices measure</span></header>'
    body = (
        charts.scores(view.scores, view.since_us, view.until_us)
        if view.scores
        else '<p class="calm">No score in this time: it needs a vital sign that may be shown.</p>'
    )
    return f'<section class="panel" aria-label="NEWS2">{head}<div class="body">{body}</div></section>'


def _findings(view: RecordView) -> str:
    items = "".join(
        f'<li data-key="{safe(f.alert_id)}">{pictures.mark(f.priority) if f.open else pictures.tick()}<span><b class="m">'
        f'{safe(f.title)}</b> <span class="mid">{safe(f.detail)} '
        f"{'Since' if f.open else 'Over; since'} {full_clock(f.since_us)} UTC, {safe(f.alert_id)}.</span></span></li>"
        for f in view.findings
    )
    body = (
        f'<ul class="fd">{items}</ul>' if items else '<p class="dim s13">Nothing was found about this subject in this time.</p>'
    )
    return (
        f'<section class="panel" aria-label="Findings"><header><h2>Findings</h2></header><div class="body">{body}</div></section>'
    )


def _trends(view: RecordView) -> str:
    asked = {} if view.live else {"at": str(view.until_us)}
    links = ""
    for key, (words, _) in SPANS.items():
        here = ' aria-current="true"' if key == view.span else ""
        links += f'<a href="{safe(_place(view))}?{safe(urlencode({"span": key, **asked}))}"{here}>{words}</a>'
    head = (
        '<header><h2>Trends</h2><span class="note">line: mean; band: reach; beneath: the share that came, hatched under half'
        f'</span><span class="end"><span class="seg">{links}</span></span></header>'
    )
    body = "".join(_trend(view, t) for t in view.trends) or '<p class="dim s13">Nothing that may be shown came in this time.</p>'
    return f'<section class="panel" aria-label="Trends">{head}<div class="body trends">{body}</div></section>'


def _trend(view: RecordView, t: TrendView) -> str:
    asked = {"code": t.code, "span": view.span} | ({} if view.live else {"at": str(view.until_us)})
    csv = f"{_place(view)}/trend.csv?{urlencode(asked)}"
    return (
        f'<figure data-key="{safe(t.code)}"><figcaption>{safe(t.title)} <span class="dim">{safe(unit(t.unit))}</span>'
        f'<a class="link s12" href="{safe(csv)}" download>CSV</a></figcaption>'
        f"{charts.trend(t, view.since_us, view.until_us)}</figure>"
    )
