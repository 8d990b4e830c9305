"""One alert whole, as text: its life, its evidence, likely causes, what to do, what was done and how to undo it."""

from __future__ import annotations

from wardround.console import parts, pictures
from wardround.console.alert_model import AlertDetail, SilenceView
from wardround.console.charts import Level, Line, Mark, line_chart
from wardround.console.frame import FLEET, SCREENS, STUDIES
from wardround.console.looking import Looking
from wardround.console.words import clock, count, full_clock, lately, safe
from wardround.trust.roles import Act

STEPS_SHOWN = 6
SPANS = ((60, "1 hour"), (240, "4 hours"), (480, "8 hours, a shift"), (1440, "24 hours"), (10_080, "7 days"))


def day_clock(t_us: int) -> str:
    """Tue 24 Nov, 03:12."""
    return full_clock(t_us)[:-3]


def detail(alert: AlertDetail, looking: Looking, now_us: int) -> str:
    """The whole panel."""
    return (
        f"{_head(alert, looking)}{_life(alert, now_us)}{_quiet(alert, looking)}{_evidence(alert)}"
        f'<div class="two"><div>{_what(alert)}</div><div>{_impact(alert)}</div></div>'
        f'<div class="two three"><div>{_causes(alert)}</div><div>{_to_do(alert)}{_done(alert, looking)}</div></div>'
        f"{_history(alert)}{_foot(alert, looking, now_us)}"
    )


def silence_dialog(alert: AlertDetail, now_us: int) -> str:
    """Until when nobody is told, and why."""
    choices = [(str(m), f"{words}, until {day_clock(now_us + m * 60_000_000)} UTC") for m, words in SPANS]
    return parts.confirm(
        title=f"Silence {alert.row.title}?",
        detail="",
        consequences=(
            "Nobody is told of this cause while it is silenced, also if it comes back.",
            "It stays in Alerts under Silenced, and its evidence goes on being kept.",
            "Your name, the reason and the end are kept with it. The silence can be ended at any time.",
        ),
        keep="Keep telling people",
        do="Silence it",
        act="silence",
        facts=(("alert", alert.row.alert_id),),
        fields=parts.choice_field("minutes", "For", choices) + parts.reason_field("Needed for the handover"),
    )


def _head(alert: AlertDetail, looking: Looking) -> str:
    row = alert.row
    labels = "".join(f"<span>{_label(name, value)}</span>" for name, value in alert.labels)
    facts = (("alert", row.alert_id),)
    acts = ""
    if row.state != "resolved":
        if not row.silenced:
            acts += parts.button(looking, Act.ACKNOWLEDGE, "Silence", "ask-silence", facts=facts)
        if row.state == "firing":
            acts += parts.button(looking, Act.ACKNOWLEDGE, "Acknowledge", "acknowledge", kind="primary", key="a", facts=facts)
    return (
        f'<div class="dh">{pictures.mark(row.priority, 26)}<div class="t"><div class="meta"><span class="pri {row.priority}">'
        f"{row.priority.capitalize()}</span><span>{safe(row.category)}</span>"
        f'<span class="mono">{safe(row.alert_id)}</span>{labels}'
        f'</div><h2>{safe(row.title)}</h2></div><div class="acts">{acts}</div></div>'
    )


def _label(name: str, value: str) -> str:
    to = {"edge": FLEET.address, "study": STUDIES.address}.get(name)
    to = to if to in {place.address for place in SCREENS} else None
    told = safe(value) if to is None else f'<a class="link" href="{to}/{safe(value)}">{safe(value)}</a>'
    return told if name in ("edge", "subject") else f"{safe(name)} {told}"


def _life(alert: AlertDetail, now_us: int) -> str:
    row = alert.row
    steps = [(lately(row.since_us, now_us), "First deviation", "d"), (lately(alert.raised_us, now_us), "Raised", "d")]
    begun = {"firing", "pending", "firing again"}
    later = [s for s in alert.history if s.what not in begun][-STEPS_SHOWN:]
    steps += [(lately(s.t_us, now_us), _step_words(s.what, s.who), "d") for s in later]
    if row.state == "firing" and not row.silenced:
        steps.append(("not yet", "Acknowledged", "n"))
    if row.escalates_us:
        steps.append((lately(row.escalates_us, now_us), "Goes to more people", "f"))
    items = "".join(f'<li class="{kind}"><time>{safe(at)}</time><span>{safe(words)}</span></li>' for at, words, kind in steps)
    return f'<ol class="life" aria-label="Its life, UTC">{items}</ol>'


def _step_words(what: str, who: str) -> str:
    words = {"answered": "Handled by itself"}.get(what, f"{what[:1].upper()}{what[1:]}")
    return f"{words} by {who}" if who else words


def _quiet(alert: AlertDetail, looking: Looking) -> str:
    told = ""
    if alert.silence is not None:
        told += _silenced(alert.silence, looking)
    if alert.explained_by:
        link = f'<a class="link" href="/alerts/{safe(alert.explained_by)}">{safe(alert.explained_by)}</a>'
        told += f'<p class="mid s13">Explained by {link}: nobody is told of this one while that is open.</p>'
    if alert.flapping:
        told += '<p class="mid s13">It comes and goes: it stays one line until it was away for half an hour.</p>'
    return f'<div class="evi">{told}</div>' if told else ""


def _silenced(silence: SilenceView, looking: Looking) -> str:
    end = parts.button(
        looking, Act.ACKNOWLEDGE, "End the silence", "unsilence", kind="small", facts=(("silence", silence.silence_id),)
    )
    return (
        f'<div class="did"><span class="s13 mid">Silenced by {safe(silence.who)} until {day_clock(silence.until_us)} UTC: '
        f"{safe(silence.reason or 'no reason given')}.</span>{end}</div>"
    )


def _evidence(alert: AlertDetail) -> str:
    if len(alert.evidence) < 2:
        return ""
    last = alert.evidence[-1][1]
    unit = alert.evidence_unit or "score"
    name = dict(alert.labels).get("edge") or "hub"
    levels = [Level(f"threshold {alert.threshold:.3g}", alert.threshold)] if alert.threshold is not None else []
    marks = []
    if alert.by_time:
        first, end = alert.evidence[0][0], alert.evidence[-1][0]
        told = ((alert.row.since_us, "first deviation"), (alert.raised_us, "raised"))
        marks = [Mark(float(t_us), words) for t_us, words in told if first <= t_us <= end]
    chart = line_chart(
        label=f"{unit} of {name}: {last:.3g} at the end"
        + (f", threshold {alert.threshold:.3g}" if alert.threshold is not None else ""),
        lines=[Line(unit, alert.evidence, label=f"{name}, {last:.3g}")],
        levels=levels,
        marks=marks,
        x_words=(lambda x: lately(round(x), round(alert.evidence[0][0]))) if alert.by_time else (lambda x: f"{x:.0f}"),
        y_words=lambda y: f"{y:.3g}",
        x_name="" if alert.by_time else "round",
        size=(820, 210),
        from_zero=min(v for _, v in alert.evidence) >= 0,
    )
    at = "UTC" if alert.by_time else "by round"
    return f'<div class="evi"><h3 class="k">Evidence: {safe(unit)}, {at}</h3>{chart}</div>'


def _what(alert: AlertDetail) -> str:
    notes = "".join(f'<li class="dim">{safe(note)}</li>' for note in alert.notes)
    told = safe(alert.detail or "No more than its title says.")
    return f'<h3 class="k">What was seen</h3><p class="s13">{told}</p><ul>{notes}</ul>'


def _impact(alert: AlertDetail) -> str:
    return f'<h3 class="k">Impact</h3><p class="s13">{safe(alert.impact or "None that is known.")}</p>'


def _causes(alert: AlertDetail) -> str:
    items = "".join(f'<li><span class="rk">{i}</span><div>{safe(c)}</div></li>' for i, c in enumerate(alert.causes, 1))
    told = f'<ol class="cz">{items}</ol>' if items else '<p class="s13 dim">None is listed for this kind; see the runbook.</p>'
    return f'<h3 class="k">Likely causes</h3>{told}'


def _to_do(alert: AlertDetail) -> str:
    words = alert.action or "Nothing beyond a look."
    return f'<h3 class="k">What to do</h3><p class="s13">{safe(words)} <span class="dim">Runbook: {safe(alert.kind)}</span></p>'


def _done(alert: AlertDetail, looking: Looking) -> str:
    row = alert.row
    told = row.response or "Nothing by itself."
    if alert.undone_by:
        told += f" Undone by {alert.undone_by}: {alert.undo_reason or 'no reason given'}."
    undo = ""
    if alert.undo_title:
        undo = parts.button(looking, Act.UNDO, "Undo", "ask-undo", kind="small", key="u", facts=(("alert", row.alert_id),))
    return f'<h3 class="k then">What was done</h3><div class="did"><span class="s13">{safe(told)}</span>{undo}</div>'


def _history(alert: AlertDetail) -> str:
    rows = "".join(
        f"<tr><td>{day_clock(s.t_us)}</td><td>{safe(s.what)}</td><td>{safe(s.who)}</td><td>{safe(s.why)}</td></tr>"
        for s in reversed(alert.history)
    )
    return (
        f'<details class="behind evi"><summary>Every step, {count(len(alert.history), "line")}</summary><div class="tw">'
        '<table class="tight"><thead><tr><th scope="col">UTC</th><th scope="col">What</th><th scope="col">Who</th>'
        f'<th scope="col">Why</th></tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _foot(alert: AlertDetail, looking: Looking, now_us: int) -> str:
    facts = (("alert", alert.row.alert_id),)
    said = {True: "it needed something done", False: "it needed nothing done", None: "nobody has said"}[alert.actionable]
    judge = "".join(
        parts.button(looking, Act.ACKNOWLEDGE, words, "judge", kind="small", facts=(*facts, ("needed", value)))
        for words, value in (("It did", "yes"), ("It did not", "no"))
    )
    related = ", ".join(f'<a class="link" href="/alerts/{safe(i)}">{safe(i)} {safe(title)}</a>' for i, title in alert.related)
    seen = "once" if alert.times == 1 else f"{alert.times:,} times"
    return (
        f'<div class="ft"><span>Did it need something done? <b>{safe(said)}</b></span><span class="acts">{judge}</span>'
        f"<span>Seen {seen}</span>{f'<span>Same edge: {related}</span>' if related else ''}"
        f'<span class="dim" style="margin-left:auto">as of {clock(now_us)} UTC</span></div>'
    )
