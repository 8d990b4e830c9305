"""`wardround alert`, and `wardround edge alerts`: what is wrong, what was done about it, who is told of it."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.alert_places import HubAlerts, alerts_of, shown_rows
from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock, utc
from wardround.errors import WardroundError

SPAN = re.compile(r"(\d{1,6})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
BARS = "▁▂▃▄▅▆▇█"
ALERTS_MAX = 5_000
LISTED_MAX = 500
_JUDGED = {True: "it needed something done", False: "it needed nothing done", None: ""}
NOTE = "Decision support; not a primary alarm."
LABELS = ("edge", "device", "signal", "study", "job")

app = typer.Typer(no_args_is_help=True, help="Alerts: one for each cause, what was done about it, and who is told.")
Id = Annotated[str, typer.Argument(help="The alert, as `list` names it: A-0007, or B-0007 at an edge.")]
Why = Annotated[str, typer.Option(help="Why; it is kept with the alert.")]
Needed = Annotated[bool | None, typer.Option("--actionable/--not-actionable", help="Whether it needed something done.")]


@app.command("list")
def list_alerts(
    home: Home = DEFAULT_HOME,
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """List alerts, newest first: how urgent, since when, what was done, whether it is silenced or explained by another."""
    place = alerts_of(home)
    bodies = [b for b in place.bodies(LISTED_MAX) if everything or b["state"] != "resolved"]
    if as_json:
        typer.echo(json.dumps([dict(b) for b in bodies], indent=2))
        return
    if not bodies:
        typer.echo("Nothing is wrong that Wardround knows of.")
        return
    patients = place.patients()
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "priority", "what", *(["patient"] if patients else []), "since", "state", "what was done"):
        table.add_column(heading)
    for body in bodies:
        finding, response = body["finding"], body.get("response") or {}
        done = f"{response.get('what', '')} {response.get('until', '')}".strip()
        since = f"{utc(finding['since_us']):%d %b %H:%M:%S} UTC"
        whom = [patients.get(finding.get("subject", ""), "")] if patients else []
        table.add_row(body["alert_id"], finding["priority"], finding["title"], *whom, since, _standing(body), done)
    Console(markup=False).print(table)


@app.command()
def show(alert: Id, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show one alert whole: evidence, what it means, likely causes, what to do, what was done and how to undo it, history."""
    place = alerts_of(home)
    body = next((b for b in place.bodies(ALERTS_MAX) if b["alert_id"] == alert), None)
    if body is None:
        raise WardroundError(f"there is no alert {alert!r}", remedy=f"`{place.command} list --all` names them")
    if as_json:
        typer.echo(json.dumps(dict(body), indent=2))
        return
    finding, response = body["finding"], body.get("response")
    typer.echo(f"{alert}  {finding['title']}")
    whom = place.patients().get(finding.get("subject", ""), "")
    rows = [
        ("state", f"{_standing(body)}, priority {finding['priority']}, {finding['category']}"),
        ("patient", f"{whom or 'not registered here any more'} ({finding['subject']})" if finding.get("subject") else ""),
        ("where", "  ".join(f"{k} {finding[k]}" for k in LABELS if finding.get(k))),
        ("since", f"{utc(finding['since_us']):%Y-%m-%d %H:%M:%S} UTC, seen {utc(finding['detected_us']):%H:%M:%S}"),
        ("what", finding.get("detail", "")),
        ("evidence", _evidence(finding)),
        ("noted", "; ".join(body.get("notes", ()))),
        ("means", finding.get("impact", "")),
        ("likely", "; ".join(finding.get("causes", ()))),
        ("to do", finding.get("action", "")),
        ("done", f"{response['what']} {response.get('until', '')}".strip() if response else ""),
        ("undo", f"{place.command} undo {alert}" if response and response.get("undo") and not response.get("undone_us") else ""),
        ("judged", _JUDGED[body.get("actionable")]),
        ("runbook", f"docs/runbooks.md#{finding['kind']}"),
    ]
    for name, text in rows:
        if text:
            typer.echo(f"  {name:9}{text}")
    for step in body.get("history", ()):
        who = " ".join(part for part in (f"by {step['who']}" if step.get("who") else "", step.get("why", "")) if part)
        typer.echo(f"  {utc(step['t_us']):%d %b %H:%M:%S}  {step['what']}  {who}".rstrip())
    typer.echo(NOTE)


@app.command()
def ack(alert: Id, actionable: Needed = None, home: Home = DEFAULT_HOME) -> None:
    """Say that you are on it: nobody else is woken, and it is not escalated. It stays open until its cause has gone."""
    typer.echo(ask(home, "acknowledge", {"alert": alert, "actionable": actionable}))


@app.command()
def judge(alert: Id, actionable: Needed = None, home: Home = DEFAULT_HOME) -> None:
    """Say whether an alert needed something done, also once it is over: `load` shows how many do. Nobody is told of it."""
    if actionable is None:
        raise WardroundError("nothing is said of it", remedy="give --actionable or --not-actionable")
    typer.echo(ask(home, "judge", {"alert": alert, "actionable": actionable}))


@app.command()
def undo(alert: Id, reason: Why = "", home: Home = DEFAULT_HOME) -> None:
    """Undo what Wardround did about an alert, such as setting an edge aside."""
    typer.echo(ask(home, "undo", {"alert": alert, "reason": reason}))


@app.command()
def silence(
    labels: Annotated[
        list[str], typer.Argument(help="kind=, edge=, device=, signal=, study=, job= or subject= with a pattern: edge=icu-*")
    ],
    span: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 3d.")] = "2h",
    reason: Why = "",
    home: Home = DEFAULT_HOME,
) -> None:
    """Tell nobody of the alerts that fit all of these labels, for a while. They stay in the list and in the console.

    \b
    wardround alert silence edge=icu-a --for 2h --reason "power works on the ward"
    """
    matchers = dict(label.partition("=")[::2] for label in labels)
    until_us = SystemClock().now_us() + _seconds(span) * 1_000_000
    typer.echo(ask(home, "silence", {"matchers": matchers, "until_us": until_us, "reason": reason}))


@app.command()
def unsilence(
    silence: Annotated[str, typer.Argument(help="The silence, as `silences` names it: S-0001.")], home: Home = DEFAULT_HOME
) -> None:
    """End a silence now."""
    typer.echo(ask(home, "unsilence", {"silence": silence}))


@app.command()
def silences(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List the silences that hold: what they keep quiet, until when, who made them and why."""
    found = shown_rows(alerts_of(home), "alert-silences")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo("Nothing is silenced.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "what", "until", "who", "why"):
        table.add_column(heading)
    for one in found:
        what = " ".join(f"{k}={v}" for k, v in one["matchers"].items())
        table.add_row(one["silence_id"], what, f"{utc(one['until_us']):%Y-%m-%d %H:%M} UTC", one["who"], one["reason"])
    Console(markup=False).print(table)


@app.command()
def sinks(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List where alerts go (`notify` in the settings): what waits there, what was delivered, and why a delivery fails."""
    place = alerts_of(home)
    found = shown_rows(place, "alert-sinks")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    if not found:
        typer.echo(f"No sink: alerts stay here. Add [[notify]] to {place.settings} (docs/alerts.md), and start it again.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("sink", "waiting", "delivered", "given up", "last", "failing"):
        table.add_column(heading)
    for name, state in found.items():
        last = f"{utc(state['last_us']):%d %b %H:%M:%S}" if state["last_us"] else "never"
        counts = (str(state["waiting"]), str(state["delivered"]), str(state["given_up"]))
        table.add_row(name, *counts, last, state["failing"] or "no")
    Console(markup=False).print(table)


@app.command("edges")
def at_edges(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List what is open at edges that watch their own patients and devices: how many, how urgent, which numbers.

    Of whom and why stands at the edge alone: `wardround edge alerts show B-0003` there. As each edge last said; one that is
    silent may have more.
    """
    found = shown_rows(alerts_of(home), "edge-alerts")
    if as_json:
        typer.echo(json.dumps(found or {}, indent=2))
        return
    if not found:
        typer.echo("No edge has told of an alert of its own.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("edge", "about", "priority", "state", "alerts", "numbers"):
        table.add_column(heading)
    for edge, alerts in sorted(found.items()):
        groups: dict[tuple[str, str, str], list[str]] = {}
        for one in alerts:
            groups.setdefault((one["category"], one["priority"], one["state"]), []).append(one["alert_id"])
        for (category, priority, state), numbers in groups.items():
            about = "a patient" if category == "physiological" else "a device or the edge"
            table.add_row(edge, about, priority, state, str(len(numbers)), " ".join(numbers[:10]))
    Console(markup=False).print(table)


@app.command("test")
def try_sinks(home: Home = DEFAULT_HOME) -> None:
    """Send every sink a message that says that it is a test; `sinks` shows whether it was taken."""
    typer.echo(ask(home, "test", {}))


@app.command()
def load(
    span: Annotated[str, typer.Option("--last", help="How far back: 24h, 7d, 90d.")] = "7d",
    home: Home = DEFAULT_HOME,
    as_json: AsJson = False,
) -> None:
    """The alarm load: alerts for each patient and day, how many were acknowledged and how soon, how many needed something done.

    Technical alerts and those about patients are counted apart. "Actionable" is of the alerts that somebody has judged.
    """
    import msgspec  # noqa: PLC0415

    from wardround.watch.alarm_load import alarm_load  # noqa: PLC0415
    from wardround.watch.alerts import Alert  # noqa: PLC0415

    place, until_us = alerts_of(home), SystemClock().now_us()
    since_us = until_us - _seconds(span) * 1_000_000
    days = place.patient_days(since_us, until_us)
    alerts = [msgspec.convert(b, Alert) for b in place.bodies(ALERTS_MAX)]
    rows = alarm_load(alerts, since_us=since_us, until_us=until_us, patient_days=days)
    if as_json:
        typer.echo(json.dumps({"patient_days": days, "rows": msgspec.to_builtins(rows)}, indent=2))
        return
    if not rows:
        typer.echo(f"No alert in the last {span}; {days:.2f} patient days were watched.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("category", "kind", "alerts", "a patient day", "acknowledged", "after", "judged", "actionable"):
        table.add_column(heading)
    for row in rows:
        table.add_row(
            row.category if not row.kind else "",
            row.kind or "all",
            str(row.alerts),
            "-" if row.per_patient_day is None else f"{row.per_patient_day:.2f}",
            "-" if row.acknowledged is None else f"{row.acknowledged:.0%}",
            "-" if row.answer_s is None else f"{row.answer_s:.0f} s",
            str(row.judged),
            "-" if row.actionable is None else f"{row.actionable:.0%}",
        )
    Console(markup=False).print(table)
    typer.echo(f"{days:.2f} patient days were watched in the last {span}.")


def ask(home: Path, act: str, body: Mapping[str, Any], topic: str = "alerts") -> str:
    """Ask the running hub, or the running edge of its own alerts, and wait for the answer.

    Raises:
        WardroundError: none runs there, it refused, or it did not answer.
    """
    place = alerts_of(home)
    return (
        place.ask(act, body, getpass.getuser(), topic)
        if isinstance(place, HubAlerts)
        else place.ask(act, body, getpass.getuser())
    )


def _standing(body: Mapping[str, Any]) -> str:
    """The state, with what keeps people from being told of it."""
    more = [f"by {body['acknowledged_by']}"] if body.get("acknowledged_by") else []
    more += [f"silenced ({body['silenced_by']})"] if body.get("silenced_by") else []
    more += [f"explained by {body['inhibited_by']}"] if body.get("inhibited_by") else []
    more += [f"escalated, level {body['level']}"] if body.get("level") else []
    more += ["comes and goes"] if body.get("flapping") else []
    return ", ".join([body["state"], *more])


def _evidence(finding: Mapping[str, Any]) -> str:
    """A small chart of the series, with its last value and the threshold."""
    values = [float(v) for _, v in finding.get("evidence", ())]
    if not values:
        return ""
    low, high = min(values), max(values)
    step = (high - low) / (len(BARS) - 1) or 1.0
    chart = "".join(BARS[round((v - low) / step)] for v in values)
    limit = f", threshold {finding['threshold']:.3g}" if finding.get("threshold") is not None else ""
    return f"{chart}  {finding.get('evidence_unit', '')} {values[-1]:.3g}{limit}"


def _seconds(span: str) -> int:
    fits = SPAN.fullmatch(span)
    if fits is None or not int(fits[1]):
        raise WardroundError(f"{span!r} is no span of time", remedy="30m, 2h or 3d")
    return int(fits[1]) * SECONDS[fits[2]]
