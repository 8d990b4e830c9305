"""Read models of Governance: what subjects allow, who was erased, what the audit log says and whether it holds, what left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PER_PAGE = 25


@dataclass(frozen=True, slots=True)
class SignalConsent:
    """How many subjects allow one signal to travel, to train at their edge, or not to be kept."""

    title: str
    raw: int
    local: int
    none: int


@dataclass(frozen=True, slots=True)
class RegisterRow:
    """One subject's choices, in words; `version` grows with each change."""

    subject: str
    edge: str
    version: int
    says: str


@dataclass(frozen=True, slots=True)
class Step:
    """What an erasure did in one place. `state`: done, waiting, found (something is still there) or said."""

    title: str
    detail: str
    state: str
    t_us: int = 0


@dataclass(frozen=True, slots=True)
class ErasureView:
    """One erasure, place by place. The pseudonym is gone from the book once the hub has done its part."""

    number: int
    asked_us: int
    who: str
    reason: str
    steps: tuple[Step, ...]
    places: int
    answered: int

    @property
    def complete(self) -> bool:
        """Whether every place has answered, and nothing was found."""
        return self.places == self.answered and all(s.state in ("done", "said") for s in self.steps)


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One entry of the audit log."""

    number: int
    t_us: int
    kind: str
    what: str
    who: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ChainView:
    """What the newest verification of the whole log found; `wrong` is empty when it holds."""

    entries: int
    checked_us: int
    heads: int  # kept by edges, and compared
    head: str
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExportView:
    """Something that left the hub with rows of subjects in it."""

    number: int
    t_us: int
    who: str
    study: str
    format: str
    subjects: int


@dataclass(frozen=True, slots=True)
class GovernanceView:
    """The screen. `chosen` is the erasure that is shown whole."""

    subjects: int
    signals: tuple[SignalConsent, ...] = ()
    register: tuple[RegisterRow, ...] = ()
    page: int = 1
    matching: int = 0
    erasures: tuple[ErasureView, ...] = ()  # the newest first
    chosen: ErasureView | None = None
    audit: tuple[AuditRow, ...] = ()  # the newest first
    chain: ChainView | None = None
    exports: tuple[ExportView, ...] = ()  # the newest first

    @property
    def pages(self) -> int:
        """Of the register, at least one."""
        return max(1, -(-self.matching // PER_PAGE))
