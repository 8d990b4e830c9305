"""The alert book: one alert per cause, from raised to resolved. Pure: findings and times in, transitions out.

States and their order follow BICEPS and Prometheus practice: firing, acknowledged ("I am on it"), resolved; a cause that comes
back within the cool-down opens its old alert again, so a flapping one is one line. Priorities are those of IEC 60601-1-8.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Literal

import msgspec

COOL_DOWN_US = 600_000_000
ALERTS_MAX = 5_000
Priority = Literal["high", "medium", "low", "info"]
Category = Literal["technical", "physiological", "model", "security"]
_ORDER = {"high": 0, "medium": 1, "low": 2, "info": 3}


class State(StrEnum):
    """Where an alert stands."""

    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a detector saw. `kind` and the labels (edge, device, signal, study) are its fingerprint: one cause, one alert.

    `subject` is a pseudonym and stays inside the hub: no sink is given it.
    """

    kind: str
    title: str
    priority: Priority
    category: Category
    since_us: int  # first deviation
    detected_us: int
    edge: str = ""
    device: str = ""
    signal: str = ""
    study: str = ""
    subject: str = ""
    detail: str = ""
    evidence: tuple[tuple[float, float], ...] = ()  # (time or round, value)
    evidence_unit: str = ""
    threshold: float | None = None
    impact: str = ""
    causes: tuple[str, ...] = ()
    action: str = ""

    @property
    def fingerprint(self) -> str:
        """The same for the same cause."""
        return "|".join((self.kind, self.edge, self.device, self.signal, self.study))


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What Wardround did about an alert, and whether that was undone. `undo` names the command; empty: nothing to undo.

    `person_too`: what was done bounds the harm, and a person must still put it right.
    """

    what: str
    person_too: bool = False
    undo: str = ""
    until: str = ""
    undone_us: int = 0
    undone_by: str = ""
    reason: str = ""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One cause, as people see it."""

    alert_id: str
    state: State
    finding: Finding
    raised_us: int
    changed_us: int
    times: int = 1  # how often the cause was seen
    acknowledged_by: str = ""
    resolved_us: int = 0
    response: Response | None = None

    @property
    def open(self) -> bool:
        """Whether the cause is still there."""
        return self.state is not State.RESOLVED

    @property
    def handled(self) -> bool:
        """Whether Wardround has done what can be done without a person."""
        return self.response is not None and self.response.undone_us == 0 and not self.response.person_too


class _Saved(msgspec.Struct):
    number: int
    alerts: list[Alert]


class AlertBook:
    """All alerts that matter now, newest last."""

    def __init__(self) -> None:
        self._alerts: dict[str, Alert] = {}  # by id
        self._by_fingerprint: dict[str, str] = {}
        self._number = 0

    def raise_(self, finding: Finding, now_us: int, response: Response | None = None) -> Alert | None:
        """A cause was seen: the new or changed alert, or None when people already know."""
        known = self._alerts.get(self._by_fingerprint.get(finding.fingerprint, ""))
        if known is not None and known.open:
            # What was done first stays, unless it was undone since.
            changed = response is not None and (known.response is None or known.response.undone_us > 0)
            now = response if changed else known.response
            self._put(msgspec.structs.replace(known, times=known.times + 1, response=now), quiet=not changed)
            return self._alerts[known.alert_id] if changed else None
        if known is not None and now_us - known.resolved_us < COOL_DOWN_US:
            alert = msgspec.structs.replace(
                known,
                state=State.FIRING,
                finding=finding,
                changed_us=now_us,
                times=known.times + 1,
                resolved_us=0,
                acknowledged_by="",
                response=response or known.response,
            )
        else:
            self._number += 1
            alert = Alert(
                alert_id=f"A-{self._number:04d}",
                state=State.FIRING,
                finding=finding,
                raised_us=now_us,
                changed_us=now_us,
                response=response,
            )
        self._put(alert)
        return alert

    def clear(self, fingerprint: str, now_us: int) -> Alert | None:
        """The cause is gone: the resolved alert, or None when there was none open."""
        known = self._alerts.get(self._by_fingerprint.get(fingerprint, ""))
        if known is None or not known.open:
            return None
        return self._put(msgspec.structs.replace(known, state=State.RESOLVED, changed_us=now_us, resolved_us=now_us))

    def acknowledge(self, alert_id: str, who: str, now_us: int) -> Alert | None:
        """Someone is on it; None when there is no such open alert, or someone already is."""
        known = self._alerts.get(alert_id)
        if known is None or known.state is not State.FIRING:
            return None
        return self._put(msgspec.structs.replace(known, state=State.ACKNOWLEDGED, acknowledged_by=who, changed_us=now_us))

    def undone(self, alert_id: str, who: str, reason: str, now_us: int) -> Alert | None:
        """What was done about it was undone; None when there was nothing to undo."""
        known = self._alerts.get(alert_id)
        if known is None or known.response is None or not known.response.undo or known.response.undone_us:
            return None
        response = msgspec.structs.replace(known.response, undone_us=now_us, undone_by=who, reason=reason)
        return self._put(msgspec.structs.replace(known, response=response, changed_us=now_us))

    def get(self, alert_id: str) -> Alert | None:
        """An alert by its id."""
        return self._alerts.get(alert_id)

    def is_open(self, fingerprint: str) -> bool:
        """Whether people already know of this cause."""
        known = self._alerts.get(self._by_fingerprint.get(fingerprint, ""))
        return known is not None and known.open

    def alerts(self) -> list[Alert]:
        """Every alert, newest first."""
        return sorted(self._alerts.values(), key=lambda a: (-a.raised_us, a.alert_id))

    def open_alerts(self) -> list[Alert]:
        """What is open: who needs a person first, then by priority, then the oldest."""
        found = [a for a in self._alerts.values() if a.open]
        return sorted(found, key=lambda a: (a.handled, _ORDER[a.finding.priority], a.raised_us))

    def save(self) -> bytes:
        """The whole book."""
        return msgspec.json.encode(_Saved(self._number, list(self._alerts.values())))

    def restore(self, data: bytes) -> None:
        """Take up a saved book."""
        saved = msgspec.json.decode(data, type=_Saved)
        self._number = saved.number
        self._alerts = {a.alert_id: a for a in saved.alerts}
        self._by_fingerprint = {a.finding.fingerprint: a.alert_id for a in saved.alerts}

    def _put(self, alert: Alert, *, quiet: bool = False) -> Alert:
        if alert.alert_id not in self._alerts and len(self._alerts) >= ALERTS_MAX:
            oldest = next((a for a in self._alerts.values() if not a.open), next(iter(self._alerts.values())))
            del self._alerts[oldest.alert_id]
        self._alerts[alert.alert_id] = alert
        if not quiet:
            self._by_fingerprint[alert.finding.fingerprint] = alert.alert_id
        return alert


def needs_person(alerts: Iterable[Alert]) -> Sequence[Alert]:
    """Open, not handled, and of a priority that should not wait."""
    return [a for a in alerts if a.open and not a.handled and a.finding.priority in ("high", "medium")]
