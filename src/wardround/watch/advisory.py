"""Joint advisory detectors of one study: what several of an edge's numbers say at once. They advise, and nothing is done by it.

Every round each edge's numbers become a vector (detectors/joint.py), and every detector that the study asks for scores it. A
threshold is what the healthy rounds of a calibration reached, and more where their tail says that the budget of false alarms
would not hold; until there were so many, nothing is said. Sans-I/O: rounds come in order; the same rounds make the same advice,
also over a restart.

    advisory = Advisory(["ecod"], budget_per_1000=2.0)
    for advice in advisory.round(seen, accused=(), healthy=True):
        print(advice.edge, advice.words)
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import msgspec
import numpy as np

from wardround.errors import SettingsError
from wardround.settings import ADVICE
from wardround.watch.alerts import Finding
from wardround.watch.calibration import MARGIN, TAIL_SHARE
from wardround.watch.detectors.ecod import Ecod
from wardround.watch.detectors.half_space_trees import HalfSpaceTrees
from wardround.watch.detectors.joint import NUMBERS, JointDetector, OwnNumbers
from wardround.watch.detectors.seen import RoundSeen

KIND = ADVICE
WINDOW = 1_000  # vectors that a detector is fitted to
FIT_ROUNDS = 10  # between two fits
FIT_MIN = 300  # vectors before there is one
HEALTHY_ROUNDS = 100  # that calibrate
QUIET_ROUNDS = 5  # without an edge being beyond, and it is over
EVIDENCE_MAX = 40
NAMED = 3  # numbers that are named
FORGET_ROUNDS = 500  # after an edge was seen last


@dataclass(frozen=True, slots=True)
class _Kind:
    title: str
    package: str  # as it is imported
    make: Callable[[], JointDetector]


DETECTORS: Mapping[str, _Kind] = MappingProxyType(
    {"ecod": _Kind("ECOD", "pyod", Ecod), "half-space-trees": _Kind("half-space trees", "river", HalfSpaceTrees)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What is begun to be said of one edge. `by`: the detectors that say so, with score and threshold.

    `numbers`: those furthest from their own usual, in own deviations. `evidence`: (round, score over threshold) of the strongest.
    """

    edge: str
    round_number: int
    by: Mapping[str, tuple[float, float]]
    numbers: tuple[tuple[str, float], ...]
    evidence: tuple[tuple[float, float], ...]

    @property
    def words(self) -> str:
        """For people."""
        said = " and ".join(
            f"{DETECTORS[name].title} ({score:.3g}, limit {limit:.3g})" for name, (score, limit) in self.by.items()
        )
        numbers = ", ".join(f"{name} {z:+.1f}" for name, z in self.numbers)
        return f"Unusual together by {said}; in own deviations: {numbers}"


class _Edge(msgspec.Struct):
    """What stands about an edge."""

    seen: int = 0  # the newest round that it was scored in
    since: int = 0  # the round from which on it is spoken of; 0: it is not
    last: int = 0
    scores: dict[str, float] = {}  # the newest, by detector
    evidence: list[tuple[float, float]] = []


class _Saved(msgspec.Struct):
    names: list[str]
    numbers: bytes
    window: list[list[float]]
    fitted: int
    rounds: int
    highest: dict[str, list[float]]
    edges: dict[str, _Edge]


def check_advisory(names: Sequence[str]) -> None:
    """Whether a study can have these detectors here.

    Raises:
        SettingsError: there is none of that name, or its library is not installed.
    """
    for name in names:
        if name not in DETECTORS:
            raise SettingsError(f"watch.advisory: there is no detector {name!r}", remedy=f"choose from {', '.join(DETECTORS)}")
        if importlib.util.find_spec(DETECTORS[name].package) is None:
            raise SettingsError(
                f"watch.advisory: {name!r} needs {DETECTORS[name].package}", remedy="pip install 'wardround[advisory]'"
            )


def make_advisory(names: Sequence[str], budget_per_1000: float) -> Advisory | None:
    """The joint detectors of a study; None where it wants none. Raises SettingsError: as check_advisory."""
    return Advisory(names, budget_per_1000=budget_per_1000) if names else None


class Advisory:
    """One study's. Memory: WINDOW vectors, and a handful of numbers an edge. Libraries are imported with the first fit."""

    def __init__(self, names: Sequence[str], *, budget_per_1000: float) -> None:
        """Raises SettingsError: as check_advisory."""
        check_advisory(names)
        self._names, self._share = list(names), budget_per_1000 / 1000 / max(1, len(names))
        self._begin()

    def _begin(self) -> None:
        self._numbers = OwnNumbers()
        self._window: list[list[float]] = []
        self._fitted = self._rounds = 0  # vectors of the window that the detectors know
        self._detectors: dict[str, JointDetector] = {}
        self._highest: dict[str, list[float]] = {name: [] for name in self._names}
        self._edges: dict[str, _Edge] = {}

    @property
    def calibrated(self) -> bool:
        """Whether there were healthy rounds enough."""
        return all(len(scores) >= HEALTHY_ROUNDS for scores in self._highest.values())

    def threshold(self, name: str) -> float:
        """Above it a score is worth saying; infinite while nothing is calibrated."""
        return _threshold(self._highest[name], self._share) if self.calibrated else math.inf

    def round(self, seen: RoundSeen, *, accused: Collection[str], healthy: bool) -> list[Advice]:
        """What begins to be said after a round. `accused`: of these edges something else is known, and they teach nothing."""
        self._rounds += 1
        vectors = self._numbers.vectors(seen)
        scored = self._scored(vectors)
        advice = self._said(seen.number, vectors, scored)
        standing = self.standing()
        if healthy and not standing and not accused and scored and not self.calibrated:
            for name in self._names:
                self._highest[name].append(max(self._edges[edge].scores[name] for edge in scored))
        leave_out = {*accused, *standing, *(edge for edge, own in seen.edges.items() if own.aside)}
        self._numbers.learn(seen, leave_out)
        self._window += [vector for edge, vector in vectors.items() if edge not in leave_out]
        if self._rounds % FIT_ROUNDS == 0 and len(self._window) >= FIT_MIN:
            del self._window[:-WINDOW]
            self._fitted = len(self._window)
            self._fit()
        return advice

    def standing(self) -> set[str]:
        """The edges that are spoken of."""
        return {edge for edge, own in self._edges.items() if own.since}

    def calibrate_again(self) -> None:
        """Forget thresholds and pasts: the next healthy rounds are the new usual. What was said is over."""
        self._begin()

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        saved = _Saved(self._names, self._numbers.state(), self._window, self._fitted, self._rounds, self._highest, self._edges)
        return msgspec.msgpack.encode(saved)

    def restore(self, state: bytes) -> bool:
        """Take up a kept state; False: it is of other detectors or another version, and everything begins anew."""
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
            if saved.names != self._names or any(len(v) != len(NUMBERS) for v in saved.window):
                return False
            self._numbers.restore(saved.numbers)
        except (msgspec.MsgspecError, ValueError):
            self._begin()
            return False
        self._window, self._fitted, self._rounds = saved.window, saved.fitted, saved.rounds
        self._highest, self._edges = saved.highest, saved.edges
        if self._fitted:
            self._fit()
        return True

    # -- how

    def _fit(self) -> None:
        """Between two fits the window grows and is not cut, so that a restart makes the same detectors."""
        known = np.array(self._window[: self._fitted])
        for name in self._names:
            self._detectors.setdefault(name, DETECTORS[name].make()).fit(known)

    def _scored(self, vectors: Mapping[str, list[float]]) -> list[str]:
        """Score every edge; the edges that were."""
        if not self._detectors or not vectors:
            return []
        table = np.array(list(vectors.values()))
        for name, detector in self._detectors.items():
            for edge, score in zip(vectors, detector.score(table).tolist(), strict=True):
                self._edges.setdefault(edge, _Edge()).scores[name] = score if math.isfinite(score) else 0.0
        return list(vectors)

    def _said(self, number: int, vectors: Mapping[str, list[float]], scored: Collection[str]) -> list[Advice]:
        limits = {name: self.threshold(name) for name in self._names}
        found = []
        for edge in scored:
            own = self._edges[edge]
            own.seen = number
            scores = {name: own.scores[name] for name in self._names}
            if all(math.isfinite(limit) and limit > 0.0 for limit in limits.values()):
                own.evidence.append((float(number), round(max(scores[n] / limits[n] for n in self._names), 3)))
                del own.evidence[:-EVIDENCE_MAX]
            by = {name: (score, limits[name]) for name, score in scores.items() if score > limits[name]}
            if by:
                own.last = number
                if own.since:
                    continue  # it lasts, and was said
                own.since = number
                strongest = sorted(zip(NUMBERS, vectors[edge], strict=True), key=lambda n: -abs(n[1]))[:NAMED]
                evidence = tuple(own.evidence)
                found.append(Advice(edge=edge, round_number=number, by=by, numbers=tuple(strongest), evidence=evidence))
        for edge, own in list(self._edges.items()):
            if own.since and number - own.last >= QUIET_ROUNDS:
                own.since = 0
            if number - own.seen > FORGET_ROUNDS:
                del self._edges[edge]
        return found


def _threshold(scores: Sequence[float], share: float) -> float:
    """MARGIN times the highest of the healthy rounds, or what a share of them go beyond if their tail is exponential."""
    ordered = sorted(scores)
    count = max(2, round(TAIL_SHARE * len(ordered)))
    start = ordered[-count - 1]
    excess = sum(s - start for s in ordered[-count:]) / count
    return max(MARGIN * ordered[-1], start + excess * math.log(max(1.0, count / len(ordered) / share)))


def finding(study: str, advice: Advice, now_us: int) -> Finding:
    """A notice of low priority about an edge of which nothing else is known."""
    return Finding(
        kind="joint-advisory",
        title=f"Several numbers of {advice.edge} are unusual together",
        priority="low",
        category="model",
        since_us=now_us,
        detected_us=now_us,
        edge=advice.edge,
        study=study,
        detail=f"Round {advice.round_number}: {advice.words}.",
        evidence=advice.evidence,
        evidence_unit="score over its threshold",
        threshold=1.0,
        impact="None by itself: no single number is beyond its limit. Nothing is done about it.",
        causes=(
            "something begins that is still too small for a sign of its own",
            "chance: this is advice",
            "other patients than before",
        ),
        action=f"Look again in some rounds; compare what is named at {advice.edge} since round {advice.round_number}.",
    )
