"""`wardround edge alerts`: the alerts that an edge raises itself, with the commands of `wardround alert`, and what is ordered."""

from __future__ import annotations

import functools
import getpass
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from wardround.cli import alert
from wardround.cli.alert_places import EdgeAlerts
from wardround.cli.edge_status import DEFAULT_HOME, Home

app = typer.Typer(no_args_is_help=True, help="This edge's own alerts: patients, devices, certificates. No hub is needed.")


def _at_edge(command: Callable[..., Any]) -> Callable[..., None]:
    """The same command on an edge's home."""

    @functools.wraps(command)
    def at_edge(**values: object) -> None:
        command(**values)

    hints = {**get_type_hints(command, include_extras=True), "home": Home}
    own = []
    for parameter in inspect.signature(command).parameters.values():
        default = DEFAULT_HOME if parameter.name == "home" else parameter.default
        own.append(parameter.replace(default=default, annotation=hints[parameter.name]))
    at_edge.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]  # as inspect reads it
    at_edge.__annotations__ = hints
    return at_edge


COMMANDS: dict[str, Callable[..., Any]] = {
    "list": alert.list_alerts,
    "show": alert.show,
    "ack": alert.ack,
    "judge": alert.judge,
    "silence": alert.silence,
    "unsilence": alert.unsilence,
    "silences": alert.silences,
    "sinks": alert.sinks,
    "test": alert.try_sinks,
    "load": alert.load,
}
for name, command in COMMANDS.items():
    app.command(name)(_at_edge(command))


@app.command("scale")
def order_scale(
    patient: Annotated[str, typer.Argument(help="The patient, as devices are registered for.")],
    scale: Annotated[int, typer.Argument(help="1, or 2: saturation is scored against 88 to 92 %.", min=1, max=2)],
    home: Home = DEFAULT_HOME,
) -> None:
    """Order the scale of oxygen saturation for a patient's early warning score. It is a clinician's order.

    The second scale is for confirmed hypercapnic respiratory failure alone; on anybody else it hides that oxygen is short.
    """
    EdgeAlerts(home).order_scale(patient, scale, getpass.getuser())
    typer.echo(f"Oxygen saturation is scored on scale {scale} from the next minute on.")
