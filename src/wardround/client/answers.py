"""What a hub's API answers, as frozen values. Times are aware and in UTC, spans in seconds; a patient is a pseudonym.

A field that a newer hub adds is passed over. docs/api.md says what each call gives; a test holds these against its description.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The base of every answer."""


class Hub(Answer, frozen=True, kw_only=True):
    """How the hub stands."""

    name: str
    site: str
    version: str
    now: datetime
    simulated: bool
    subjects: int
    edges: int
    edges_silent: int
    studies: int
    alerts_open: int
    samples_per_s: float
    waiting: int
    set_aside: int
    behind_s: float | None


class Edge(Answer, frozen=True, kw_only=True):
    """An edge gateway."""

    name: str
    state: Literal["connected", "silent", "set-aside", "revoked"]
    joined: datetime
    silent_s: float
    spooled: int
    observations_per_s: float
    certificate_ends: datetime
    revoked: datetime | None


class Drain(Answer, frozen=True, kw_only=True):
    """An edge that gets no more work."""

    edge: str
    stage: Literal["finishing", "emptying", "safe", "off", "away"]
    words: str
    since: datetime
    by: str


class Study(Answer, frozen=True, kw_only=True):
    """A study."""

    name: str
    state: str
    detail: str
    created: datetime
    changed: datetime
    rounds: int


class Round(Answer, frozen=True, kw_only=True):
    """A committed round."""

    number: int
    committed: datetime
    seconds: float
    model: str
    folded: list[str]
    set_aside: list[str]


class Model(Answer, frozen=True, kw_only=True):
    """A model of a study."""

    number: int
    model: str
    parent: str
    stage: str
    since_round: int
    made: datetime


class Alert(Answer, frozen=True, kw_only=True):
    """An alert."""

    id: str
    title: str
    detail: str
    priority: Literal["high", "medium", "low", "info"]
    category: str
    open: bool
    needs_person: bool
    since: datetime
    raised: datetime
    acknowledged_by: str
    response: str
    action: str
    undo: str


class Happening(Answer, frozen=True, kw_only=True):
    """One line of what happened."""

    at: datetime
    title: str
    detail: str


class Routine(Answer, frozen=True, kw_only=True):
    """Something that the hub does by the clock."""

    name: str
    title: str
    schedule: str
    outcome: str
    detail: str
    last: datetime | None
    seconds: float
    next: datetime | None
    late_s: float


class JobRun(Answer, frozen=True, kw_only=True):
    """One run of a processing job."""

    id: str
    job: str
    state: str
    started: datetime
    changed: datetime
    parts_done: int
    parts: int
    failed: int
    rows: int


class Completeness(Answer, frozen=True, kw_only=True):
    """What share of one patient's signal came, hour by hour from `first`."""

    subject: str
    code: str
    title: str
    first: datetime
    shares: list[float | None]
    mean: float | None


class Silence(Answer, frozen=True, kw_only=True):
    """Nobody is told of alerts that fit, for a while."""

    id: str
    matchers: dict[str, str]
    until: datetime
    who: str
    reason: str


class StudyAnswer(Answer, frozen=True, kw_only=True):
    """What became of what was asked of a study."""

    id: str
    kind: str
    state: Literal["asked", "done", "refused"]
    answer: str
    asked: datetime


class Invitation(Answer, frozen=True, kw_only=True):
    """With this token one edge of this name may join, once, within `seconds`."""

    edge: str
    token: str
    seconds: float

    def __repr__(self) -> str:
        return f"Invitation({self.edge})"


class Done(Answer, frozen=True, kw_only=True):
    """It was done."""

    words: str
