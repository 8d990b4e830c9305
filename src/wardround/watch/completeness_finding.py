"""The alert of a signal that comes with holes."""

from __future__ import annotations

from wardround.watch.alerts import Finding
from wardround.watch.detectors.completeness import Incomplete

KIND = "completeness"


def finding(found: Incomplete, title: str, now_us: int) -> Finding:
    """What people are told of it; `title` names the signal. No patient is named: the alert is at the hub, and may leave."""
    whom = "a patient" if found.low == 1 else f"{found.low} patients"
    return Finding(
        kind="completeness",
        title=f"{title} of {whom} at {found.edge} comes with holes",
        priority="low",
        category="technical",
        since_us=found.since_us,
        detected_us=now_us,
        edge=found.edge,
        signal=found.code,
        detail=f"{found.share:.0%} of the last hour came, usually {found.usual:.0%}; {found.low} of {found.patients} patients.",
        evidence=found.hours,
        evidence_unit="share of an hour",
        impact="Trends and predictions of these hours rest on less than they look.",
        causes=_many() if found.low > 1 and found.low * 2 >= found.patients else _one(),
        action="Whom: `wardround hub completeness`, or Completeness in the console. Look at electrode, battery and reach.",
    )


def _one() -> tuple[str, ...]:
    return ("a loose electrode or cable", "a device at the edge of its reach", "a battery that fades")


def _many() -> tuple[str, ...]:
    return ("the radio or the network of the ward", "a gateway under load", "devices of one kind after an update")
