"""The read model of the Alerts screen: every alert as a row, one of them whole, silences, and the load that alerts are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from wardround.console.model import Priority

Group = Literal["now", "handled", "wait", "resolved"]


@dataclass(frozen=True, slots=True)
class AlertRow:
    """One line of the inbox. `where` is its edge, device and study in words, `response` what was done by itself."""

    alert_id: str
    title: str
    where: str
    category: str
    priority: Priority
    group: Group
    state: str
    since_us: int
    response: str = ""
    acknowledged_by: str = ""
    silenced: bool = False
    escalates_us: int = 0


@dataclass(frozen=True, slots=True)
class SilenceView:
    """Nobody is told of some alerts until a time."""

    silence_id: str
    words: str
    until_us: int
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoadView:
    """The alarm load of one category over seven days. None: nobody has said, or nobody has answered."""

    category: str
    alerts: int
    acknowledged: float | None
    answer_s: float | None
    judged: int
    actionable: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an alert's life."""

    t_us: int
    what: str
    who: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class AlertDetail:
    """One alert whole. `evidence` is (x, value), x a time in microseconds where `by_time`, else a round."""

    row: AlertRow
    kind: str
    labels: tuple[tuple[str, str], ...]
    detected_us: int
    raised_us: int
    detail: str
    evidence: tuple[tuple[float, float], ...] = ()
    evidence_unit: str = ""
    threshold: float | None = None
    by_time: bool = False
    impact: str = ""
    causes: tuple[str, ...] = ()
    action: str = ""
    notes: tuple[str, ...] = ()
    history: tuple[Step, ...] = ()
    times: int = 1
    flapping: bool = False
    explained_by: str = ""
    silence: SilenceView | None = None
    actionable: bool | None = None
    response_until: str = ""
    undone_by: str = ""
    undo_reason: str = ""
    undo_title: str = ""
    related: tuple[tuple[str, str], ...] = ()  # of the same edge: number and title


@dataclass(frozen=True, slots=True)
class AlertsView:
    """Every alert that is known, who needs a person first, then what is resolved, newest first."""

    now_us: int
    rows: tuple[AlertRow, ...] = ()
    silences: tuple[SilenceView, ...] = ()
    load: tuple[LoadView, ...] = field(default=())


class AlertsDesk(Protocol):
    """What the screen asks of the hub. Every act asks for the person's role again, and stands in the audit log."""

    def alerts(self) -> AlertsView:
        """The newest read model."""

    def alert(self, alert_id: str) -> AlertDetail | None:
        """One alert whole; None: there is none of this number."""

    def silence(self, alert_id: str, who: str, minutes: int, reason: str) -> SilenceView:
        """Tell nobody of this cause for a while. Raises NotAllowed, WardroundError."""

    def unsilence(self, silence_id: str, who: str) -> None:
        """End a silence now. Raises NotAllowed, WardroundError."""

    def judge(self, alert_id: str, who: str, *, actionable: bool) -> None:
        """Say whether it needed something done. Raises NotAllowed, WardroundError."""
