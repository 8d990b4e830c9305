"""What a sensor that has died or stopped is to people: a technical finding, the same words at the hub and at an edge."""

from __future__ import annotations

from collections.abc import Callable

from wardround.watch.alerts import Finding, Response
from wardround.watch.detectors.sensors import SensorChange

_SENSOR = {  # kind, and how its title ends
    "flat": ("sensor-dead", "is a flat line"),
    "silent": ("signal-silent", "has stopped"),
    "device": ("device-silent", "has stopped"),
}
_FAILED = ("an electrode or cable is off", "the sensor has failed", "the device is worn wrongly")
_GONE = ("its battery is empty or it is switched off", "it is out of reach of its edge", "the patient was discharged")
FLAGGED = Response(what="flagged as a flat line, left out of windows", person_too=True)


def sensor_fingerprint(change: SensorChange) -> str:
    """Of the alert that a change is about."""
    kind, _ = _SENSOR[change.what]
    return "|".join((kind, change.edge, change.device, change.code, ""))


def sensor_finding(change: SensorChange, signal_title: Callable[[str], str], now_us: int) -> Finding:
    """What has begun; `signal_title(code)` names a signal."""
    kind, ends = _SENSOR[change.what]
    flat, whole = change.what == "flat", change.what == "device"
    of = "" if whole else f"{signal_title(change.code)} of "
    return Finding(
        kind=kind,
        title=f"{of}{change.device} at {change.edge} {ends}",
        title_out=f"{of or 'All signals of '}a device at {change.edge} {ends if of else 'have stopped'}",
        priority="medium",
        category="technical",
        since_us=change.since_us,
        detected_us=now_us,
        edge=change.edge,
        device=change.device,
        signal=change.code,
        detail=f"{'No change' if flat else 'Nothing'} for {change.seconds:.0f} s; "
        + ("its edge goes on." if whole else "the device sends its other signals."),
        impact="Nothing of it is seen." if whole else "These stretches are flagged and train nothing.",
        causes=_GONE if whole else _FAILED,
        action=f"Have {change.device} at {change.edge} looked at.",
    )
