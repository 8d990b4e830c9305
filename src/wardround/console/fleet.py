"""The Fleet screen as text: who is connected, what each edge needs, how models reach it, who may come in."""

from __future__ import annotations

from wardround.console import parts, pictures
from wardround.console.fleet_model import Branch, FleetDesk, FleetEdge, FleetView, Invitation
from wardround.console.frame import page
from wardround.console.looking import Facts, Looking, OnAct, Reply, Screen
from wardround.console.model import Overview
from wardround.console.tables import ROWS, Column, Table
from wardround.console.words import clock, count, day_clock, duration, rate, safe
from wardround.trust.roles import Act

FOLD_FROM = 30  # edges: above it a relay's own are folded
SHOWN_BELOW = 50  # of one branch
ROWS_BESIDE = 30  # of the table below one edge: a screen has 1,500 elements at most
INVITATIONS_SHOWN = 3
NAMED = 2  # in the first line, beside the most urgent one
INVITE = "wardround hub invite NAME"
UNKNOWN = '<span class="dim">not known</span>'


def screens(desk: FleetDesk) -> tuple[Screen, ...]:
    """The fleet, and the fleet with one edge that an address names."""
    acts = _acts(desk)

    def live(looking: Looking) -> dict[str, str]:
        return sections(desk.fleet(), looking)

    return tuple(Screen(path, "Fleet", frame, live, acts) for path in ("/fleet", "/fleet/{item}"))


def frame(view: Overview, looking: Looking) -> str:
    """The whole page around the sections."""
    one = '<section class="panel" aria-label="The edge" id="edge"></section>' if looking.item else ""
    main = (
        f'<div class="grid w11">{one}<section class="panel" aria-label="Relay tree" id="tree"></section>'
        '<section class="panel" aria-label="Invitations" id="invites"></section></div>'
        '<section class="panel below" aria-label="Edges" id="edges"></section>'
    )
    return page(view, who=looking.name, role=looking.role, here="/fleet", main=main)


def sections(view: FleetView, looking: Looking) -> dict[str, str]:
    """Every part of the screen by the id of its element."""
    own = next((i for i in view.invitations if i.who == looking.name), None)
    return {
        "answer": answer(view, looking),
        "edge": _edge(view, looking),
        "tree": _tree(view, looking),
        "invites": _invites(view, looking),
        "edges": _edges(view, looking),
        "invite-steps": _steps(own) if own is not None else "",  # of the dialog, while it is open
    }


def answer(view: FleetView, looking: Looking) -> str:
    """One sentence of how many are connected, and who needs something."""
    acts = parts.button(looking, Act.EDGES, "Invite an edge", "ask-invite", kind="primary")
    if not view.edges:
        return parts.answer("No edge has joined yet.", "An edge joins with a token that works once.", acts)
    here = sum(e.state != "silent" for e in view.edges)
    words = f"{here:,} of {count(len(view.edges), 'edge')} {'is' if here == 1 else 'are'} connected."
    needy = [e for e in view.edges if e.need]
    if needy:
        first, *others = needy
        words += f" {_needs(first)}."
        names = ", ".join(e.name for e in others[:NAMED])
        more = f" and {len(others) - NAMED:,} more" if len(others) > NAMED else ""
        words += f" {names}{more} {'needs' if len(others) == 1 else 'need'} something, too." if others else ""
    else:
        words += " None needs anything."
    figure, unit = rate(sum(e.per_s for e in view.edges))
    arrive = f"{figure} {unit}".replace(" /", "/")
    soon = min((e for e in view.edges), key=lambda e: e.certificate_us)
    left = _left(soon, view.now_us)
    waiting = count(sum(e.spooled for e in view.edges), "waits", "wait")
    sub = f"{arrive} observations arrive; {waiting} at edges. The first certificate to end is {soon.name}'s: {left}."
    return parts.answer(words, sub, acts)


def _needs(edge: FleetEdge) -> str:
    """What one edge needs, with its name, which the title of an alert often has."""
    told = edge.need.removesuffix(".")
    return told if edge.priority is not None and edge.name in told else f"{edge.name}: {told.replace(': ', ', ')}"


def _left(edge: FleetEdge, now_us: int) -> str:
    seconds = (edge.certificate_us - now_us) / 1e6
    return f"{duration(seconds)} left" if seconds > 0 else "it has ended"


def _seen(edge: FleetEdge, now_us: int) -> str:
    if not edge.seen_us:
        return UNKNOWN
    return f"{duration(max(0.0, (now_us - edge.seen_us) / 1e6))} ago"


def _link(edge: FleetEdge) -> str:
    if edge.drain == "off":
        return f"{parts.cross(13)} drained, away"
    if edge.state == "silent":
        return f"{parts.cross(13)} silent"
    if edge.state == "set-aside":
        return f"{pictures.mark('medium', 13)} set aside"
    return f"{pictures.tick(13)} connected"


def _spool(edge: FleetEdge) -> str:
    return f"{edge.spooled:,}" if edge.told else UNKNOWN


def _machine(edge: FleetEdge) -> str:
    if not edge.machine:
        return UNKNOWN
    battery = f"{edge.battery:.0f} %, " if edge.battery is not None else ""
    return safe(battery + edge.machine)


def _alerts(edge: FleetEdge) -> str:
    if edge.priority is None:
        return '<span class="dim">none</span>'
    return f"{pictures.mark(edge.priority, 15)} {edge.alerts:,}"


def _table(looking: Looking, now_us: int) -> Table[FleetEdge]:
    def name(edge: FleetEdge) -> str:
        return f'<a class="b" href="/fleet/{safe(edge.name)}">{safe(edge.name)}</a>'

    def need(edge: FleetEdge) -> str:
        return f'<span class="need">{safe(edge.need)}</span>' if edge.need else '<span class="dim">as expected</span>'

    def revoke(edge: FleetEdge) -> str:
        own = (("edge", edge.name),)
        drain = ("Use again", "undrain") if edge.drain else ("Drain", "ask-drain")
        return " ".join(
            parts.button(looking, Act.EDGES, words, act, kind="small", facts=own)
            for words, act in (drain, ("Revoke", "ask-revoke"))
        )

    columns: tuple[Column[FleetEdge], ...] = (
        Column("name", "Edge", name, lambda e: e.name),
        Column("need", "Needs", need, lambda e: (e.urgency, e.name)),
        Column("link", "Link", _link, lambda e: (e.state != "silent", e.state, e.name)),
        Column("seen", "Last seen", lambda e: _seen(e, now_us), lambda e: e.seen_us),
        Column("certificate", "Certificate", lambda e: safe(_left(e, now_us)), lambda e: e.certificate_us),
        Column("spool", "Spool", _spool, lambda e: e.spooled, right=True),
        Column("machine", "Battery, machine", _machine, lambda e: e.battery if e.battery is not None else 101.0),
        Column("model", "Model", lambda e: safe(e.model) or '<span class="dim">none yet</span>', lambda e: e.model),
        Column("alerts", "Alerts", _alerts, lambda e: -e.alerts, right=True),
        Column("act", "Act", revoke),
    )
    return Table("edges", columns, lambda e: e.name, "edge", rows=ROWS_BESIDE if looking.item else ROWS)


def _edges(view: FleetView, looking: Looking) -> str:
    head = parts.head("Edges", "those that need something first")
    if not view.edges:
        return head + parts.empty("No edge has joined", "Invite one here, or at the hub's machine:", INVITE)
    return head + _table(looking, view.now_us).html(looking, view.edges)


def _edge(view: FleetView, looking: Looking) -> str:
    """The edge that the address names."""
    if not looking.item:
        return ""
    edge = next((e for e in view.edges if e.name == looking.item), None)
    if edge is None:
        told = "It has not joined, or was revoked. An edge that was revoked comes back with a new invitation."
        return parts.head("Edge") + parts.error(f"There is no edge {looking.item}.", told, "wardround hub edges")
    facts = (
        ("Needs", safe(edge.need) or "nothing"),
        ("Link", f"{_link(edge)}, last seen {_seen(edge, view.now_us)}"),
        *((("Drained", safe(edge.drain_words)),) if edge.drain else ()),
        ("Joined", f"{day_clock(edge.joined_us)} UTC"),
        ("Certificate", f"{day_clock(edge.certificate_us)} UTC, {_left(edge, view.now_us)}"),
        ("Spool", f"{count(edge.spooled, 'observation')}, {edge.spool_bytes / 1e6:,.1f} MB" if edge.told else UNKNOWN),
        ("Machine", _machine(edge)),
        ("Models", f"{safe(edge.model) or 'none yet'}, from {safe(edge.via or 'the hub')}"),
        ("Alerts", f'{_alerts(edge)} <a class="link" href="/alerts">Alerts</a>' if edge.alerts else "none"),
    )
    rows = "".join(f'<dt class="dim">{title}</dt><dd>{told}</dd>' for title, told in facts)
    back = '<a class="link" href="/fleet">Close</a>'
    return f'{parts.head(edge.name, "", back)}<div class="body"><dl class="bars">{rows}</dl></div>'


# -- how models reach the edges


def _tree(view: FleetView, looking: Looking) -> str:
    head = parts.head("Who passes models to whom", view.study)
    if not view.tree:
        return head + parts.empty(
            "No study runs", "With one, models go from the hub to edges, and from relays on.", "wardround study start"
        )
    below: dict[str, list[Branch]] = {}
    for branch in view.tree:
        below.setdefault(branch.above, []).append(branch)
    opened = looking.params.get("open", "")
    drawn = _below("", below, looking, opened, fold=len(view.tree) > FOLD_FROM)
    return f'{head}<div class="body fleet-tree"><b>hub</b>{drawn}</div>'


def _below(above: str, below: dict[str, list[Branch]], looking: Looking, opened: str, *, fold: bool) -> str:
    """Those that get models from one place. Folded, it draws relays, and one line for each place's other edges."""
    own = below.get(above, [])
    away = sum(not b.attached for b in own)
    leaves = [b for b in own if b.name not in below]
    folded = fold and len(leaves) > 1 and opened != (above or "hub")
    shown = [b for b in own if b.name in below or not folded][:SHOWN_BELOW]
    lines = ""
    for branch in shown:
        sign = pictures.tick(13) if branch.attached else parts.cross(13)
        gone = "" if branch.attached else ' <span class="dim">away</span>'
        relay = ' <span class="tag">relay</span>' if branch.name in below else ""
        rest = _below(branch.name, below, looking, opened, fold=fold) if branch.name in below else ""
        lines += f'<li data-key="{safe(branch.name)}">{sign} {safe(branch.name)}{relay}{gone}{rest}</li>'
    if folded:
        told = count(len(leaves), "edge") + (f", {away:,} away" if away else "")
        address = looking.link({"open": above or "hub"})
        lines += f'<li data-key="folded"><a class="link" href="{safe(address)}">{told}, show</a></li>'
    elif len(own) > len(shown):
        lines += f'<li data-key="more" class="dim">and {len(own) - len(shown):,} more: the table has them all</li>'
    return f"<ul>{lines}</ul>" if lines else ""


# -- who may come in


def _steps(one: Invitation) -> str:
    told = ""
    for step in one.steps:
        sign = pictures.tick() if step.state == "done" else '<i class="ring"></i>'
        title = f'<span><b class="m">{safe(step.title)}</b></span>'
        told += f'<li class="{safe(step.state)}">{sign}{title}<span class="dim">{safe(step.state)}</span></li>'
    return f'<ul class="steps-list">{told}</ul>'


def _invites(view: FleetView, looking: Looking) -> str:
    head = parts.head("Invitations", "made at this console since the hub started")
    if not view.invitations:
        more = "" if looking.may(Act.EDGES) else parts.no_permission(looking, Act.EDGES, "You cannot invite an edge.")
        told = "A new edge joins with a token that works once, for 15 minutes. At the hub's machine:"
        return head + parts.empty("Nobody is invited", told, INVITE) + more
    shown = ""
    for one in view.invitations[:INVITATIONS_SHOWN]:
        end = "its token holds no more" if one.over else f"its token holds until {clock(one.until_us)} UTC"
        end = "has joined" if all(s.state == "done" for s in one.steps) else end
        shown += (
            f'<div class="body" data-key="{safe(one.edge)}-{one.until_us}"><p><b>{safe(one.edge)}</b> <span class="dim">{end}, '
            f"by {safe(one.who)}</span></p>{_steps(one)}</div>"
        )
    return head + shown


def invite_dialog() -> str:
    """Before an invitation: the edge's name."""
    field = (
        '<label class="field">Name of the edge: a-z, 0-9 and -<input name="edge" required maxlength="63" autocomplete="off" '
        'autocapitalize="off" spellcheck="false"></label>'
    )
    lines = ("Whoever has the token may join as this edge, once.", "It holds for 15 minutes. The edge makes its own key.")
    return parts.confirm(
        title="Invite an edge?",
        detail="The hub makes a token for one name.",
        consequences=lines,
        keep="Invite nobody",
        do="Make the token",
        act="invite",
        fields=field,
    )


def token_dialog(edge: str, token: str, steps: str) -> str:
    """The one time that a token is shown, with what becomes of it."""
    return (
        f'<h2 id="ask-title">Invite {safe(edge)}</h2><p class="mid s13">Run this on the edge, and paste the token when it asks. '
        f"The token is shown now and never again.</p>{parts.to_copy('wardround edge join -')}{parts.to_copy(token)}"
        f'<div id="invite-steps">{steps}</div><div class="acts"><button class="btn primary" data-act="close">Done</button></div>'
    )


def revoke_dialog(edge: FleetEdge) -> str:
    """Before an edge is shut out: what will happen, and its name typed."""
    waits = f"What waits there ({count(edge.spooled, 'observation')})" if edge.spooled else "What it collects from now on"
    lines = (
        "Its open connections end within two seconds, and its certificate opens nothing any more.",
        f"{waits} stays at the edge: the hub does not get it unless the edge joins again.",
        "It leaves every study from the next round on. What it gave to models stays in them.",
        "Nothing is deleted at the edge. It comes back only with a new invitation.",
    )
    return parts.confirm(
        title=f"Revoke {edge.name}?",
        detail="For an edge that is lost, stolen, or not to be trusted any more.",
        consequences=lines,
        keep="Keep the edge",
        do=f"Revoke {edge.name}",
        act="revoke",
        facts=(("edge", edge.name),),
        typed=edge.name,
        danger=True,
    )


def drain_dialog(edge: FleetEdge) -> str:
    """Before an edge gets no more work: what will happen."""
    waits = f"what waits in its spool ({count(edge.spooled, 'observation')})" if edge.spooled else "what waits in its spool"
    lines = (
        "It gets no new work. A round that it takes part in is waited for; studies go on without it from the next one on.",
        f"It goes on measuring, and sends {waits}.",
        "This screen says when it is safe to switch it off; its silence is no alert then.",
        "Nothing is deleted. It is used again when you say so, here or with `wardround edge drain NAME --undo`.",
    )
    return parts.confirm(
        title=f"Drain {edge.name}?",
        detail="For an edge that is to be switched off, moved or mended.",
        consequences=lines,
        keep="Go on using it",
        do=f"Drain {edge.name}",
        act="drain",
        facts=(("edge", edge.name),),
    )


def _acts(desk: FleetDesk) -> dict[str, OnAct]:
    def ask_invite(_: Facts, looking: Looking) -> Reply:
        desk.ask(looking.name)
        return Reply(dialog=invite_dialog())

    def invite(facts: Facts, looking: Looking) -> Reply:
        edge = facts.get("edge", "")
        token = desk.invite(edge, looking.name)
        own = next((i for i in desk.fleet().invitations if i.who == looking.name and i.edge == edge), None)
        return Reply(dialog=token_dialog(edge, token, _steps(own) if own is not None else ""))

    def ask_revoke(facts: Facts, looking: Looking) -> Reply:
        desk.ask(looking.name)
        found = next((e for e in desk.fleet().edges if e.name == facts.get("edge", "")), None)
        return Reply(toast="There is no such edge any more.") if found is None else Reply(dialog=revoke_dialog(found))

    def revoke(facts: Facts, looking: Looking) -> Reply:
        edge = facts.get("edge", "")
        desk.ask(looking.name)
        if facts.get("typed", "") != edge:
            return Reply(toast=f"Nothing was done: the name of {edge} was not typed.")
        desk.revoke(edge, looking.name)
        return Reply(toast=f"{edge} is revoked. It comes back only with a new invitation.")

    def ask_drain(facts: Facts, looking: Looking) -> Reply:
        desk.ask(looking.name)
        found = next((e for e in desk.fleet().edges if e.name == facts.get("edge", "")), None)
        return Reply(toast="There is no such edge any more.") if found is None else Reply(dialog=drain_dialog(found))

    def drain(facts: Facts, looking: Looking) -> Reply:
        return Reply(toast=desk.drain(facts.get("edge", ""), looking.name))

    def undrain(facts: Facts, looking: Looking) -> Reply:
        return Reply(toast=desk.undrain(facts.get("edge", ""), looking.name))

    return {
        "ask-invite": ask_invite,
        "invite": invite,
        "ask-revoke": ask_revoke,
        "revoke": revoke,
        "ask-drain": ask_drain,
        "drain": drain,
        "undrain": undrain,
    }
