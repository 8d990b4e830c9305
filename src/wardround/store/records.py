"""What the store hands out: plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class EdgeRecord:
    """An edge that has joined."""

    name: str
    joined_us: int
    serial: str
    not_after_us: int
    revoked_us: int | None


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A certificate that was issued to an edge. The serial is in hexadecimal."""

    serial: str
    edge: str
    issued_us: int
    not_after_us: int
    revoked_us: int | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """Someone who may sign in."""

    name: str
    role: str
    password_hash: str
    seen_us: int | None


@dataclass(frozen=True, slots=True)
class SecondFactor:
    """Someone's second factor; it counts once it is confirmed. `recovery`: digests of the codes that are left."""

    person: str
    secret: bytes = field(repr=False)
    created_us: int = 0
    confirmed_us: int | None = None
    used_step: int = 0
    recovery: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study the hub was asked to run: requested, running, paused, stopped, finished or failed."""

    name: str
    toml: str
    state: str
    detail: str
    created_us: int
    changed_us: int


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """A committed round."""

    study: str
    number: int
    committed_us: int
    seconds: float
    model: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """An alert in its present state; `body` is what the alert book gave."""

    alert_id: str
    state: str
    raised_us: int
    changed_us: int
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Happening:
    """One line of "what happened"."""

    t_us: int
    title: str
    detail: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Something set aside, with its reason; never a clinical value."""

    t_us: int
    edge: str
    what: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class JobRunRecord:
    """One run of a job: running, done, stopped, failed or cut off; its progress, and where its rows came from."""

    run_id: str
    job: str
    state: str
    started_us: int
    changed_us: int
    parts_done: int
    parts: int
    failed: int
    rows: int
    facts: Mapping[str, Any]  # input and output versions, code, image, place, error


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What somebody asks of the hub's processing: run or retry a job, or stop."""

    request_id: str
    kind: str
    job: str
    asked_us: int


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model of a study: the round that made it, where it stands since which round, and everything known of it."""

    study: str
    number: int
    model: str
    parent: str
    stage: str
    since_round: int
    made_us: int
    changed_us: int
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What somebody asks of a study: rollback, promote, pause, resume, stop, retrain, withdraw:REQUEST, or of one of its edges
    release:EDGE, replay:EDGE, quarantine:EDGE.

    Asked, then done or refused with an answer.
    """

    request_id: str
    study: str
    kind: str
    to_round: int  # of a rollback or a promotion; until when (quarantine); how many rounds (retrain); otherwise -1
    who: str
    reason: str
    asked_us: int
    state: str = "asked"
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks of the running hub from another process: asked, then done or refused with an answer."""

    request_id: str
    topic: str
    act: str
    body: Mapping[str, Any]
    who: str
    asked_us: int
    state: str = "asked"
    answer: str = ""
