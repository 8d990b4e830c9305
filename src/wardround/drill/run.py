"""One run of the drill: a fleet with a fault from a round on, and who saw what of it.

The fleet is the rehearsal's: real triage, the study's screens and strategy, quarantine. Nothing here knows which edge is at fault
until the run is over and is looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from wardround.drill.faults import Fault
from wardround.drill.hearing import Hearing
from wardround.drill.meddling import Meddling
from wardround.drill.own_eyes import ATTACKS, OwnEyes
from wardround.drill.remedy import Remedy
from wardround.drill.wards import Wards
from wardround.errors import LearnError, RoundGivenUp
from wardround.learn.faults import Faults
from wardround.learn.fleet import Fleet, RehearsedRound
from wardround.learn.models import Parameters, TensorSource, is_buffer
from wardround.learn.scores import METRICS
from wardround.learn.study import Study
from wardround.records import Examples
from wardround.watch.detectors.screens import Screens
from wardround.watch.detectors.trial import ON_TRIAL
from wardround.watch.detectors.updates import Verdict
from wardround.watch.model_watch import COMMON, Deviation, ModelWatch
from wardround.watch.respond import Act

ABSENT = 0.2  # chance that an edge that is asked stays away: every fleet has some
SCORED_ROUNDS = 10  # the last ones, whose mean is the score: one model alone is luck


@dataclass(frozen=True, slots=True)
class Sighting:
    """A detector speaks."""

    number: int  # of the round
    edge: str  # empty: of the federation
    detector: str
    score: float = 0.0
    threshold: float = 0.0


@dataclass
class Run:
    """What became of one."""

    fault: str  # empty: none, a healthy run
    seed: int
    from_round: int
    rounds: int
    edges: tuple[str, ...]
    struck: frozenset[str]
    sightings: list[Sighting] = field(default_factory=list)
    aside: dict[str, int] = field(default_factory=dict)  # the first round in which the edge was set aside
    done: list[tuple[int, Act]] = field(default_factory=list)  # about the study: after which round, and what
    scores: dict[str, float] = field(default_factory=dict)  # by edge, on examples that nobody trains on


class _Heard:
    """The study's screens, and what they say."""

    def __init__(self, study: Study) -> None:
        triage = study.triage
        self._screens = Screens(
            f"drill/{study.learner.seed}",
            threshold=triage.screen_threshold,
            rounds_min=triage.screen_rounds_min,
            twin_threshold=triage.twin_cosine_max,
            trial_rounds=triage.trial_rounds,
        )
        self.said: list[Sighting] = []

    def judge_round(
        self, round_number: int, updates: Mapping[str, TensorSource], aside: Collection[str] = ()
    ) -> Mapping[str, Verdict]:
        verdicts = self._screens.judge_round(round_number, updates, aside)
        self.said += [
            Sighting(round_number, e, v.reason, v.score, v.threshold)
            for e, v in sorted(verdicts.items())
            if not v.accepted and v.reason != ON_TRIAL
        ]
        return verdicts

    def admit(self, edge: str) -> None:
        self._screens.admit(edge)

    def stepped(self, step: TensorSource) -> None:
        self._screens.stepped(step)

    def state(self) -> bytes:
        return self._screens.state()

    def restore(self, state: bytes) -> None:
        self._screens.restore(state)


def play(study: Study, wards: Wards, metric: str, fault: Fault | None, *, from_round: int, seed: int) -> Iterator[Run]:
    """A run, given after each of its rounds and complete after the last.

    Raises:
        LearnError: as Fleet.run.
    """
    heard = _Heard(study)
    every = wards.examples(0)
    usable = tuple(sorted(n for n, e in every.items() if int((e.labels >= 0).sum()) >= study.rounds.examples_min))
    meddling = Meddling(wards, usable, fault, from_round=from_round, seed=seed)
    name = fault.name if fault else ""
    eyes = OwnEyes(study, len(usable), meddling.struck if name in ATTACKS else frozenset(), lambda: meddling.now)
    faults = Faults(absent=ABSENT)
    fleet = Fleet(study, every, classes=wards.classes, faults=faults, screen=heard, interference=meddling, own_screens=eyes)
    run = Run(name, seed, from_round, study.rounds.count, fleet.names, meddling.struck)
    tried = wards.tried()
    sums: dict[str, list[float]] = {}
    before = fleet.first_model()
    hearing, watch = Hearing(before), ModelWatch("drill", features=next(iter(every.values())).feature_names)
    eyes.see_by(hearing, fleet.learner)
    remedy = Remedy(study, fleet)
    rounds = fleet.run()
    for number in range(1, study.rounds.count + 1):
        try:
            done = next(rounds)
        except LearnError as error:
            if not meddling.at_work(number):
                raise
            run.sightings.append(Sighting(number, "", "round-abandoned"))  # again and again: the study makes no model any more
            responses = remedy.given_up(number, error, watch) if isinstance(error, RoundGivenUp) else []
            run.done += [(number, e.act) for e in responses]
            if responses or not run.scores:
                run.scores = _scores(fleet, metric, tried, before if remedy.held is None else remedy.held)
            if not any(e.act is Act.ROLLBACK for e in responses):
                run.rounds = number
                yield run
                return
            before, rounds = fleet.model, fleet.go_on(number + 1)
            yield run
            continue
        meddling.last_step = _step(before, done.model)
        before = done.model
        _note(run, heard, eyes, done)
        deviations = watch.round(eyes.left_of(hearing.seen(done, meddling.now, meddling.last_step)))
        run.sightings += [s for d in deviations for s in told(d)]
        responses = remedy.look(number, deviations, watch)
        run.done += [(number, e.act) for e in responses]
        if any(e.act is Act.PAUSE for e in responses):  # it waits for a person, and predicts with what it holds
            run.scores, run.rounds = _scores(fleet, metric, tried, remedy.held or done.model), number
            yield run
            return
        before = fleet.model
        if study.rounds.count - number < SCORED_ROUNDS:
            for edge, score in _scores(fleet, metric, tried, done.model).items():
                sums.setdefault(edge, []).append(score)
        run.scores = {edge: float(np.mean(found)) for edge, found in sums.items()}
        yield run


def _scores(fleet: Fleet, metric: str, tried: Mapping[str, Examples], model: Parameters) -> dict[str, float]:
    return {e: METRICS[metric](x.labels, fleet.learner.predict(model, x.features)) for e, x in tried.items()}


def _note(run: Run, heard: _Heard, eyes: OwnEyes, done: RehearsedRound) -> None:
    """What was said in a round."""
    run.sightings += [*heard.said, *(Sighting(*said) for said in eyes.told())]
    heard.said = []
    sat_out = {edge for edge, reason in done.refused.items() if reason in eyes.screens}
    refused = sorted((edge, reason) for edge, reason in done.refused.items() if edge not in sat_out)
    run.sightings += [Sighting(done.number, edge, f"triage-{reason}") for edge, reason in refused]
    for edge in (*done.aside, *sorted(sat_out)):
        run.aside.setdefault(edge, done.number)


def told(deviation: Deviation) -> Iterator[Sighting]:
    """What a deviation says: of its edge, or of the study and the edges that show it at once."""
    if deviation.state == "over":
        return
    facts = (deviation.score, deviation.threshold)
    kind = f"{COMMON} {deviation.sign}" if deviation.kind == COMMON else deviation.kind
    if deviation.kind == COMMON or not deviation.edge:
        yield Sighting(deviation.round_number, "", kind, *facts)
    for edge in deviation.edges or filter(None, [deviation.edge]):
        yield Sighting(deviation.round_number, edge, kind, *facts)


def _step(base: Parameters, model: Parameters) -> Parameters:
    return {name: model[name] - base[name] for name in model if not is_buffer(name)}
