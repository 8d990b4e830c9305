"""What goes over the wire. Times are ISO 8601 in UTC, spans are seconds; a patient is a pseudonym, no value of one is here."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
Reason = Annotated[str, Field(min_length=3, max_length=300, description="Why; it is kept in the audit log.")]


class Body(BaseModel):
    """What is sent: an unknown key is an error, not a wish that nobody hears."""

    model_config = ConfigDict(extra="forbid")


class Hub(BaseModel):
    """How the hub stands, as on the console's first page."""

    name: str
    site: str
    version: str
    now: datetime
    simulated: bool = Field(description="Whether its patients are made up.")
    subjects: int = Field(description="Patients of whom something came.")
    edges: int
    edges_silent: int
    studies: int
    alerts_open: int
    samples_per_s: float = Field(description="Over the last ten seconds.")
    waiting: int = Field(description="Observations that are durable and not yet in the lake.")
    set_aside: int = Field(description="What was refused and is kept with its reason.")
    behind_s: float | None = Field(description="How far features are behind what came; null: no study asks for them.")


class Edge(BaseModel):
    """An edge gateway."""

    name: str = Field(examples=["icu-a"])
    state: Literal["connected", "silent", "set-aside", "revoked"]
    joined: datetime
    silent_s: float
    spooled: int = Field(description="Observations that wait at the edge.")
    observations_per_s: float
    certificate_ends: datetime
    revoked: datetime | None


class Study(BaseModel):
    """A study."""

    name: str
    state: str = Field(examples=["running"])
    detail: str
    created: datetime
    changed: datetime
    rounds: int = Field(description="Committed so far.")


class Round(BaseModel):
    """A committed round."""

    number: int
    committed: datetime
    seconds: float
    model: str = Field(description="SHA-256 of the model that it made.")
    folded: list[str] = Field(description="Edges whose updates are in it.")
    set_aside: list[str] = Field(description="Edges whose updates came and do not count.")


class Model(BaseModel):
    """A model of a study."""

    number: int = Field(description="The round that made it.")
    model: str
    parent: str
    stage: str = Field(examples=["current"])
    since_round: int
    made: datetime


class Alert(BaseModel):
    """An alert: one for each cause."""

    id: str = Field(examples=["A-0001"])
    title: str
    detail: str
    priority: Literal["high", "medium", "low", "info"]
    category: str
    open: bool
    needs_person: bool
    since: datetime = Field(description="When the cause began, as far as it can be told.")
    raised: datetime
    acknowledged_by: str
    response: str = Field(description="What was done by itself.")
    action: str = Field(description="What a person should do.")
    undo: str = Field(description="What an undo would do; empty: there is nothing to undo.")


class Happening(BaseModel):
    """One line of what happened."""

    at: datetime
    title: str
    detail: str


class Routine(BaseModel):
    """Something that the hub does by the clock."""

    name: str
    title: str
    schedule: str
    outcome: str = Field(description="`never`, `running`, `ok` or `failed`.", examples=["ok"])
    detail: str
    last: datetime | None
    seconds: float
    next: datetime | None
    late_s: float


class JobRun(BaseModel):
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


class Completeness(BaseModel):
    """What share of one patient's signal came, hour by hour."""

    subject: str = Field(description="The pseudonym.")
    code: str
    title: str
    first: datetime = Field(description="The beginning of the first hour.")
    shares: list[float | None] = Field(description="0 to 1; null: nothing was to be expected in that hour.")
    mean: float | None


class Silence(BaseModel):
    """Nobody is told of alerts that fit, for a while."""

    id: str
    matchers: dict[str, str]
    until: datetime
    who: str
    reason: str


class NewSilence(Body):
    """Keep alerts that fit quiet."""

    matchers: dict[str, Annotated[str, Field(min_length=1, max_length=100)]] = Field(
        min_length=1, max_length=10, description="Label to pattern (`*`, `?`); all must fit.", examples=[{"edge": "icu-a"}]
    )
    minutes: int = Field(ge=1, le=7 * 24 * 60, description="For how long.", examples=[60])
    reason: Reason


class Acknowledgement(Body):
    """Someone is on it."""

    actionable: bool | None = Field(None, description="Whether it needed something done; null: not said yet.")


class Undo(Body):
    """Undo what was done about an alert."""

    reason: Reason


class StudyAct(Body):
    """Ask something of a study."""

    kind: Literal["pause", "resume", "stop", "rollback", "promote"]
    to_round: int | None = Field(None, ge=0, le=10**6, description="Of a rollback or a promotion: the round whose model it is.")
    reason: Reason


class StudyAnswer(BaseModel):
    """What became of what was asked."""

    id: str
    kind: str
    state: Literal["asked", "done", "refused"]
    answer: str
    asked: datetime


class Done(BaseModel):
    """It was done."""

    words: str


class Invitation(BaseModel):
    """With this one edge of this name may join, once."""

    edge: str
    token: str = Field(description="Shown now and kept nowhere: give it to `wardround edge join -`.")
    seconds: float = Field(description="How long it holds.")
