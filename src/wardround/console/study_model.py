"""The read models of the Studies screen: every study as a row, one of them whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One line of the list. `rounds` are committed, of `count`; None: nothing was scored yet."""

    name: str
    task: str
    state: str
    detail: str
    rounds: int
    count: int
    changed_us: int
    metric: str = ""
    score: float | None = None
    worst: float | None = None
    worst_edge: str = ""
    runs_here: bool = False  # something can be asked of it


@dataclass(frozen=True, slots=True)
class ScorePoint:
    """The score of one round's model on held-back subjects: of all, and of the best and the worst edge's subjects."""

    round_number: int
    value: float
    best: float | None
    worst: float | None
    worst_edge: str


@dataclass(frozen=True, slots=True)
class PartRow:
    """What one edge did in the newest rounds, one state a round: accepted, training, arrived, late, refused, failed, aside, none.

    `missed` are the rounds without it in which most edges took part: a study that asks few at a time expects to miss many.
    `aside_until` is the last round for which it weighs nothing; 0: it counts.
    """

    edge: str
    states: tuple[str, ...]
    missed: int = 0
    aside_until: int = 0
    aside_reason: str = ""

    @property
    def as_expected(self) -> bool:
        """Whether nothing about it differs."""
        fine = ("accepted", "training", "arrived", "none")
        return not self.aside_until and not self.missed and all(state in fine for state in self.states)


@dataclass(frozen=True, slots=True)
class Decision:
    """Why an update does not count. Score and threshold are the screen's, None where it was not asked."""

    round_number: int
    edge: str
    verdict: str
    reason: str
    detail: str
    t_us: int
    score: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A model of the registry, named by the round that made it."""

    round_number: int
    model: str
    parent: str
    stage: str
    since_round: int
    made_us: int
    updates: int
    score: float | None = None
    worst: float | None = None
    worst_edge: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """The privacy budget: (round, epsilon) spent so far, and forecast from there to the last round. `wrong`: it is not known."""

    unit: str
    delta: float
    limit: float
    spent: tuple[tuple[float, float], ...] = ()
    forecast: tuple[tuple[float, float], ...] = ()
    rounds_left: int = 0
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Personal:
    """Models of the edges' own beside what they send (the shared model after a round's training there): accuracies, as measured
    by each edge on the examples that it trains on. `points` are (round, sent, own), weighted by examples; `by_edge` is of the
    newest round, who gains least first."""

    how: str  # the strategy's name
    points: tuple[tuple[float, float, float], ...] = ()
    by_edge: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class StudyDetail:
    """One study whole. `rounds` are the numbers of the rounds that `parts` has states of; where it went back is none of them."""

    row: StudyRow
    scores: tuple[ScorePoint, ...] = ()
    rounds: tuple[int, ...] = ()
    parts: tuple[PartRow, ...] = ()
    decisions: tuple[Decision, ...] = ()
    models: tuple[ModelRow, ...] = ()  # the newest first
    budget: Budget | None = None
    gone_back: tuple[tuple[int, str], ...] = ()  # (round, words): every time it went back
    personal: Personal | None = None


@dataclass(frozen=True, slots=True)
class GoingBack:
    """What a rollback would do; `back` is the round of the model that predicts now, -1: none does."""

    to_round: int
    model: str
    moves: tuple[tuple[int, str], ...]
    rounds_undone: int
    back: int


@dataclass(frozen=True, slots=True)
class StartingStudy:
    """A study that holds, before it is started: what it would do, a sentence each."""

    name: str
    told: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StudiesView:
    """Every study, those at work first."""

    rows: tuple[StudyRow, ...] = ()


class StudiesDesk(Protocol):
    """What the screen asks of the hub. Every act asks for the person's role again, and stands in the audit log."""

    def studies(self) -> StudiesView:
        """The newest read model."""

    def study(self, name: str) -> StudyDetail | None:
        """One study whole; None: there is none of this name."""

    def going_back(self, name: str, to_round: int) -> GoingBack:
        """What a rollback to the model of a round would do; -1: to the one that predicted before. Raises WardroundError."""

    def ask(self, name: str, kind: str, who: str, reason: str, to_round: int = -1) -> str:
        """Pause, resume, roll back, set an edge aside (quarantine:EDGE) or let it count again (release:EDGE): what was done,
        in words. Raises NotAllowed, WardroundError."""
