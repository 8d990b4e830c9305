"""Which model predicts: candidate, canary on a ring of edges, current; later retired, refused, rolled back. Pure.

Every committed round makes a candidate. The newest that has a score and passes the gates becomes the canary, is held by a share
of the edges for some rounds, passes the gates once more beside the current model on the same examples, and replaces it. While
one is on trial the next ones wait. Going back makes an older model current at once and takes what was made after it out of use.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from wardround.errors import StudyError
from wardround.learn.study import ReleaseSettings


class Stage(StrEnum):
    """Where a model stands."""

    CANDIDATE = "candidate"
    CANARY = "canary"
    CURRENT = "current"
    RETIRED = "retired"  # has been current, and has been replaced
    REFUSED = "refused"  # has not stood its trial
    ROLLED_BACK = "rolled-back"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model in the registry, named by the round that made it."""

    number: int
    model: str
    stage: Stage
    since_round: int  # the newest round when it got its stage


@dataclass(frozen=True, slots=True)
class Measured:
    """A model on the held-back examples; all that are compared were measured on the same ones."""

    score: float
    worst_edge: str
    worst: float  # NaN where no edge has a score of its own
    examples: int
    ece: float
    brier: float


@dataclass(frozen=True, slots=True)
class Move:
    """A model's new stage, and why."""

    number: int
    stage: Stage
    reason: str


def gates(settings: ReleaseSettings, model: Measured, current: Measured | None) -> tuple[str, ...]:
    """Why a model may not take the place of the current one; empty: it may."""
    found: list[str] = []
    if model.examples < settings.examples_min:
        found.append(f"{model.examples} held-back examples, and {settings.examples_min} are needed")
    if not model.score >= settings.score_min:
        found.append(f"score {model.score:.3f} is below {settings.score_min:.3f}")
    if current is not None:
        for name, own, other, margin in (
            ("score", model.score, current.score, settings.score_margin),
            (f"worst edge ({model.worst_edge})", model.worst, current.worst, settings.worst_edge_margin),
        ):
            if not math.isnan(other) and not own >= other - margin:
                found.append(f"{name} {own:.3f} is more than {margin:g} below the current {other:.3f}")
        for name, own, other, margin in (
            ("calibration error", model.ece, current.ece, settings.ece_margin),
            ("Brier score", model.brier, current.brier, settings.brier_margin),
        ):
            if not own <= other + margin:
                found.append(f"{name} {own:.3f} is more than {margin:g} above the current {other:.3f}")
    return tuple(found)


def ring(study: str, edges: Collection[str], share: float) -> frozenset[str]:
    """The edges that hold a canary: a share of them, at least one, the same ones for the whole study."""
    if not edges or share <= 0.0:
        return frozenset()
    ordered = sorted(edges, key=lambda edge: hashlib.sha256(f"ring\0{study}\0{edge}".encode()).digest())
    return frozenset(ordered[: max(1, round(share * len(edges)))])


def at(entries: Sequence[Entry], stage: Stage) -> Entry | None:
    """The newest model of a stage."""
    return max((e for e in entries if e.stage is stage), key=lambda e: e.number, default=None)


def wanted(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The models to measure: the current one, the canary, and the newest candidate."""
    found = (at(entries, stage) for stage in (Stage.CURRENT, Stage.CANARY, Stage.CANDIDATE))
    return tuple(e.model for e in found if e is not None)


def decide(
    settings: ReleaseSettings,
    entries: Sequence[Entry],
    measured: Mapping[str, Measured],
    *,
    newest: int,
    finished: bool,
    ring_holds: bool | None,
) -> list[Move]:
    """What moves now, by itself.

    Args:
        measured: by model; what is not here is not judged.
        newest: the newest round; finished: there is none to come.
        ring_holds: whether an edge of the ring has the canary; None: there is no ring.
    """
    current, canary = at(entries, Stage.CURRENT), at(entries, Stage.CANARY)
    if canary is not None:
        return _trial(
            settings,
            canary,
            current,
            measured,
            over=finished or newest - canary.since_round >= settings.hold_rounds,
            ring_holds=ring_holds,
        )
    candidate = at(entries, Stage.CANDIDATE)
    if settings.promotion != "auto" or candidate is None or candidate.model not in measured:
        return []
    if current is not None and (candidate.number < current.number or current.model not in measured):
        return []
    return _try(settings, entries, candidate, current, measured, on_ring=ring_holds is not None)


def _try(
    settings: ReleaseSettings,
    entries: Sequence[Entry],
    candidate: Entry,
    current: Entry | None,
    measured: Mapping[str, Measured],
    *,
    on_ring: bool,
) -> list[Move]:
    failing = gates(settings, measured[candidate.model], None if current is None else measured[current.model])
    if failing:
        return [Move(candidate.number, Stage.CANDIDATE, "; ".join(failing))]
    if current is None:
        return promoted(entries, candidate.number, Stage.CURRENT, "the first that passes the gates")
    if not on_ring or settings.hold_rounds == 0:
        return promoted(entries, candidate.number, Stage.CURRENT, "it passes the gates, and no ring is asked for")
    return promoted(entries, candidate.number, Stage.CANARY, "it passes the gates")


def _trial(
    settings: ReleaseSettings,
    canary: Entry,
    current: Entry | None,
    measured: Mapping[str, Measured],
    *,
    over: bool,
    ring_holds: bool | None,
) -> list[Move]:
    own = measured.get(canary.model)
    other = None if current is None else measured.get(current.model)
    if own is None or (current is not None and other is None):
        return []
    if failing := gates(settings, own, other):
        return [Move(canary.number, Stage.REFUSED, "on trial: " + "; ".join(failing))]
    if settings.promotion != "auto" or not over or ring_holds is False:
        return []
    moves = [Move(canary.number, Stage.CURRENT, "it has stood its trial")]
    if current is not None:
        moves.append(Move(current.number, Stage.RETIRED, f"replaced by that of round {canary.number}"))
    return moves


def promoted(entries: Sequence[Entry], number: int, stage: Stage, reason: str) -> list[Move]:
    """What moves when a model becomes canary or current, and makes room for itself.

    Raises:
        StudyError: there is no such model, or it stands there already.
    """
    model = next((e for e in entries if e.number == number), None)
    if model is None:
        raise StudyError(f"there is no model of round {number}", remedy="`wardround study models` lists them")
    if model.stage is stage:
        raise StudyError(f"the model of round {number} is {stage} already", remedy="choose another")
    held = at(entries, stage)
    moves = [Move(number, stage, reason)]
    if held is not None:
        left = Stage.RETIRED if stage is Stage.CURRENT else Stage.CANDIDATE
        moves.append(Move(held.number, left, f"replaced by that of round {number}"))
    return moves


def gone_back(entries: Sequence[Entry], to_round: int, reason: str) -> list[Move]:
    """What moves when the study goes back to the model of a round; the same again moves nothing."""
    moves = [Move(e.number, Stage.CURRENT, reason) for e in entries if e.number == to_round and e.stage is not Stage.CURRENT]
    for e in entries:
        if e.number > to_round and e.stage in (Stage.CANDIDATE, Stage.CANARY, Stage.CURRENT):
            moves.append(Move(e.number, Stage.ROLLED_BACK, reason))
        elif e.number < to_round and e.stage in (Stage.CANARY, Stage.CURRENT):
            moves.append(Move(e.number, Stage.RETIRED if e.stage is Stage.CURRENT else Stage.CANDIDATE, reason))
    return moves


def previous(entries: Sequence[Entry]) -> Entry | None:
    """The model that was current before the current one: the newest before it that has served."""
    current = at(entries, Stage.CURRENT)
    older = [e for e in entries if e.stage is Stage.RETIRED and (current is None or e.number < current.number)]
    return max(older, key=lambda e: e.number, default=None)


def in_use(entries: Sequence[Entry]) -> frozenset[str]:
    """The models that must not expire."""
    kept = (at(entries, Stage.CURRENT), at(entries, Stage.CANARY), previous(entries))
    return frozenset(e.model for e in kept if e is not None)


def find(entries: Sequence[Entry], text: str) -> Entry:
    """A model by what a person types: `current`, `canary`, `previous`, a round's number, or the beginning of a digest.

    Raises:
        StudyError: there is none, or more than one.
    """
    remedy = "`wardround study models` lists them"
    if text in ("current", "canary", "previous"):
        found = previous(entries) if text == "previous" else at(entries, Stage(text))
        if found is None:
            raise StudyError(f"no model is {text}" if text != "previous" else "no model was current before", remedy=remedy)
        return found
    if text.isdigit() and (numbered := [e for e in entries if e.number == int(text)]):
        return numbered[0]
    named = [e for e in entries if text and e.model.startswith(text)]
    if len({e.model for e in named}) != 1:
        raise StudyError(f"{len(named) or 'no'} model{'s' if len(named) != 1 else ''} of this study: {text!r}", remedy=remedy)
    return named[0]
