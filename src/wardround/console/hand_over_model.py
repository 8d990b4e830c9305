"""The read model of the hand-over: what a shift leaves to the next, in a clinical and a technical part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from wardround.console.bedside_model import BedsideRow
from wardround.console.model import EdgeView, Priority, RoutineView
from wardround.console.ward_model import SubjectRow
from wardround.trust.roles import Act

ShiftPart = Literal["clinical", "technical"]
HOURS = (12, 8, 24)  # the first is what a page shows that asks for none
NOTE_CHARS = 2_000
RISE = 2  # points of NEWS2
NEEDS: Mapping[ShiftPart, Act] = {"clinical": Act.PATIENTS, "technical": Act.EDGES}  # whom a part is for


@dataclass(frozen=True, slots=True)
class ShiftAlert:
    """One alert that was opened, acknowledged or over in this time, or is still open."""

    alert_id: str
    title: str
    where: str
    priority: Priority
    open: bool
    opened_here: bool  # within this time
    since_us: int
    acknowledged_by: str = ""
    acknowledged_us: int = 0
    silenced: bool = False
    done: str = ""  # what was done by itself
    undo: bool = False  # and can still be undone


@dataclass(frozen=True, slots=True)
class ShiftStudy:
    """One thing that somebody, or the hub, did to a study in this time; or a state that is not its usual one."""

    study: str
    what: str
    who: str = ""
    why: str = ""
    t_us: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """What somebody left to the next one."""

    number: int
    who: str
    written_us: int
    hours: int
    text: str
    confirmed_by: str = ""
    confirmed_us: int = 0


@dataclass(frozen=True, slots=True)
class HandOverView:
    """One part of the hand-over. Lists of the other part are empty; `rising` is None while the ward is being read."""

    part: ShiftPart
    now_us: int
    hours: int
    alerts: tuple[ShiftAlert, ...] = ()
    bedside: tuple[BedsideRow, ...] = ()
    rising: tuple[SubjectRow, ...] | None = ()
    silent: tuple[EdgeView, ...] = ()
    aside: tuple[EdgeView, ...] = ()
    studies: tuple[ShiftStudy, ...] = ()
    due: tuple[RoutineView, ...] = ()
    notes: tuple[Note, ...] = ()  # the newest first

    @property
    def since_us(self) -> int:
        """When this time begins."""
        return self.now_us - self.hours * 3_600_000_000


class HandOverDesk(Protocol):
    """What the screen asks of the hub. Everything asks for the person's role, and may raise NotAllowed or WardroundError."""

    def view(self, who: str, part: ShiftPart, hours: int) -> HandOverView:
        """The newest read model of one part."""

    def write(self, who: str, part: ShiftPart, hours: int, text: str) -> int:
        """Leave a note to the next one; its number."""

    def confirm(self, who: str, number: int) -> None:
        """The next one has read it."""
