"""What hub and edges say to each other in a round, and what the hub says of it to its other parts: plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from wardround.learn.journal import Replay
from wardround.learn.own_report import OwnReport
from wardround.records import ModelDigest


@dataclass(frozen=True, slots=True)
class Order:
    """What an edge is asked to do. `settings` is TrainingSettings, or SurveySettings for a survey, as MessagePack."""

    study: str
    round_number: int
    attempt: int
    task: str  # survey, statistics, train; flower: a message to a Flower app
    base: str
    settings: bytes
    deadline_s: float
    model: bytes = b""
    relay: str = ""  # the edge to fetch the model from first
    relay_address: str = ""
    children: tuple[str, ...] = ()  # edges that may fetch the model from this one
    kept_since: int = 0  # what the edge keeps from rounds up to this one has lost its other half, and counts no more
    masks: bytes = b""  # privacy.modes.MaskSettings as MessagePack; empty: the hub sees the update


@dataclass(frozen=True, slots=True)
class MaskStep:
    """A step of a masked round, either way; `body` is one of privacy/wire.py."""

    study: str
    round_number: int
    attempt: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Release:
    """The model that an edge holds for its predictions. `settings` is TrainingSettings as MessagePack."""

    study: str
    number: int  # of the round that made it
    model: str
    stage: str  # canary or current
    settings: bytes
    temperature: float = 1.0  # probabilities are scaled by it (learn/calibration.py)


@dataclass(frozen=True, slots=True)
class Upload:
    """What an upload announces, and who put their name to it: see announcements.py.

    `certificate` is the PEM that the hub saw on the connection; it does not travel with the upload.
    """

    study: str
    round_number: int
    task: str
    base: str
    size: int
    sha256: str
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    signature: bytes = b""
    certificate: bytes = b""
    rows: bytes = b""  # row_counts.RowCounts, for the watch; empty: none


@dataclass(frozen=True, slots=True)
class UploadReceipt:
    """The answer to a finished upload; `reason` is a constant, empty when accepted."""

    accepted: bool
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """What became of an update that had its receipt: `verdict` is aside or released."""

    study: str
    round_number: int
    verdict: str
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Reported:
    """What an edge said with its update, for the watch. `seconds`: from the round's order to the update; None: not known."""

    examples: int
    metrics: Mapping[str, float]
    aside: bool
    seconds: float | None = None
    rows: bytes = b""
    trial: bool = False  # set aside for nothing but its trial


@dataclass(frozen=True, slots=True)
class RoundEvent:
    """What the rest of the hub is told. Fields that do not apply are empty.

    `kind`: opened, accepted, refused, failed, declined, unable (abilities.py), committed, abandoned, quarantined, on-trial,
    admitted, released, rolled-back, own-report, finished.
    """

    kind: str
    study: str
    round_number: int
    t_us: int
    edge: str = ""
    reason: str = ""
    detail: str = ""
    participants: tuple[str, ...] = ()
    model: str = ""
    base: str = ""
    seconds: float = 0.0
    folded: Mapping[str, int] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    replayed: tuple[Replay, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    score: float = 0.0
    threshold: float = 0.0
    until_round: int = 0
    reported: Mapping[str, Reported] = field(default_factory=dict)  # on commit, of a round that trains
    screen: Mapping[str, float] = field(default_factory=dict)  # the screen's score of every update, on commit
    own_report: OwnReport | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """An update, encoded."""

    data: bytes
    examples: int
    metrics: dict[str, float] = field(default_factory=dict)
    kept: bytes = b""  # what the edge keeps from here on, once the hub counts the update; empty: nothing
    rows: bytes = b""  # row_counts.RowCounts


def new_upload(order: Order, data: bytes, examples: int, metrics: Mapping[str, float], rows: bytes = b"") -> Upload:
    """What an edge announces for its update."""
    return Upload(
        study=order.study,
        round_number=order.round_number,
        task=order.task,
        base=order.base,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        examples=examples,
        metrics=metrics,
        rows=rows,
    )


def model_digest(text: str) -> ModelDigest:
    """A digest that came over the wire.

    Raises:
        ValueError: it is not 64 hexadecimal digits.
    """
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError("not a model digest")
    return ModelDigest(text)
