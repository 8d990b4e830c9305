"""A live drill as the command plays it: a plan for each fault, and what the hub has shown of it as a run like any other.

Two runs of a seed make an outcome: one without a fault, and one with it. Examples, faults and how a run is looked at are the
rehearsal's; who trains, what carries it, and who watches, are the running hub's and its edges'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np

from wardround.drill.catalogue import FAULTS
from wardround.drill.faults import Fault
from wardround.drill.fleet_faults import Participation, ServerStep, Straggler
from wardround.drill.outcome import Drilled, look_at
from wardround.drill.run import Run, Sighting, told
from wardround.drill.synthetic import CLASSES, FEATURE_NAMES, FEATURES, SyntheticWards, synthetic_study
from wardround.errors import StudyError
from wardround.learn.learners import make_learner
from wardround.learn.models import decode_model
from wardround.learn.scores import METRICS
from wardround.learn.strategies import make_strategy
from wardround.learn.study import Study, TrainingSettings, encode_training, features_digest
from wardround.live_drills.plan import Noticed, Plan, Shown
from wardround.records import SANDBOX
from wardround.watch.detectors.seen import Deviation

NOT_LIVE = {ServerStep.name: "its fault is the hub's own step, which a running hub keeps: rehearse it, without --live"}
ORDERED = tuple(name for name in FAULTS if name not in NOT_LIVE)  # to edges that run
WAITS_S = 1.0  # of a struck edge's time that "two and a half times as long" is taken of: a training here takes milliseconds
DEADLINE_S = 30.0
EDGES_SPARE = 8  # with fewer a round goes on with two: half of them may stay away


class Hub(Protocol):
    """A running hub, as the command asks it. Each raises WardroundError: it refused, or does not answer."""

    def edges(self) -> Sequence[str]: ...

    def start(self, plan: Plan) -> str: ...

    def wait(self, study: str) -> Shown: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says beside the faults."""

    rounds: int
    from_round: int
    struck: tuple[str, ...] = ()  # by name; none: by the seed, as in a rehearsal
    minutes: float = 30.0
    deliver: bool = False
    keep: bool = False


@dataclass
class LiveCourse:
    """A live drill, run by run."""

    hub: Hub
    faults: Sequence[Fault]
    seeds: Sequence[int]
    options: Options
    stamp: str  # makes names of this call
    edges: tuple[str, ...] = ()
    done: Drilled = field(init=False)
    shown: list[Shown] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.done = Drilled(self.options.from_round, list(self.faults))

    @property
    def runs(self) -> int:
        """How many there are."""
        return len(self.seeds) * (1 + len(self.faults))

    def run(self, say: Callable[[str, int], None] = lambda _words, _rounds: None) -> Iterator[Run]:
        """Every run, when it is over; `say(words, rounds)` meanwhile.

        Raises:
            WardroundError: the hub refused, or a run did not come to its end.
        """
        self.edges = tuple(self.hub.edges())
        unknown = sorted(set(self.options.struck) - set(self.edges))
        if unknown:
            raise StudyError(f"not connected, or not for drills: {', '.join(unknown)}", remedy="strike edges that allow it")
        for seed in self.seeds:
            calm = self._play(None, seed, say)
            yield calm
            for fault in self.faults:
                run = self._play(fault, seed, say)
                self.done.outcomes.append(look_at(run, calm))
                yield run

    def _play(self, fault: Fault | None, seed: int, say: Callable[[str, int], None]) -> Run:
        plan = self.plan(fault, seed)
        study = self.hub.start(plan)
        ended = False
        try:
            while True:
                shown = self.hub.wait(study)
                say(f"{plan.fault or 'healthy'}, seed {seed}: {len(shown.alerts)} alerts", shown.round_number)
                if ended := shown.state != "running":
                    break
        finally:
            if not ended:  # whoever waits has gone
                self.hub.stop()
        self.shown.append(shown)
        if shown.state != "done":
            raise StudyError(f"{study} did not come to its end: {shown.why}", remedy="see the hub's log, and play it again")
        return run_of(shown, plan.study)

    def plan(self, fault: Fault | None, seed: int) -> Plan:
        """What the hub is asked for."""
        own, edges = self.options, self.edges
        name = f"{SANDBOX}{fault.name if fault else 'healthy'}-{seed}-{self.stamp}"
        study = sandbox_study(name, own.rounds, seed, len(edges))
        struck = frozenset(own.struck) if own.struck and fault and fault.share else fault.edges(edges, seed) if fault else ()
        return Plan(
            study=study,
            training=training_of(study),
            shape=(FEATURES, CLASSES),
            seed=seed,
            edges=edges,
            struck=tuple(sorted(struck)),
            fault=fault.name if fault else "",
            from_round=own.from_round if fault else 0,
            slower_s=fault.seconds(WAITS_S) if isinstance(fault, Straggler) else 0.0,
            absent=fault.absent if isinstance(fault, Participation) else 0.0,
            minutes=own.minutes,
            deliver=own.deliver,
            keep=own.keep,
        )


def sandbox_study(name: str, rounds: int, seed: int, edges: int) -> Study:
    """The drill's own study, under a name that no study can have."""
    study = synthetic_study(rounds, seed)
    few = 3 if edges >= EDGES_SPARE else 2
    own = msgspec.structs.replace(study.rounds, edges_min=few, deadline_s=DEADLINE_S)
    return msgspec.structs.replace(study, name=name, rounds=own)


def training_of(study: Study) -> bytes:
    """What edges are told of it."""
    return encode_training(
        TrainingSettings(
            task=study.task,
            learner=study.learner,
            score=study.score,
            examples_min=study.rounds.examples_min,
            features=features_digest(FEATURE_NAMES),
            classes=CLASSES,
            rule=make_strategy(study.strategy, study.learner).rule,
            row_counts=study.watch.row_counts,
        )
    )


def run_of(shown: Shown, study: Study) -> Run:
    """What a hub has shown of a drill, as a run of the rehearsal's."""
    run = Run(shown.fault, shown.seed, shown.from_round, shown.round_number, shown.edges, frozenset(shown.struck))
    run.sightings += [Sighting(v.number, v.edge, v.reason, v.score, v.threshold) for v in shown.verdicts]
    run.sightings += [Sighting(number, edge, f"triage-{reason}") for number, edge, reason in shown.refused]
    run.sightings += [Sighting(number, "", "round-abandoned") for number in shown.abandoned]
    for n in shown.noticed:
        run.sightings += told(_deviation(n))
    run.sightings.sort(key=lambda s: s.number)
    run.aside = dict(shown.aside)  # and nothing else is done: a sandbox has no responses
    wards = SyntheticWards(shown.seed, len(shown.edges))
    names, tried = dict(zip(wards.names, shown.edges, strict=True)), wards.tried()
    learner = make_learner(study.learner, FEATURES, CLASSES)
    models = [decode_model(data) for data in shown.models]
    for name, x in tried.items() if models else ():
        scores = [METRICS[study.score.metric](x.labels, learner.predict(model, x.features)) for model in models]
        run.scores[names[name]] = float(np.mean(scores))
    return run


def _deviation(n: Noticed) -> Deviation:
    return Deviation(
        state=n.state,
        kind=n.kind,
        sign=n.sign,
        round_number=n.number,
        since_round=n.number,
        edge=n.edge,
        edges=n.edges,
        score=n.score,
        threshold=n.threshold,
    )
