"""What leaves the hub about an alert: what, where, how urgent, what to do. Not about whom, and no value of a patient.

An alert about a patient (`physiological`) leaves as its edge, its priority and its number: who may see more signs in. A device
leaves as "a device": people name devices, and some after their patients. The alert's number leads to its name.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wardround.watch.alerts import Alert, Priority

NOTE = "Decision support; do not rely on it as a primary alarm."
WATCHDOG = "watchdog"


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One state of one alert, as it leaves. The same state always has the same id, also after a crash and a restart.

    `numbered`: nothing else that leaves tells it from others of its kind, edge and study, as two patients or two devices.
    """

    message_id: str
    alert_id: str
    state: str
    kind: str
    title: str
    priority: Priority
    category: str
    edge: str
    study: str
    since_us: int
    raised_us: int
    changed_us: int
    level: int
    flapping: bool
    response: str
    action: str
    runbook: str
    job: str = ""
    numbered: bool = False


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where messages come from; `console` is the address people open, empty when none is known."""

    hub: str
    site: str
    simulated: bool = False
    console: str = ""


def message(alert: Alert) -> Message:
    """The message of an alert as it stands."""
    finding, private = alert.finding, alert.finding.category == "physiological"
    where = finding.edge or "an edge"
    title, action = finding.title, finding.action
    if private:
        title, action = f"A patient at {where} should be looked at", _look(alert)
    elif finding.device:
        title = finding.title_out or f"A device at {where} should be looked at"
        action = f"Have the device looked at. Its name: `wardround alert show {alert.alert_id}`, with `edge alerts` at an edge."
    return Message(
        message_id=f"{alert.alert_id}-{alert.changed_us}",
        alert_id=alert.alert_id,
        state=alert.state.value,
        kind="bedside" if private else finding.kind,
        title=title,
        priority=finding.priority,
        category=finding.category,
        edge=finding.edge,
        study=finding.study,
        since_us=finding.since_us,
        raised_us=alert.raised_us,
        changed_us=alert.changed_us,
        level=alert.level,
        flapping=alert.flapping,
        response="" if private or alert.response is None else alert.response.what,
        action=action,
        runbook=f"docs/runbooks.md#{'bedside' if private else finding.kind}",
        job=finding.job,
        numbered=bool(finding.subject or finding.device or finding.signal),
    )


def _look(alert: Alert) -> str:
    """Where to see whom it is about: at the edge that raised it."""
    return f"Look at the patient: at {alert.finding.edge or 'the edge'}, `wardround edge alerts show {alert.alert_id}`."


def subject(messages: Sequence[Message]) -> str:
    """One line for people, for one or several messages."""
    first = messages[0]
    over = "" if first.state != "resolved" else "Resolved: "
    more = f" (and {len(messages) - 1} more)" if len(messages) > 1 else ""
    line = f"[{first.priority}] {over}{first.title}{more}"
    return "".join(c if c.isprintable() else " " for c in line)  # a line break would end a mail's header


def body(messages: Sequence[Message], origin: Origin) -> dict[str, object]:
    """The JSON of a webhook."""
    return {
        "id": messages[0].message_id,
        "subject": subject(messages),
        "alerts": [msgspec.to_builtins(m) for m in messages],
        "origin": msgspec.to_builtins(origin),
        "note": NOTE,
    }


def text(messages: Sequence[Message], origin: Origin) -> str:
    """The same for people, as plain text."""
    lines = [f"{origin.site} ({origin.hub}){', SIMULATED' if origin.simulated else ''}", ""]
    for m in messages:
        facts = [m.state, f"priority {m.priority}", *([m.edge] if m.edge else []), *([f"study {m.study}"] if m.study else [])]
        lines += [f"{m.alert_id}  {m.title}", f"  {', '.join(facts)}"]
        if m.level:
            lines.append(f"  nobody has acknowledged it: escalated, level {m.level}")
        lines += [f"  done: {m.response}"] if m.response else []
        lines += [f"  to do: {m.action}"] if m.action and m.state != "resolved" else []
        lines += [f"  see {m.runbook}", ""]
    if origin.console:
        lines.append(origin.console)
    return "\n".join([*lines, NOTE, ""])
