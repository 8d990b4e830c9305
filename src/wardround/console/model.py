"""Read models: everything a screen shows, as frozen values. The hub builds them once a second and every session shares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

Priority = Literal["high", "medium", "low", "info"]
URGENCY: tuple[Priority, ...] = get_args(Priority)  # the most urgent first
EdgeState = Literal["connected", "silent", "set-aside"]
Part = Literal["accepted", "set-aside", "absent"]


@dataclass(frozen=True, slots=True)
class EdgeView:
    """One edge. `spooled` observations wait there; `per_s` observations came from it lately."""

    name: str
    state: EdgeState
    silent_s: float = 0.0
    spooled: int = 0
    per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StudyView:
    """One study; scores are None until the first model has been scored on held-back subjects."""

    name: str
    round_number: int
    rounds: int
    metric: str = ""
    score: float | None = None
    worst_edge: str = ""
    worst: float | None = None
    parts: tuple[tuple[str, Part], ...] = ()  # of the newest committed round, by edge
    state: str = "running"


@dataclass(frozen=True, slots=True)
class AlertView:
    """One alert, in the words of its finding. `undo_title` is empty when there is nothing to undo."""

    alert_id: str
    title: str
    detail: str
    priority: Priority
    category: str
    since_us: int
    raised_us: int
    open: bool
    needs_person: bool
    acknowledged_by: str = ""
    response: str = ""
    action: str = ""
    undo_title: str = ""
    undo_words: str = ""
    undo_keep: str = ""
    undo_consequences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AtEdgeView:
    """An alert that is open at an edge itself, as the hub is told of it: no word of whom, of what, or of any value.

    `stale`: the edge is silent, and this is what it said last.
    """

    edge: str
    alert_id: str
    priority: Priority
    category: str
    state: str
    stale: bool = False

    @property
    def needs_person(self) -> bool:
        """Whether nobody is on it, and it should not wait."""
        return self.state == "firing" and self.priority in ("high", "medium")


@dataclass(frozen=True, slots=True)
class RoutineView:
    """One thing that the hub does by the clock. Times of 0: never, or nothing is due. `outcome`: never, running, ok, failed."""

    name: str
    title: str
    schedule: str
    outcome: str = "never"
    detail: str = ""
    last_us: int = 0
    seconds: float = 0.0
    next_us: int = 0
    late_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SignalHours:
    """How complete one signal of one subject came, by hour from `first_us`, 0 to 1; None: nothing was to be expected."""

    subject: str
    code: str
    title: str
    first_us: int
    shares: tuple[float | None, ...]
    mean: float | None  # of all hours together


@dataclass(frozen=True, slots=True)
class HoursView:
    """Every signal of every subject: the least complete first, and those of no known rate last; and by subject and code."""

    least_first: Sequence[SignalHours]
    by_name: Sequence[SignalHours]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of what happened."""

    t_us: int
    title: str
    detail: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The first screen. Rates are of the last ten seconds; `behind_s` is how far gold is behind what
    has arrived, None when no study asks for gold."""

    now_us: int
    hub: str
    version: str
    site: str
    simulated: bool
    subjects: int
    edges: tuple[EdgeView, ...] = ()
    samples_per_s: float = 0.0
    behind_s: float | None = None
    waiting: int = 0
    set_aside: int = 0
    study: StudyView | None = None
    studies: int = 0
    study_names: tuple[str, ...] = ()
    alerts: tuple[AlertView, ...] = ()
    at_edges: tuple[AtEdgeView, ...] = ()  # the most urgent first
    happened: tuple[Line, ...] = field(default=())

    @property
    def open_alerts(self) -> tuple[AlertView, ...]:
        """What is open, in the order people should look."""
        return tuple(a for a in self.alerts if a.open)
