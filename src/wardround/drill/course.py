"""The course of a drill: for every seed a run without a fault, then one for each fault; fresh healthy runs, where wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from wardround.drill.faults import Fault
from wardround.drill.outcome import Drilled, look_at
from wardround.drill.run import Run, play
from wardround.drill.synthetic import SyntheticWards, synthetic_study
from wardround.drill.wards import OwnWards, Wards
from wardround.learn.privacy.modes import PrivacySettings, check_privacy
from wardround.learn.study import Study
from wardround.rehearsal.data import Population

FROM_ROUND = 120
ROUNDS_AFTER = 80  # of the fault
FRESH_SEEDS = 1_000_000  # where the seeds of healthy runs begin: no fault run has had them


@dataclass(frozen=True, slots=True)
class Plan:
    """A study and its wards, by seed."""

    study: Callable[[int], Study]
    wards: Callable[[int], Wards]
    metric: str
    words: str


def synthetic_plan(rounds: int, mode: str = "clear") -> Plan:
    """The drill's own study, in a mode of `[privacy]`.

    Raises:
        StudyError: it cannot be had in that mode.
    """
    words = "the drill's own study: 40 synthetic wards" + (f", {mode}" if mode != "clear" else "")

    def study(seed: int) -> Study:
        plain = synthetic_study(rounds, seed)
        return plain if mode == "clear" else msgspec.structs.replace(plain, privacy=PrivacySettings(mode=mode))

    check_privacy(study(0))
    return Plan(study, SyntheticWards, "accuracy", words)


def own_plan(study: Study, population: Population, classes: int, metric: str, rounds: int) -> Plan:
    """An operator's study; a seed decides how it trains, who is struck, and who stays away."""

    def seeded(seed: int) -> Study:
        learner = msgspec.structs.replace(study.learner, seed=seed)
        return msgspec.structs.replace(study, learner=learner, rounds=msgspec.structs.replace(study.rounds, count=rounds))

    return Plan(seeded, lambda _: OwnWards(population, classes), metric, f"{study.name}: {population.source}")


@dataclass
class Course:
    """A drill, run by run."""

    plan: Plan
    faults: Sequence[Fault]
    seeds: Sequence[int]
    from_round: int = FROM_ROUND
    healthy_rounds: int = 0
    done: Drilled = field(init=False)

    def __post_init__(self) -> None:
        self.done = Drilled(self.from_round, list(self.faults))

    @property
    def rounds(self) -> int:
        """Of all runs together."""
        each = self.plan.study(0).rounds.count
        return each * len(self.seeds) * (1 + len(self.faults)) + each * self._fresh(each)

    def _fresh(self, each: int) -> int:
        return -(-self.healthy_rounds // each)

    def run(self) -> Iterator[Run]:
        """Every round of every run.

        Raises:
            LearnError: as Fleet.run.
        """
        for seed in self.seeds if self.faults else ():
            calm: Run | None = None
            for calm in self._play(None, seed):
                yield calm
            for fault in self.faults:
                run: Run | None = None
                for run in self._play(fault, seed):
                    yield run
                if run is not None and calm is not None:
                    self.done.outcomes.append(look_at(run, calm))
        for i in range(self._fresh(self.plan.study(0).rounds.count)):
            run = None
            for run in self._play(None, FRESH_SEEDS + i):
                yield run
            if run is not None:
                self.done.add_healthy(run)

    def _play(self, fault: Fault | None, seed: int) -> Iterator[Run]:
        study, wards = self.plan.study(seed), self.plan.wards(seed)
        return play(study, wards, self.plan.metric, fault, from_round=self.from_round, seed=seed)
