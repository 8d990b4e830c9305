"""What the detectors of training look at: one round as the hub saw it, in plain values, and what they answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from wardround.watch.detectors.updates import Sketched

Counts = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSeen:
    """One edge's answer in a round. What an edge did not say is None, and is not judged.

    `loss`: of the round's base model on the edge's own examples, a mean. `seconds`: from the round's order to the update at the
    hub; `trained_s`: what the edge says that its training took. `inputs`: counts of rows, shape (n_features, INPUT_BINS) of
    wardround.row_counts.
    `confidence`: counts by the base model's largest probability, shape
    (CONFIDENCE_BINS, CONFIDENCE_COUNTS). `aside`: triage or a
    screen set its update aside, so that it is judged and teaches nothing; `trial`: for nothing but its trial.

    What only the edge itself sees: `update`, a sketch of it; `tried_before`, `tried_after`: mean loss of the base model, and of
    base and update, on rows of its own. `own`: what such an edge has told its hub, (score, threshold) by sign.
    """

    examples: int = 0
    loss: float | None = None
    seconds: float | None = None
    trained_s: float | None = None
    inputs: Counts | None = None
    confidence: Counts | None = None
    aside: bool = False
    trial: bool = False
    update: Sketched | None = None
    tried_before: float | None = None
    tried_after: float | None = None
    own: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSeen:
    """One committed round. `asked`: edges the round went to. `step_norm`: L2 norm of new model minus base. `healthy`: no alert of
    the study is open that another part of the watch has raised."""

    number: int
    edges: Mapping[str, EdgeSeen]
    asked: int = 0
    step_norm: float | None = None
    healthy: bool = True


@dataclass(frozen=True, slots=True)
class Scored:
    """A detector's answer for one edge (or for the study, edge ""): its score, and what was measured beside what is usual.

    `parts`: what the score is made of, largest first, where it has parts: (feature, value).
    """

    score: float
    value: float
    usual: float
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing a detector looks for: the kind of alert it makes, and the threshold until calibration gives another."""

    kind: str
    default: float
    unit: str


Standing = tuple[str, str, str]  # a cause: kind, edge ("": the study), and of COMMON the kind that many edges show
Found = Mapping[str, Mapping[str, Scored]]  # by sign, by edge


class Detector(Protocol):
    """A streaming detector: `score` a round, then `learn` from it. Bounded memory, no clock, no randomness."""

    @property
    def signs(self) -> Mapping[str, Sign]:
        """What it looks for."""
        ...

    def score(self, seen: RoundSeen) -> Found:
        """The scores of a round; rounds come in order, each once."""
        ...

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        """Take a round into what is usual, without the edges of `leave_out` ("": without what is of the study)."""
        ...

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        ...

    def restore(self, state: bytes) -> None:
        """Take up a kept state.

        Raises:
            msgspec.MsgspecError: it is not one of this detector.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """What the watch of a study says after a round about one cause.

    `state`: new, on (it lasts) or over. `edge` is empty where it is of the whole study; then `edges` are those concerned, if
    any, and `of` is the kind that they show. `evidence`: (round, score) of the newest rounds. `sign` is the strongest one.
    """

    state: str
    kind: str
    sign: str
    round_number: int
    since_round: int
    edge: str = ""
    edges: Sequence[str] = ()
    of: str = ""
    score: float = 0.0
    threshold: float = 0.0
    value: float = 0.0
    usual: float = 0.0
    parts: tuple[tuple[str, float], ...] = ()
    unit: str = ""
    evidence: tuple[tuple[float, float], ...] = field(default=())
