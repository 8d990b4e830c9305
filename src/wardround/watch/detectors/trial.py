"""The admission trial: an edge that joins a study late has no past, so its first updates weigh nothing until they fit.

Own history says nothing of an edge's first rounds, and the sums over first rounds (peers.py) are of those who were there at the
start. So who comes later is asked and scored like everybody, with weight 0, for the study's `triage.trial_rounds` updates, and is
then admitted, or refused for one of two reasons:

    noise      an edge learns from the same patients in round after round, so its updates resemble each other, all the more as the
               model does not follow them meanwhile. Its do not, while those of the admitted do.
    direction  while training goes somewhere (the admitted agree), its updates point against theirs, far outside their spread.

Both are means over the trial, beside the same rounds of the admitted: the trial's jury. What this does not see: once training has
come to its end honest edges agree no more than chance has it, and the update of a newcomer whose patients differ points anywhere,
also against theirs. Then a wrong sign cannot be told from another ward, neither by its direction nor by what it does to the loss
on held-out patients (measured: docs/alerts.md), and the newcomer is admitted. What it can do then is bounded by its weight and by
the strategy's rule. A study's first rounds have no jury, nor has a round most of whose edges are new: those are admitted at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.watch.detectors.updates import DIMENSIONS, Sketched, Vector, Verdict

ON_TRIAL = "on-trial"  # why an update is set aside that nothing is held against; its verdict's score counts updates
NOISE, DIRECTION = "trial-noise", "trial-direction"
FOUNDING_ROUNDS = 5  # from the first that is judged: who comes in them is judged by the sums over first rounds
JURY_MIN = 5  # admitted edges of a round, so that their median says what is usual
ALIKE_MIN, ALIKE_SHARE = 0.3, 0.2  # median cosine of the jury's updates to their own before; the share under which one is noise,
ALIKE_CHANCES = 2.5  # if it is not far above what chance gives besides, in standard deviations
CHANCES_APART = 4.0  # standard deviations that the jury lies above chance, or nothing is said of noise
PAIRS_MIN = 2
AGREE_MIN = 0.25  # median cosine of a juror to the others: less, and directions say nothing
AGAINST_Z, MAD_MIN, MAD_SD = 5.0, 0.08, 1.4826
THRESHOLD = 1.0  # both signs are scaled to it
KEYS_MAX = 20_000  # edges remembered; the ones unheard longest are forgotten first, and are on trial when they come back


class _Candidate(msgspec.Struct):
    """An edge on trial: sums over its updates so far."""

    scored: int = 0
    newest: int = -1  # round of its newest update
    pairs: int = 0
    alike: float = 0.0  # cosines of its updates to those before
    usual: float = 0.0  # the jury's median of that, in the same rounds
    heard: int = 0  # rounds in which the jury agreed
    along: float = 0.0  # its cosine to the jury, in those
    against: float = 0.0  # how far that is below the jury's median, in robust deviations


class _Saved(msgspec.Struct):
    admitted: dict[str, bytes]  # by edge: the direction of its newest update, float32; the newest last
    candidates: dict[str, _Candidate]
    directions: dict[str, bytes]  # of candidates
    rounds: int = 0
    newest: int = -1


class Trial:
    """Of one study. Memory: a sketch an edge."""

    def __init__(self, updates: int) -> None:
        """`updates` is how many of an edge's first ones weigh nothing; 0: there is no trial."""
        self._updates = updates
        self._kept = _Saved({}, {}, {})

    def judge(self, round_number: int, updates: Mapping[str, Sketched], refused: Collection[str] = ()) -> dict[str, Verdict]:
        """Verdicts of the edges on trial alone. `refused` are refused by a screen: they are no jurors, and it is no trial."""
        if self._updates <= 0:
            return {}
        kept = self._kept
        if round_number != kept.newest:  # a round may be judged again
            kept.newest, kept.rounds = round_number, kept.rounds + 1
        there = [e for e in sorted(updates) if e not in refused and updates[e].norm > 0]
        jury = [e for e in there if e in kept.admitted]
        strangers = [e for e in there if e not in kept.admitted and e not in kept.candidates]
        if kept.rounds <= FOUNDING_ROUNDS or len(jury) <= len(strangers):
            for edge in strangers:
                kept.admitted[edge] = b""
            strangers = []
        for edge in strangers:
            kept.candidates[edge] = _Candidate()
        tried = [e for e in there if e in kept.candidates]
        if tried and len(jury) >= JURY_MIN:
            self._score(round_number, updates, jury, [e for e in tried if kept.candidates[e].newest != round_number])
        verdicts = {edge: self._verdict(edge, updates[edge]) for edge in tried}
        verdicts |= {edge: self._waits(edge) for edge in sorted(updates) if edge in kept.candidates and edge not in verdicts}
        for edge in there:
            own = kept.admitted if edge in kept.admitted else kept.directions
            own.pop(edge, None)
            own[edge] = updates[edge].direction.astype(np.float32).tobytes()
        for names in (kept.admitted, kept.candidates, kept.directions):
            while len(names) > KEYS_MAX:
                del names[next(iter(names))]
        return verdicts

    def admit(self, edge: str) -> None:
        """Somebody has decided that it counts."""
        if self._updates > 0:
            self._admit(edge)

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        return msgspec.msgpack.encode(self._kept) if self._updates > 0 else b""

    def restore(self, state: bytes) -> None:
        """Take up a kept state; none: the study had no trial before, and those who come in the next rounds are its founders."""
        self._kept = msgspec.msgpack.decode(state, type=_Saved) if state else _Saved({}, {}, {})

    def _admit(self, edge: str) -> None:
        self._kept.candidates.pop(edge, None)
        self._kept.admitted[edge] = self._kept.directions.pop(edge, b"")

    def _waits(self, edge: str) -> Verdict:
        return Verdict(False, ON_TRIAL, float(self._kept.candidates[edge].scored), float(self._updates))

    def _verdict(self, edge: str, update: Sketched) -> Verdict:
        """What becomes of a candidate after this update."""
        own = self._kept.candidates[edge]
        waits = self._waits(edge)
        if own.scored < self._updates:
            return waits
        signs = {NOISE: _noise(own, update.chance), DIRECTION: _direction(own)}
        reason = max(signs, key=lambda sign: signs[sign])
        if signs[reason] <= THRESHOLD:
            self._admit(edge)
            return waits
        self._kept.candidates[edge] = _Candidate(newest=own.newest)  # it is tried again while it is set aside
        return Verdict(False, reason, round(signs[reason], 2), THRESHOLD)

    def _score(self, number: int, updates: Mapping[str, Sketched], jury: list[str], tried: list[str]) -> None:
        """Take the round's update of each candidate beside those of the jury."""
        kept = self._kept
        rows = np.array([updates[e].direction for e in jury])
        before = [(row, kept.admitted[e]) for e, row in zip(jury, rows, strict=True) if kept.admitted[e]]
        usual = float(np.median([row @ _direction_of(past) for row, past in before])) if len(before) >= JURY_MIN else None
        together = rows.sum(axis=0)
        to_others = _cosines(rows, together - rows)
        middle = float(np.median(to_others))
        spread = max(MAD_MIN, MAD_SD * float(np.median(np.abs(to_others - middle))))
        for edge in tried:
            own, direction = kept.candidates[edge], updates[edge].direction
            own.newest, own.scored = number, own.scored + 1
            if usual is not None and (past := kept.directions.get(edge)):
                own.pairs, own.usual = own.pairs + 1, own.usual + usual
                own.alike += float(direction @ _direction_of(past))
            if middle >= AGREE_MIN:
                cosine = float(_cosines(direction[None, :], together[None, :])[0])
                own.heard, own.along = own.heard + 1, own.along + cosine
                own.against += (middle - cosine) / max(spread, updates[edge].chance / 2)


def _noise(own: _Candidate, chance: float) -> float:
    """How little an edge's updates repeat themselves, 1 at the limit; 0 where the jury's do not either."""
    if own.pairs < PAIRS_MIN:
        return 0.0
    usual, alike, by_chance = own.usual / own.pairs, own.alike / own.pairs, chance / float(np.sqrt(own.pairs))
    if usual < max(ALIKE_MIN, CHANCES_APART * by_chance):
        return 0.0
    limit = min(ALIKE_SHARE * usual, ALIKE_CHANCES * by_chance)
    return max(0.0, (usual - alike) / (usual - limit))


def _direction(own: _Candidate) -> float:
    """How far an edge points against the jury, 1 at the limit; 0 where it does not, or the jury did not agree."""
    if not own.heard or own.along >= 0:
        return 0.0
    return max(0.0, own.against / own.heard / AGAINST_Z)


def _direction_of(kept: bytes) -> Vector:
    return np.frombuffer(kept, np.float32).astype(np.float64) if len(kept) == 4 * DIMENSIONS else np.zeros(DIMENSIONS)


def _cosines(rows: NDArray[np.float64], others: NDArray[np.float64]) -> Vector:
    return np.asarray(np.vecdot(rows, others) / (np.linalg.norm(others, axis=1) + 1e-12))
