"""`wardround alert`: what is wrong, what was done about it, who is told of it."""

from __future__ import annotations

import getpass
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wardround.cli.hub import DEFAULT_HOME, AsJson, Home
from wardround.clock import SystemClock, utc
from wardround.errors import WardroundError

if TYPE_CHECKING:
    from wardround.store import AlertRecord

ANSWER_S, LOOK_S = 30.0, 0.1
SPAN = re.compile(r"(\d{1,6})([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
BARS = "▁▂▃▄▅▆▇█"
NOTE = "Decision support; not a primary alarm."

app = typer.Typer(no_args_is_help=True, help="Alerts: one for each cause, what was done about it, and who is told.")
Id = Annotated[str, typer.Argument(help="The alert, as `alert list` names it: A-0007.")]
Why = Annotated[str, typer.Option(help="Why; it is kept with the alert.")]


@app.command("list")
def list_alerts(
    home: Home = DEFAULT_HOME,
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """List alerts, newest first: how urgent, since when, what was done, whether it is silenced or explained by another."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        alerts = [a for a in store.alerts() if everything or a.state != "resolved"]
    if as_json:
        typer.echo(json.dumps([dict(a.body) for a in alerts], indent=2))
        return
    if not alerts:
        typer.echo("Nothing is wrong that Wardround knows of.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "priority", "what", "since", "state", "what was done"):
        table.add_column(heading)
    for alert in alerts:
        finding, response = alert.body["finding"], alert.body.get("response") or {}
        done = f"{response.get('what', '')} {response.get('until', '')}".strip()
        since = f"{utc(finding['since_us']):%d %b %H:%M:%S} UTC"
        table.add_row(alert.alert_id, finding["priority"], finding["title"], since, _standing(alert), done)
    Console().print(table)


@app.command()
def show(alert: Id, home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """Show one alert whole: evidence, what it means, likely causes, what to do, what was done and how to undo it, history."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        found = next((a for a in store.alerts(limit=5_000) if a.alert_id == alert), None)
    if found is None:
        raise WardroundError(f"there is no alert {alert!r}", remedy="`wardround alert list --all` names them")
    if as_json:
        typer.echo(json.dumps(dict(found.body), indent=2))
        return
    finding, response = found.body["finding"], found.body.get("response")
    typer.echo(f"{found.alert_id}  {finding['title']}")
    rows = [
        ("state", f"{_standing(found)}, priority {finding['priority']}, {finding['category']}"),
        ("where", "  ".join(f"{k} {finding[k]}" for k in ("edge", "device", "signal", "study", "job") if finding.get(k))),
        ("since", f"{utc(finding['since_us']):%Y-%m-%d %H:%M:%S} UTC, seen {utc(finding['detected_us']):%H:%M:%S}"),
        ("what", finding.get("detail", "")),
        ("evidence", _evidence(finding)),
        ("means", finding.get("impact", "")),
        ("likely", "; ".join(finding.get("causes", ()))),
        ("to do", finding.get("action", "")),
        ("done", f"{response['what']} {response.get('until', '')}".strip() if response else ""),
        ("undo", f"wardround alert undo {alert}" if response and response.get("undo") and not response.get("undone_us") else ""),
        ("runbook", f"docs/runbooks.md#{finding['kind']}"),
    ]
    for name, text in rows:
        if text:
            typer.echo(f"  {name:9}{text}")
    for step in found.body.get("history", ()):
        who = " ".join(part for part in (f"by {step['who']}" if step.get("who") else "", step.get("why", "")) if part)
        typer.echo(f"  {utc(step['t_us']):%d %b %H:%M:%S}  {step['what']}  {who}".rstrip())
    typer.echo(NOTE)


@app.command()
def ack(alert: Id, home: Home = DEFAULT_HOME) -> None:
    """Say that you are on it: nobody else is woken, and it is not escalated. It stays open until its cause has gone."""
    typer.echo(ask(home, "acknowledge", {"alert": alert}))


@app.command()
def undo(alert: Id, reason: Why = "", home: Home = DEFAULT_HOME) -> None:
    """Undo what Wardround did about an alert, such as setting an edge aside."""
    typer.echo(ask(home, "undo", {"alert": alert, "reason": reason}))


@app.command()
def silence(
    labels: Annotated[
        list[str], typer.Argument(help="kind=, edge=, device=, signal=, study= or job= with a pattern: edge=icu-*")
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
    silence: Annotated[str, typer.Argument(help="The silence, as `alert silences` names it: S-0001.")], home: Home = DEFAULT_HOME
) -> None:
    """End a silence now."""
    typer.echo(ask(home, "unsilence", {"silence": silence}))


@app.command()
def silences(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List the silences that hold: what they keep quiet, until when, who made them and why."""
    found = _shown(home, "alert-silences", as_json=as_json)
    if found is None:
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
    Console().print(table)


@app.command()
def sinks(home: Home = DEFAULT_HOME, as_json: AsJson = False) -> None:
    """List where alerts go (`notify` in hub.toml): what waits there, what was delivered, and why a delivery fails."""
    found = _shown(home, "alert-sinks", as_json=as_json)
    if found is None:
        return
    if not found:
        typer.echo("No sink: alerts stay in the console. Add [[notify]] to hub.toml (docs/alerts.md), and start the hub again.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("sink", "waiting", "delivered", "given up", "last", "failing"):
        table.add_column(heading)
    for name, state in found.items():
        last = f"{utc(state['last_us']):%d %b %H:%M:%S}" if state["last_us"] else "never"
        counts = (str(state["waiting"]), str(state["delivered"]), str(state["given_up"]))
        table.add_row(name, *counts, last, state["failing"] or "no")
    Console().print(table)


@app.command("test")
def try_sinks(home: Home = DEFAULT_HOME) -> None:
    """Send every sink a message that says that it is a test; `alert sinks` shows whether it was taken."""
    typer.echo(ask(home, "test", {}))


def _shown(home: Path, key: str, *, as_json: bool) -> Any:
    """What a running hub last showed of its silences or sinks; None once it was printed as it is."""
    from wardround.store import opened  # noqa: PLC0415

    with opened(home / "hub.sqlite") as store:
        found = json.loads(store.load_state(key) or b"[]")
    if not as_json:
        return found
    typer.echo(json.dumps(found, indent=2))
    return None


def ask(home: Path, act: str, body: Mapping[str, Any], topic: str = "alerts") -> str:
    """Ask the running hub, and wait for its answer.

    Raises:
        WardroundError: no hub runs there, it refused, or it did not answer.
    """
    from wardround.processing import held, new_id  # noqa: PLC0415
    from wardround.store import Request, opened  # noqa: PLC0415

    if not held(home):
        raise WardroundError(f"no hub runs in {home}", remedy="start it with `wardround hub run`, or give its --home")
    clock = SystemClock()
    with opened(home / "hub.sqlite") as store:
        request = Request(new_id(clock), topic, act, body, getpass.getuser(), clock.now_us())
        store.put_request(request)
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            answered = store.request(request.request_id)
            if answered is not None and answered.state != "asked":
                if answered.state == "refused":
                    raise WardroundError(answered.answer, remedy="nothing has changed; `wardround alert list` shows what is open")
                return answered.answer
            time.sleep(LOOK_S)
    raise WardroundError(f"the hub has not answered in {ANSWER_S:.0f} s", remedy="look at its log")


def _standing(alert: AlertRecord) -> str:
    """The state, with what keeps people from being told of it."""
    body = alert.body
    more = [f"by {body['acknowledged_by']}"] if body.get("acknowledged_by") else []
    more += [f"silenced ({body['silenced_by']})"] if body.get("silenced_by") else []
    more += [f"explained by {body['inhibited_by']}"] if body.get("inhibited_by") else []
    more += [f"escalated, level {body['level']}"] if body.get("level") else []
    more += ["comes and goes"] if body.get("flapping") else []
    return ", ".join([alert.state, *more])


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
