"""The watch of one study's training: rounds go in, deviations from what is usual come out, one for each cause.

Detectors score a round (detectors/*.py), calibration says from which score on it is an alarm, and what many edges show at once is
one deviation of the study and none of each of them. Sans-I/O: no clock, no disk, no chance; rounds come in order. What an edge
is accused of does not become its past.

    watch = ModelWatch(digest_of_study)
    for deviation in watch.round(RoundSeen(number=1, edges={"icu-a": EdgeSeen(examples=100, loss=0.7)})):
        print(deviation.state, deviation.kind, deviation.edge or deviation.edges, deviation.score, deviation.threshold)
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from wardround.watch.calibration import BUDGET_PER_1000, Calibration, CalibrationReport
from wardround.watch.detectors.confidence import Confidence
from wardround.watch.detectors.duration import Duration
from wardround.watch.detectors.first_loss import FirstLoss
from wardround.watch.detectors.global_loss import GlobalLoss
from wardround.watch.detectors.inputs import Inputs
from wardround.watch.detectors.loss import Loss
from wardround.watch.detectors.participation import Participation
from wardround.watch.detectors.seen import Detector, Deviation, EdgeSeen, Found, RoundSeen, Scored, Sign, Standing
from wardround.watch.detectors.step import StepNorm
from wardround.watch.setting_aside import SettingAside

__all__ = ["Deviation", "EdgeSeen", "ModelWatch", "RoundSeen"]

PAIR = struct.Struct("<dd")  # a round and a score, of which there are thousands: as bytes they are kept and written fast
EVIDENCE_MAX = 40  # scores kept by cause
QUIET_ROUNDS = 5  # without an alarm, and a cause is over
COMMON_SHARE, COMMON_ROUNDS, COMMON_EDGES_MIN = 0.25, 3, 3
EDGE_LOSS = "edge-loss"
COMMON = "federation-shift"  # the kind of what many edges show at once
OF_THE_MODEL = (("model-diverged", ""), (COMMON, EDGE_LOSS))  # causes that show in updates that cannot count, whoever made them


class _Cause(msgspec.Struct):
    """What is wrong: since when, and when it was last seen."""

    since: int
    last: int
    sign: str
    edges: list[str] = []


class _Saved(msgspec.Struct):
    configuration: str
    rounds: int
    calibration: bytes
    detectors: list[bytes]
    causes: list[tuple[str, str, _Cause]]  # kind, edge
    began: list[tuple[str, str, int]]
    present: list[list[str]]
    evidence: list[tuple[str, str, bytes | list[tuple[float, float]]]]  # sign, edge; as pairs, by an older version
    setting_aside: SettingAside = msgspec.field(default_factory=SettingAside)


def for_updates(spoilt: Collection[str], delivered: Collection[str], quorum: int) -> bool:
    """Whether an attempt came to nothing not for want of edges but as updates could not count: those of most who answered.

    One edge that sends what nobody can use holds up a round, too, and says nothing of the model.
    """
    return len(set(spoilt)) > len(set(delivered)) and len({*spoilt, *delivered}) >= quorum


def detectors(features: Sequence[str] = ()) -> list[Detector]:
    """One of each."""
    return [Loss(), FirstLoss(), GlobalLoss(), StepNorm(), Participation(), Duration(), Inputs(features), Confidence()]


class ModelWatch:
    """One study's. Memory: bounded by its edges and features, whatever the model's size and the number of rounds."""

    def __init__(
        self,
        configuration: str,
        *,
        features: Sequence[str] = (),
        budget_per_1000: float = BUDGET_PER_1000,
        make: Callable[[Sequence[str]], list[Detector]] = detectors,
    ) -> None:
        """`configuration` is a digest of what the study is: no state of another one is taken up. `features` name the inputs;
        `make(features)` gives the detectors."""
        self._configuration, self._features, self._budget, self._make = configuration, tuple(features), budget_per_1000, make
        self._start()

    def _start(self) -> None:
        self._detectors = self._make(self._features)
        self.signs: dict[str, Sign] = {name: sign for d in self._detectors for name, sign in d.signs.items()}
        self._calibration = Calibration(self._configuration, self.signs, budget_per_1000=self._budget)
        self._rounds = 0
        self._causes: dict[tuple[str, str], _Cause] = {}
        self._began: dict[tuple[str, str], int] = {}  # when an edge began to show a kind, while it does, and for some rounds more
        self._present: deque[list[str]] = deque(maxlen=COMMON_ROUNDS)
        self._evidence: dict[tuple[str, str], bytes] = {}  # by (sign, edge), newest last: pairs of round and score, as PAIR
        self._newest: dict[tuple[str, str], float] = {}
        self._setting_aside = SettingAside()
        self._abandoned = 0  # attempts since the newest model

    def round(self, seen: RoundSeen) -> list[Deviation]:
        """What is wrong after a committed round: new causes, those that last, and those that are over."""
        self._rounds += 1
        self._abandoned = 0
        found: dict[str, Mapping[str, Scored]] = {}
        for detector in self._detectors:
            found.update(detector.score(seen))
        self._keep(seen.number, found)
        self._present.append(sorted(seen.edges))
        above = self._above(found)
        if seen.edges and all(own.aside for own in seen.edges.values()):  # the model is its base: nobody has moved it
            self._still_shown(seen.number)
        deviations = self._told(seen.number, above)
        if seen.healthy and not self._causes:
            self._calibration.healthy({n: max(s.score for s in each.values()) for n, each in found.items() if each})
        accused = {edge for _, edge in above} | {edge for kind, edge in self._causes if kind != COMMON}
        accused |= {edge for cause in self._causes.values() for edge in cause.edges}
        self._setting_aside.look(seen.number, seen.edges, self._accused_by_loss())
        accused |= {edge for edge, own in seen.edges.items() if own.aside}
        for detector in self._detectors:
            detector.learn(seen, accused)
        return deviations

    def abandoned(self, number: int) -> None:
        """An attempt at round `number` has come to nothing, as too few updates could count. It teaches nothing; but where the
        model was seen to be wrong before, it still is."""
        self._abandoned += 1
        self._still_shown(number)

    def went_back(self) -> None:
        """The next round starts from an older model."""
        self._abandoned = 0

    def abandoned_attempts(self) -> int:
        """How many attempts at the next round have come to nothing since the newest model, as `abandoned` has it."""
        return self._abandoned

    def calibration(self) -> CalibrationReport:
        """How far calibration is, and the thresholds that hold."""
        return self._calibration.report(self._rounds)

    def calibrate_again(self) -> None:
        """Forget thresholds and pasts, as after a change that is meant to stay: the next healthy rounds are the new usual."""
        self._start()

    def standing(self) -> list[Standing]:
        """The causes that are not over, whether the newest round showed them or not."""
        return [(COMMON, "", key[1]) if key[0] == COMMON else (*key, "") for key in self._causes]

    def shown(self) -> Mapping[str, int]:
        """The round that showed a cause last, by kind, whoever's it is: of the causes that are not over."""
        newest: dict[str, int] = {}
        for (kind, _), cause in self._causes.items():
            newest[kind] = max(cause.last, newest.get(kind, 0))
        return newest

    def setting_aside(self) -> tuple[int, int]:
        """The first and the newest round of the newest run in which edges were set aside, or others accused; 0, 0: none."""
        return self._setting_aside.since, self._setting_aside.last

    def _still_shown(self, number: int) -> None:
        for key in OF_THE_MODEL:
            if (cause := self._causes.get(key)) is not None:
                cause.last = max(cause.last, number)

    def _accused_by_loss(self) -> set[str]:
        """Edges at which the model is worse than it was, while that is not over: each alone, or many at once."""
        alone = {edge for kind, edge in self._causes if kind == EDGE_LOSS}
        common = self._causes.get((COMMON, EDGE_LOSS))
        return alone | set(common.edges if common is not None else ())

    def scores(self, of_round: int | None = None) -> Mapping[tuple[str, str], tuple[float, float]]:
        """The newest score of each (sign, edge), or those of one of the newest rounds, with the threshold that holds; edge "" is
        the study."""
        newest = self._newest.items()
        if of_round is not None:
            newest = {k: s for k, s in newest if PAIR.unpack(self._evidence[k][-PAIR.size :])[0] == of_round}.items()
        return {key: (score, self._calibration.threshold(key[0])) for key, score in newest}

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        return msgspec.msgpack.encode(
            _Saved(
                self._configuration,
                self._rounds,
                self._calibration.state(),
                [d.state() for d in self._detectors],
                [(kind, edge, cause) for (kind, edge), cause in self._causes.items()],
                [(kind, edge, at) for (kind, edge), at in self._began.items()],
                list(self._present),
                [(sign, edge, series) for (sign, edge), series in self._evidence.items()],
                self._setting_aside,
            )
        )

    def restore(self, state: bytes) -> bool:
        """Take up a kept state; False: it is of another configuration or version, and everything begins anew."""
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
            if saved.configuration != self._configuration or len(saved.detectors) != len(self._detectors):
                return False
            for detector, own in zip(self._detectors, saved.detectors, strict=True):
                detector.restore(own)
            taken = self._calibration.restore(saved.calibration)
        except (msgspec.MsgspecError, ValueError):  # of an older version
            taken = False
        if not taken:
            self._start()
            return False
        self._rounds = saved.rounds
        self._causes = {(kind, edge): cause for kind, edge, cause in saved.causes}
        self._began = {(kind, edge): at for kind, edge, at in saved.began}
        self._present.extend(saved.present)
        self._evidence = {
            (sign, edge): series if isinstance(series, bytes) else b"".join(PAIR.pack(*pair) for pair in series)
            for sign, edge, series in saved.evidence
        }
        self._newest = {key: PAIR.unpack(series[-PAIR.size :])[1] for key, series in self._evidence.items()}
        self._setting_aside = saved.setting_aside
        return True

    def _keep(self, number: int, found: Found) -> None:
        for name, each in found.items():
            for edge, scored in each.items():
                key = (name, edge)
                series = self._evidence.pop(key, b"") + PAIR.pack(number, scored.score)
                self._evidence[key] = series[-EVIDENCE_MAX * PAIR.size :]
                self._newest[key] = scored.score
        while self._evidence:
            key, series = next(iter(self._evidence.items()))
            if number - PAIR.unpack(series[-PAIR.size :])[0] <= EVIDENCE_MAX:
                break
            del self._evidence[key]
            self._newest.pop(key, None)

    def _above(self, found: Found) -> dict[tuple[str, str], tuple[str, Scored]]:
        """What is beyond its threshold, by (kind, edge): the sign that is furthest beyond, and its score."""
        above: dict[tuple[str, str], tuple[str, Scored]] = {}
        for name, each in found.items():
            limit = self._calibration.threshold(name)
            for edge, scored in each.items():
                key = (self.signs[name].kind, edge)
                if scored.score > limit and (key not in above or scored.score / limit > self._beyond(*above[key])):
                    above[key] = (name, scored)
        return above

    def _beyond(self, name: str, scored: Scored) -> float:
        return scored.score / self._calibration.threshold(name)

    def _told(self, number: int, above: Mapping[tuple[str, str], tuple[str, Scored]]) -> list[Deviation]:
        for key in above:
            if key[1]:
                self._began.setdefault(key, number)
        self._began = {key: at for key, at in self._began.items() if key in above or number - at < COMMON_ROUNDS}
        common = self._common(number, above)
        deviations: list[Deviation] = []
        for kind, edges in common.items():
            strongest = max((above[kind, e] for e in edges if (kind, e) in above), key=lambda a: self._beyond(*a))
            deviations.append(self._seen((COMMON, kind), number, *strongest, edges=edges))
        explained = {(kind, edge) for kind, edges in common.items() for edge in edges}
        deviations += [self._seen(key, number, *strongest) for key, strongest in above.items() if key not in explained]
        for key, cause in list(self._causes.items()):
            if number - cause.last >= QUIET_ROUNDS or key in explained:
                del self._causes[key]
                deviations.append(self._deviation("over", key, number, cause, None))
        return deviations

    def _seen(self, key: tuple[str, str], number: int, sign: str, scored: Scored, edges: Collection[str] = ()) -> Deviation:
        state = "on" if key in self._causes else "new"
        cause = self._causes.setdefault(key, _Cause(number, number, sign))
        cause.last, cause.sign, cause.edges = number, sign, sorted({*cause.edges, *edges})
        return self._deviation(state, key, number, cause, scored)

    def _common(self, number: int, above: Collection[tuple[str, str]]) -> dict[str, set[str]]:
        """What began at many edges within a few rounds, and lasts: by kind, the edges."""
        present = len({edge for edges in self._present for edge in edges})
        by_kind: dict[str, set[str]] = {}
        for (kind, edge), at in self._began.items():
            if (COMMON, kind) in self._causes or number - at < COMMON_ROUNDS:
                by_kind.setdefault(kind, set()).add(edge)
        return {
            kind: edges
            for kind, edges in by_kind.items()
            if len(edges) >= COMMON_EDGES_MIN
            and len(edges) > COMMON_SHARE * present
            and any((kind, edge) in above for edge in edges)
        }

    def _deviation(self, state: str, key: tuple[str, str], number: int, cause: _Cause, scored: Scored | None) -> Deviation:
        common = key[0] == COMMON
        edge = "" if common else key[1]
        shown = cause.edges[0] if common and cause.edges else edge
        kept = PAIR.iter_unpack(self._evidence.get((cause.sign, shown), b""))
        evidence = tuple((at, round(score, 3)) for at, score in kept)
        if scored is None:
            scored = Scored(evidence[-1][1] if evidence else 0.0, 0.0, 0.0)
        return Deviation(
            state=state,
            kind=key[0],
            sign=cause.sign,
            round_number=number,
            since_round=cause.since,
            edge=edge,
            edges=tuple(cause.edges),
            of=key[1] if common else "",
            score=scored.score,
            threshold=self._calibration.threshold(cause.sign),
            value=scored.value,
            usual=scored.usual,
            parts=scored.parts,
            unit=self.signs[cause.sign].unit,
            evidence=evidence,
        )
