"""The Alerts screen as text: the inbox by need, and one alert whole: what, why, what was done, what to do."""

from __future__ import annotations

from wardround.console import alert_detail, parts, pictures
from wardround.console.alert_model import AlertDetail, AlertRow, AlertsDesk, AlertsView, Group
from wardround.console.frame import page
from wardround.console.looking import Facts, Looking, OnAct, Reply, Screen
from wardround.console.model import Overview
from wardround.console.tables import Table
from wardround.console.words import clock, duration, percent, safe, spoken

GROUPS: tuple[tuple[Group, str], ...] = (
    ("now", "Needs a person now"),
    ("handled", "Handled: check the response"),
    ("wait", "Can wait"),
    ("resolved", "Resolved"),
)
LOAD_DAYS = 7
DISCLAIMER = "Decision support: do not rely on Wardround for primary alarms. Bedside monitors alarm by themselves."
INBOX: Table[AlertRow] = Table("inbox", (), lambda row: row.alert_id, "alert", rows=40)


def screens(desk: AlertsDesk) -> tuple[Screen, ...]:
    """The inbox, and the inbox with one alert that an address names."""
    acts = _acts(desk)

    def live(looking: Looking) -> dict[str, str]:
        view = desk.alerts()
        chosen = chosen_of(view, looking)
        return sections(view, desk.alert(chosen) if chosen else None, looking)

    return tuple(Screen(path, "Alerts", frame, live, acts) for path in ("/alerts", "/alerts/{item}"))


def chosen_of(view: AlertsView, looking: Looking) -> str:
    """The alert that is shown whole: the address's, or the first of the list."""
    rows = listed(view, looking)
    return looking.item or (rows[0].alert_id if rows else "")


def listed(view: AlertsView, looking: Looking) -> list[AlertRow]:
    """The rows of the chosen list, by group."""
    show = looking.params.get("show", "")
    if show == "acknowledged":
        rows = [r for r in view.rows if r.state == "acknowledged"]
    elif show == "silenced":
        rows = [r for r in view.rows if r.silenced]
    elif show == "resolved":
        rows = [r for r in view.rows if r.state == "resolved"]
    else:
        rows = [r for r in view.rows if r.state != "resolved" and not r.silenced]
    order = [group for group, _ in GROUPS]
    return sorted(rows, key=lambda r: order.index(r.group))


def sections(view: AlertsView, chosen: AlertDetail | None, looking: Looking) -> dict[str, str]:
    """Every part of the screen by the id of its element."""
    return {
        "answer": answer(view),
        "inbox": _inbox(view, chosen, looking),
        "load": _load(view),
        "detail": alert_detail.detail(chosen, looking, view.now_us) if chosen is not None else _nothing(looking),
    }


def frame(view: Overview, looking: Looking) -> str:
    """The whole page around the sections."""
    main = (
        '<div class="grid al"><section class="panel inbox" aria-label="Inbox"><div id="inbox"></div><div id="load"></div>'
        f'<p class="ds">{DISCLAIMER}</p></section>'
        '<section class="panel" aria-label="The alert"><div id="detail"></div></section></div>'
    )
    return page(view, who=looking.name, role=looking.role, here="/alerts", main=main)


def answer(view: AlertsView) -> str:
    """One sentence of how many are open, and whether they want somebody."""
    open_ = [r for r in view.rows if r.state != "resolved"]
    now = [r for r in open_ if r.group == "now" and not r.acknowledged_by]
    taken = [r for r in open_ if r.group == "now" and r.acknowledged_by]
    handled = [r for r in open_ if r.group == "handled"]
    if not open_:
        return parts.answer("No alert is open.", "What comes up shows here first, the most urgent on top.")
    words = f"{spoken(len(open_)).capitalize()} {'alert is' if len(open_) == 1 else 'alerts are'} open."
    more = []
    if now:
        more.append(f"{spoken(len(now))} {'needs' if len(now) == 1 else 'need'} a person now")
    if taken:
        more.append(f"somebody is on {spoken(len(taken))}")
    if handled:
        more.append(
            f"{spoken(len(handled))} {'was handled and wants' if len(handled) == 1 else 'were handled and want'} checking"
        )
    told = "; ".join(more) if more else "none needs a person now"
    soon = min((r.escalates_us for r in now if r.escalates_us), default=0)
    sub = f"The next one goes to more people at {clock(soon)} UTC." if soon else ""
    return parts.answer(f"{words} {told[:1].upper()}{told[1:]}.", sub)


def _inbox(view: AlertsView, chosen: AlertDetail | None, looking: Looking) -> str:
    open_ = [r for r in view.rows if r.state != "resolved"]
    tabs = parts.tabs(
        looking,
        "show",
        (
            ("", f"Open {sum(not r.silenced for r in open_)}"),
            ("acknowledged", f"Acknowledged {sum(r.state == 'acknowledged' for r in open_)}"),
            ("silenced", f"Silenced {sum(r.silenced for r in open_)}"),
            ("resolved", "Resolved"),
        ),
        "Which alerts",
    )
    rows, news, pages = INBOX.page(looking, listed(view, looking))
    if not rows:
        return tabs + _none(looking.params.get("show", ""))
    groups = ""
    for group, title in GROUPS:
        own = [r for r in rows if r.group == group]
        if own:
            lines = "".join(_row(r, looking, view.now_us, chosen) for r in own)
            groups += f'<h2 class="k g" data-key="{group}">{title}</h2><ul data-key="{group}-rows">{lines}</ul>'
    return f"{tabs}{news}<div>{groups}</div>{pages}"


def _none(show: str) -> str:
    words = {
        "": ("Nothing is open", "What a device, an edge, a model or the hub itself has wrong shows here."),
        "acknowledged": ("Nobody is on anything", "Acknowledge says that you are on it; it does not hide the alert."),
        "silenced": ("Nothing is silenced", "A silence keeps people from being told for a while, with a reason and an end."),
        "resolved": ("Nothing was resolved lately", "What has gone stays here for a while."),
    }
    title, told = words.get(show, words[""])
    return parts.empty(title, told, "wardround alert list --all" if show == "resolved" else "")


def _row(row: AlertRow, looking: Looking, now_us: int, chosen: AlertDetail | None) -> str:
    here = chosen is not None and row.alert_id == chosen.row.alert_id
    told = row.category.capitalize()
    if row.acknowledged_by and row.state == "acknowledged":
        told += f". {row.acknowledged_by} is on it"
    elif row.escalates_us:
        told += f". Goes to more people at {clock(row.escalates_us)}"
    elif row.response:
        told += f". {row.response[:1].upper()}{row.response[1:]}"
    show = looking.params.get("show", "")
    address = f"/alerts/{row.alert_id}" + (f"?show={show}" if show else "")
    since = duration(max(0.0, (now_us - row.since_us) / 1e6))
    return (
        f'<li data-key="{safe(row.alert_id)}" data-row tabindex="-1"><a class="ar{" sel" if here else ""}" '
        f'href="{safe(address)}"{" aria-current=true" if here else ""}>{pictures.mark(row.priority, 19)}'
        f'<span class="x"><b>{safe(row.title)}</b><span class="w">{safe(row.where)}</span>'
        f'<span class="w2">{safe(told)}</span></span>'
        f"<time>{since}</time></a></li>"
    )


def _load(view: AlertsView) -> str:
    rows = "".join(
        f"<li><b>{one.alerts:,}</b> {safe(one.category)}{_answered(one.acknowledged, one.answer_s)}"
        f"{_judged(one.judged, one.actionable)}</li>"
        for one in view.load
    )
    told = f"<ul>{rows}</ul>" if rows else f'<p class="dim">No alert in {LOAD_DAYS} days.</p>'
    return f'<div class="load"><h2 class="k">Alarm load, last {LOAD_DAYS} days</h2><div class="ld">{told}</div></div>'


def _answered(share: float | None, answer_s: float | None) -> str:
    if not share:
        return ", none acknowledged"
    return f", {percent(share)} acknowledged" + (f" after {duration(answer_s)}" if answer_s is not None else "")


def _judged(n: int, share: float | None) -> str:
    return f"; {percent(share)} of {n} judged needed something done" if share is not None else ""


def _nothing(looking: Looking) -> str:
    if looking.item:
        return parts.error(
            f"There is no alert {looking.item}.", "It may be older than what is kept.", f"wardround alert show {looking.item}"
        )
    return parts.empty("No alert to show", "The alert that you choose shows here: evidence, likely causes, and what to do.")


def _acts(desk: AlertsDesk) -> dict[str, OnAct]:
    def ask_silence(facts: Facts, _: Looking) -> Reply:
        found = desk.alert(facts.get("alert", ""))
        if found is None:
            return Reply(toast="There is no such alert any more.")
        return Reply(dialog=alert_detail.silence_dialog(found, desk.alerts().now_us))

    def silence(facts: Facts, looking: Looking) -> Reply:
        minutes = facts.get("minutes", "")
        made = desk.silence(
            facts.get("alert", ""), looking.name, int(minutes) if minutes.isdigit() else 0, facts.get("reason", "")
        )
        told = f"{made.silence_id}: nobody is told until {alert_detail.day_clock(made.until_us)} UTC."
        return Reply(toast=told, undo={"act": "unsilence", "silence": made.silence_id})

    def unsilence(facts: Facts, looking: Looking) -> Reply:
        desk.unsilence(facts.get("silence", ""), looking.name)
        return Reply(toast=f"{facts.get('silence', '')} has ended: people are told again.")

    def judge(facts: Facts, looking: Looking) -> Reply:
        needed = facts.get("needed") == "yes"
        desk.judge(facts.get("alert", ""), looking.name, actionable=needed)
        return Reply(toast=f"{facts.get('alert', '')} {'needed' if needed else 'did not need'} something done, you say.")

    return {"ask-silence": ask_silence, "silence": silence, "unsilence": unsilence, "judge": judge}
