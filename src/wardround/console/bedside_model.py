"""The read model of the Bedside screen: what is open at edges that watch their own patients and devices, and the load it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from wardround.console.model import Priority


@dataclass(frozen=True, slots=True)
class BedsideRow:
    """One alert that is open at an edge. `subject` and what follows are empty where consent keeps that at the edge.

    `stale`: the edge is silent, and said so last. `acknowledges`: the edge lets people at the hub say that they are on it.
    """

    edge: str
    alert_id: str
    priority: Priority
    category: str
    state: str
    stale: bool = False
    acknowledges: bool = False
    subject: str = ""
    title: str = ""
    since_us: int = 0
    news2: int | None = None
    acknowledged_by: str = ""

    @property
    def about_patient(self) -> bool:
        """Whether it is about a patient; else it is about a device, or the edge."""
        return self.category == "physiological"

    @property
    def needs_person(self) -> bool:
        """Whether nobody is on it, and it should not wait."""
        return self.state == "firing" and self.priority in ("high", "medium")


@dataclass(frozen=True, slots=True)
class BedsideLoad:
    """The alarm load of one edge over seven days, of one category. None: there is nothing to share, or nobody has judged."""

    edge: str
    category: str
    alerts: int
    per_patient_day: float | None
    acknowledged: float | None
    answer_s: float | None
    judged: int
    actionable: float | None


@dataclass(frozen=True, slots=True)
class BedsideView:
    """Everything that edges have said, the most urgent first; `watching` edges are there and tell of their load."""

    now_us: int
    rows: tuple[BedsideRow, ...] = ()
    load: tuple[BedsideLoad, ...] = ()
    total: tuple[BedsideLoad, ...] = ()  # of all edges together, by category
    watching: int = 0
    more: int = 0  # rows that are not shown, beyond the most that a page keeps


class BedsideDesk(Protocol):
    """What the screen asks of the hub."""

    def view(self) -> BedsideView:
        """The newest read model."""

    def seen(self, who: str) -> bool:
        """Whether this person may see of whom an alert is; that they do is in the audit log. Raises WardroundError."""

    def acknowledge(self, who: str, edge: str, alert_id: str) -> None:
        """Tell the edge that somebody is on it. Raises NotAllowed, WardroundError."""
