"""The own-history screen: an update against its own edge's past, before it is folded.

Edges differ from each other for good reasons; an edge seldom differs from itself. Four signs, each on a scale where about 1 is
healthy: the size of the update relative to the others of its round; its direction relative to the others' and to its own; and,
once there is enough history, two that see what is too small to see once: an EWMA of how much less than usual it points its own
usual way (course), and one of the deviation of its sketch from its own mean in its own standard deviations (drift, chi square
over the dimensions). What is refused does not become history, and what is doubtful hardly does: a bias that creeps in does not
become usual.

What happens to the edges of a round alike is nobody's: the median change of the round is taken off the last two, and where most
edges turn, an edge has to turn that much more, and beyond the spread of how much they do: a model that comes to its end turns
every edge's updates, slower and slower, and some by three times as much as most (as measured over 119 hospitals). A model that
goes elsewhere (others were set aside, or are at fault) changes all updates by about as much, which turns a small one further:
half the size, twice the angle. When the hub's own step is far larger than it was, every edge trains from somewhere else: until
that has become usual only sizes are judged, beyond the spread of how much the round's have changed, and then history begins anew.
Source: own-history consistency, Zhang et al., FLDetector, KDD 2022, arXiv:2207.09209, whose idea this is without the Hessian.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from wardround.watch.detectors.updates import DIMENSIONS, Sketched, Sketcher, Tensors, Vector, Verdict

ROUNDS_MIN = 4  # of an edge's own past, before the screen says anything, unless the study says
REFERENCE_ROUNDS = 30  # of its own past, before the slow signs are used
EWMA = 0.2
SETTLED = EWMA / (2 - EWMA)  # the variance of an EWMA of numbers of variance 1
CLIP = 5.0
COURSE_EWMA, COURSE_CLIP = 0.1, 3.0
COURSE_SETTLED = COURSE_EWMA / (2 - COURSE_EWMA)
COMMON_MIN = 5  # edges of a round with enough history, so that their median says what is common
NORM_SD_MIN = 0.25  # of log norm: less than a factor of 1.3 is no sign
COSINE_SD_MIN = 0.12
DRIFT_SD_MIN = 0.35  # of the whole direction: honest training turns, slowly and all one way, by 16 degrees and less
CHANCE_SD = 1.4  # of the cosine of a small model's updates: it falls further by chance than a normal distribution has it
FEW = 4.0  # rounds that are few
COURSE_SD_MIN = 0.05
SMALLEST = 1 / 3  # of the usual size: smaller updates may turn no further than such
SPREAD_SD = 2.0  # of the logarithm of drifts, beyond their median: so much more may one edge turn where edges turn unlike much
MAD_SD = 1.4826  # of a normal distribution: its standard deviation, by how far its quartiles lie from its median
NORM_Z, COSINE_Z, COURSE_Z, CHI2 = 6.0, 5.0, 5.3, 5.5
THRESHOLD = 6.0  # every sign is scaled to this one threshold, which a study may move
NEWER = 2.0  # the weight of a round grows with its number: a study turns fastest at first, and what it did then is soon old
FORGET = 0.02  # the weight of a new round in an edge's running mean and variance, once the reference is full
DOUBT = 4.0  # chi square at which a round that is accepted teaches nothing; less teaches in proportion
STEP_RATIO, STEP_ROUNDS, STEP_ROUNDS_MIN = 4.0, 20, 5  # the hub's step is unusual beyond so many times the median of so many


class _Past(msgspec.Struct):
    """One edge's past: running means and sums of squared deviations."""

    rounds: int
    norm: tuple[float, float]  # mean and variance of the log norm relative to the round's median
    peers: tuple[float, float]  # of the cosine to the others' mean direction
    own: tuple[float, float]  # of the cosine to its own mean direction
    mean: bytes  # sketch, float64
    variance: bytes
    ewma: bytes
    course: float = 0.0  # EWMA of falls of the cosine to its own mean direction, in its own standard deviations


class _Saved(msgspec.Struct):
    edges: dict[str, _Past]
    steps: list[float] = []  # norms of the hub's newest steps
    unsettled: bool = False
    calm: float = 0.0  # as _slow_signs has it


class _Look(msgspec.Struct):
    """One update beside its edge's past."""

    past: _Past | None
    direction: Vector
    chance: float
    log_norm: float  # relative to the round's median
    spread: float  # of how far the norms of the round's edges lie from their own pasts
    peers: float  # cosine to the others' mean direction
    own: float = 0.0  # cosine to its own mean direction
    course: float = 0.0  # fall of that, in its own standard deviations
    drift: Vector | None = None  # EWMA of the deviation from its own mean, in its own standard deviations, up to now
    chi2: float = 0.0  # of that, relative to what is usual in the round


class OwnHistory:
    """The screen of one study. Memory: three sketches an edge, whatever the size of the model."""

    def __init__(self, seed: str, *, threshold: float = THRESHOLD, rounds_min: int = ROUNDS_MIN) -> None:
        """`seed` is the hub's own: an edge that knew the sketch could hide in what it does not see."""
        self._sketcher, self._threshold, self._rounds_min = Sketcher(seed), threshold, rounds_min
        self._past: dict[str, _Past] = {}
        self._steps: list[float] = []
        self._unsettled, self._calm = False, 0.0

    def judge_round(self, round_number: int, updates: Mapping[str, Tensors], aside: Collection[str] = ()) -> dict[str, Verdict]:
        """A verdict for each edge; each update is read once, a block at a time."""
        return self.judge(round_number, {edge: self._sketcher.sketch(update) for edge, update in updates.items()}, aside)

    def judge(self, round_number: int, updates: Mapping[str, Sketched], refused: Collection[str] = ()) -> dict[str, Verdict]:
        """As judge_round, of sketches; those of `refused` are judged and teach nothing."""
        del round_number
        looks = self._looks(updates)
        old = [look for look in looks.values() if look.past is not None and look.past.rounds >= REFERENCE_ROUNDS]
        self._calm = _slow_signs(old, self._calm)
        verdicts: dict[str, Verdict] = {}
        learned: list[tuple[_Past, _Look]] = []
        for edge, look in looks.items():
            verdict, course = self._judge(look, len(updates) - 1)
            verdicts[edge] = verdict
            if self._unsettled or not verdict.accepted or edge in refused:
                continue
            if look.past is None:
                self._past[edge] = _first(look)
            else:
                look.past.course = course
                learned.append((look.past, look))
        _learn(learned)
        return verdicts

    def admit(self, edge: str) -> None:
        """As learn.triage.Screen has it: here nobody is on trial."""

    def stepped(self, step: Tensors) -> None:
        """As moved, of the step itself."""
        self.moved(self._sketcher.sketch(step))

    def moved(self, step: Sketched) -> None:
        """The round's global step: one that is far larger than usual moves every edge."""
        usual = float(np.median(self._steps)) if len(self._steps) >= STEP_ROUNDS_MIN else 0.0
        unsettled = usual > 0 and step.norm > STEP_RATIO * usual
        if self._unsettled and not unsettled:
            self._past = {}
        self._unsettled = unsettled
        self._steps = [*self._steps[-(STEP_ROUNDS - 1) :], step.norm]

    def state(self) -> bytes:
        """The history."""
        return msgspec.msgpack.encode(_Saved(self._past, self._steps, self._unsettled, self._calm))

    def restore(self, state: bytes) -> None:
        """Take up a kept history."""
        saved = msgspec.msgpack.decode(state, type=_Saved)
        self._past, self._steps, self._unsettled, self._calm = saved.edges, saved.steps, saved.unsettled, saved.calm

    def _looks(self, updates: Mapping[str, Sketched]) -> dict[str, _Look]:
        if not updates:
            return {}
        logs = [math.log(u.norm + 1e-12) for u in updates.values()]
        usual, rows = float(np.median(logs)), np.array([u.direction for u in updates.values()])
        peers = _cosines(rows, rows.sum(axis=0) - rows) if len(updates) > 2 else np.zeros(len(updates))
        spread = self._spread_of_norms({edge: log - usual for edge, log in zip(updates, logs, strict=True)})
        looks = {
            edge: _Look(self._past.get(edge), u.direction, u.chance, log - usual, spread, peer)
            for (edge, u), log, peer in zip(updates.items(), logs, peers.tolist(), strict=True)
        }
        known = [(look, look.past) for look in looks.values() if look.past is not None]
        own = _cosines(_rows([look.direction for look, _ in known]), _stored([past.mean for _, past in known]))
        for (look, _), cosine in zip(known, own.tolist(), strict=True):
            look.own = cosine
        return looks

    def _spread_of_norms(self, logs: Mapping[str, float]) -> float:
        """When all edges train from somewhere else their sizes change, one more than another: that is nobody's fault."""
        pasts = [(log, self._past[e]) for e, log in logs.items() if e in self._past]
        changes = [abs(log - past.norm[0]) for log, past in pasts if past.rounds >= self._rounds_min]
        return MAD_SD * float(np.median(changes)) if len(changes) >= COMMON_MIN else 0.0

    def _judge(self, look: _Look, others: int) -> tuple[Verdict, float]:
        """A verdict, and the edge's course if the update is to be learned."""
        past = look.past
        if past is None:
            return Verdict(accepted=True, reason="", score=0.0, threshold=self._threshold), 0.0
        signs = {"norm": 0.0, "direction": 0.0, "course": 0.0, "drift": 0.0}
        if past.rounds >= self._rounds_min:
            sd = max(_sd(past.norm), NORM_SD_MIN, look.spread)
            signs["norm"] = abs(look.log_norm - past.norm[0]) / sd * THRESHOLD / NORM_Z
        course = past.course
        if not self._unsettled:
            if past.rounds >= self._rounds_min:
                signs["direction"] = _fall(past, look, others) * THRESHOLD / COSINE_Z
            if look.drift is not None:
                course += COURSE_EWMA * (max(-COURSE_CLIP, min(COURSE_CLIP, look.course)) - course)
                signs["course"] = max(0.0, course) / math.sqrt(COURSE_SETTLED) * THRESHOLD / COURSE_Z
                signs["drift"] = look.chi2 * THRESHOLD / CHI2
        reason, score = max(signs.items(), key=lambda sign: sign[1])
        accepted = score <= self._threshold
        return Verdict(accepted, "" if accepted else f"own-history-{reason}", round(score, 2), self._threshold), course


def _learn(learned: Sequence[tuple[_Past, _Look]]) -> None:
    """Take updates into their edges' pasts, those of all edges together."""
    weights = np.empty((len(learned), 1))
    for place, (past, look) in enumerate(learned):
        past.rounds += 1
        weight = max(0.0, 1.0 - look.chi2 / DOUBT) * max(FORGET, NEWER / (past.rounds + NEWER - 1))
        past.norm = _moved(past.norm, look.log_norm, weight)
        past.peers = _moved(past.peers, look.peers, weight)
        past.own = _moved(past.own, look.own, weight) if past.rounds > 2 else (look.own, 0.0)
        weights[place] = weight
    means, variances = _stored([past.mean for past, _ in learned]), _stored([past.variance for past, _ in learned])
    deviations = _rows([look.direction for _, look in learned]) - means
    means = means + weights * deviations
    variances = (1 - weights) * (variances + weights * deviations**2)
    for (past, look), mean, variance in zip(learned, means, variances, strict=True):
        past.mean, past.variance = mean.tobytes(), variance.tobytes()
        if look.drift is not None:
            past.ewma = look.drift.tobytes()


def _slow_signs(looks: Sequence[_Look], calm: float) -> float:
    """Course and drift of the edges that have a past long enough, without what is common to the round.

    `calm` is how far half of a round's edges have drifted so far, a slow mean; the new one is returned. 0: not known yet.
    """
    if not looks:
        return calm
    pasts = [look.past for look in looks if look.past is not None]
    chances = np.array([look.chance for look in looks])
    courses = np.array([(p.own[0] - look.own) / max(_sd(p.own), COURSE_SD_MIN) for p, look in zip(pasts, looks, strict=True)])
    sds = np.sqrt(np.maximum(_stored([p.variance for p in pasts]), (DRIFT_SD_MIN * chances[:, None]) ** 2))
    z = (_rows([look.direction for look in looks]) - _stored([p.mean for p in pasts])) / sds
    if len(looks) >= COMMON_MIN:  # the median deviation of the round is the model's or the hub's; what is left is an edge's own
        z -= np.median(z, axis=0)
        course = float(np.median(courses))
        spread = MAD_SD * (course - float(np.quantile(courses, 0.25)))  # of those that fall less than most: nobody's fault
        courses = (courses - max(0.0, course)) / max(1.0, spread)
    before = _stored([p.ewma for p in pasts])
    drifts = before + EWMA * (np.clip(z, -CLIP, CLIP) - before)
    chi2 = (drifts**2).sum(axis=1) * chances**2 / SETTLED  # a small model does not fill the sketch
    usual = _usual_drift(chi2)
    middle = float(np.median(chi2))
    if len(looks) >= COMMON_MIN and calm > 0:  # by what edges turn more than they did, small updates turn further
        sizes = np.exp(np.array([p.norm[0] for p in pasts]))  # of each edge's updates, to the median of a round
        usual = usual + max(0.0, middle - calm) * (np.clip(sizes, SMALLEST, 1.0) ** -2 - 1)
    chi2 /= np.maximum(1.0, usual)
    for look, drift, own, own_course in zip(looks, drifts, chi2.tolist(), courses.tolist(), strict=True):
        look.drift, look.chi2, look.course = drift, own, own_course
    return calm + FORGET * (middle - calm) if calm > 0 else middle


def _fall(past: _Past, look: _Look, others: int) -> float:
    """How far the direction has turned from its own way or the others', in standard deviations."""
    wider = math.sqrt(1 + FEW / past.rounds)  # a deviation that few rounds have shown is not known well
    least = max(COSINE_SD_MIN, CHANCE_SD * look.chance)
    own = (past.own[0] - look.own) / wider / max(_sd(past.own), least)
    peers = (past.peers[0] - look.peers) / wider / max(_sd(past.peers), least) if others > 2 else 0.0
    return max(0.0, own, peers)


def _usual_drift(drifts: Vector) -> Vector:
    """As a model comes to its end every edge turns, one more than another; who turns as the others do has not changed.

    With few edges an edge is held against the others alone, as it would be half of what is usual itself.
    """
    if len(drifts) < COMMON_MIN:
        return np.array([_lower_median(np.delete(drifts, place)) for place in range(len(drifts))])
    logs = np.log(np.maximum(drifts, 1e-6))
    middle = float(np.median(logs))
    below = MAD_SD * (middle - float(np.quantile(logs, 0.25)))  # those at fault turn more than most, and spread nothing here
    reach = math.exp(middle + SPREAD_SD * below) / CHI2
    return np.full(len(drifts), max(math.exp(middle), reach))


def _lower_median(values: Vector) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2]) if len(values) else 1.0


def _first(look: _Look) -> _Past:
    zero = np.zeros(DIMENSIONS).tobytes()
    return _Past(
        rounds=1,
        norm=(look.log_norm, 0.0),
        peers=(look.peers, 0.0),
        own=(1.0, 0.0),
        mean=look.direction.tobytes(),
        variance=zero,
        ewma=zero,
    )


def _rows(vectors: Sequence[Vector]) -> Vector:
    return np.array(vectors, np.float64).reshape(-1, DIMENSIONS)


def _stored(vectors: Sequence[bytes]) -> Vector:
    return np.frombuffer(b"".join(vectors), np.float64).reshape(-1, DIMENSIONS)


def _cosines(rows: Vector, others: Vector) -> Vector:
    """Of rows of length one to others, each to its own."""
    return np.asarray(np.vecdot(rows, others) / (np.linalg.norm(others, axis=1) + 1e-12))


def _sd(mean_var: tuple[float, float]) -> float:
    return math.sqrt(mean_var[1])


def _moved(mean_var: tuple[float, float], value: float, weight: float) -> tuple[float, float]:
    """Running mean and variance with the newest value at `weight` (West, CACM 22(9), 1979, in its weighted form)."""
    mean, variance = mean_var
    deviation = value - mean
    return mean + weight * deviation, (1 - weight) * (variance + weight * deviation * deviation)
