"""An edge's watch of its own training in a study whose hub sees no single update: what it says of a round, and whether it sits
the round out.

The screens that need no other edge: its update's length, direction and gain (detectors/own_update.py), its loss, its inputs,
how sure the model is. Thresholds calibrate themselves on the edge's own healthy rounds. It sits out what the update or the loss
shows; what the inputs alone show is said, and the round goes on: other patients are no fault. After SITS_OUT_MAX rounds in a row
that it sat out its past begins anew: what has lasted for so long is the new usual, and people have had as long to look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from wardround.malformed import MALFORMED
from wardround.watch.calibration import BUDGET_PER_1000, CalibrationReport
from wardround.watch.detectors.confidence import Confidence
from wardround.watch.detectors.inputs import Inputs
from wardround.watch.detectors.loss import Loss
from wardround.watch.detectors.own_update import KIND, OwnUpdate
from wardround.watch.detectors.seen import Detector, Deviation, EdgeSeen, RoundSeen, Sign
from wardround.watch.model_watch import EDGE_LOSS, ModelWatch

ME = "me"
NOT_FINITE = "not-finite"
SITS_OUT_MAX = 30  # rounds in a row, as long as a quarantine is (triage.quarantine_rounds)
LOSS_MORE = 1.1  # times the usual loss: once a rollback has put the model right, what the sign remembers sits nothing out


def alone(features: Sequence[str] = ()) -> list[Detector]:
    """The screens that need no other edge."""
    return [OwnUpdate(), Loss(), Inputs(features), Confidence()]


def own_signs() -> dict[str, Sign]:
    """Everything that an edge can find of itself."""
    found = {name: sign for detector in alone() for name, sign in detector.signs.items()}
    return found | {NOT_FINITE: Sign(KIND, 1.0, "values that are no numbers")}


@dataclass(frozen=True, slots=True)
class Looked:
    """`scores`: by sign, the score and the threshold that holds; `found`: signs beyond theirs, the strongest first; `sits_out`:
    the sign for which the edge gives no update in this round, or empty."""

    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    sits_out: str = ""


SPOILT = Looked({NOT_FINITE: (2.0, 1.0)}, (NOT_FINITE,), NOT_FINITE)


class _Saved(msgspec.Struct):
    watch: bytes
    number: int
    sat_out: int
    scores: dict[str, tuple[float, float]]
    found: tuple[str, ...]
    sits_out: str


class OwnWatch:
    """Of one study at one edge. Pure; rounds come in order, and one that comes again gets the same answer."""

    def __init__(self, configuration: str, *, features: Sequence[str] = (), budget_per_1000: float = BUDGET_PER_1000) -> None:
        self._configuration, self._features, self._budget = configuration, tuple(features), budget_per_1000
        self._start()

    def _start(self) -> None:
        own = (self._configuration, self._features, self._budget)
        self._watch = ModelWatch(own[0], features=own[1], budget_per_1000=own[2], make=alone)
        self._number, self._sat_out, self._looked = -1, 0, Looked()

    def look(self, number: int, seen: EdgeSeen, *, finite: bool = True) -> Looked:
        """Judge a round. `finite`: every value of the update is a number; if not, nothing else is looked at.

        A round before the newest one is of a study that was started anew, and so is the past then."""
        if not finite:  # it could not even be masked, and teaches nothing; whatever comes next is looked at as any other
            return SPOILT
        if number == self._number:
            return self._again()
        if number < self._number:
            self._start()
        self._number = number
        deviations = [d for d in self._watch.round(RoundSeen(number=number, edges={ME: seen}, asked=1)) if d.state != "over"]
        scores = {sign: pair for (sign, _), pair in self._watch.scores(number).items()}
        beyond = {sign: score / limit for sign, (score, limit) in scores.items() if score > limit}
        sits_out = next((d.sign for d in deviations if _counts(d)), "")
        found = tuple(sorted(beyond, key=lambda sign: -beyond[sign]))
        self._sat_out = self._sat_out if sits_out else 0
        self._looked = Looked(scores, found, sits_out)
        return self._again()

    def _again(self) -> Looked:
        """The newest round's answer; an attempt at a round that too many sit out counts as a round, or it would never end."""
        if self._looked.sits_out:
            self._sat_out += 1
        if self._sat_out > SITS_OUT_MAX:
            self._watch.calibrate_again()
            self._sat_out, self._looked = 0, replace(self._looked, sits_out="")
        return self._looked

    def calibration(self) -> CalibrationReport:
        """How far calibration is, and the thresholds that hold."""
        return self._watch.calibration()

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        looked = self._looked
        saved = _Saved(self._watch.state(), self._number, self._sat_out, dict(looked.scores), looked.found, looked.sits_out)
        return msgspec.msgpack.encode(saved)

    def restore(self, state: bytes) -> bool:
        """Take up a kept state; False: it is of another configuration or version, and everything begins anew."""
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
        except MALFORMED:
            return False
        if not self._watch.restore(saved.watch):
            self._start()
            return False
        self._number, self._sat_out = saved.number, saved.sat_out
        self._looked = Looked(saved.scores, saved.found, saved.sits_out)
        return True


def _counts(deviation: Deviation) -> bool:
    """Whether a deviation is one for which an edge sits a round out."""
    return deviation.kind == KIND or (deviation.kind == EDGE_LOSS and deviation.value > LOSS_MORE * deviation.usual)
