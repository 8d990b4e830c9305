"""What all studies together have cost each patient of one edge: the edge alone knows who that is, so it alone can keep count.

A ledger (chain.py) in the edge's home, on its disk before a training looks at an example. A line is one training: which noisy
sums each patient's examples go into (accounting.Exposure), by groups of patients that have the same. Patients are named by a
digest of their pseudonym, as in the audit log. What came to nothing is paid for all the same: who saw it is not known here.

An exposure is what the noise that the order names makes of it. DP-SGD: each example by a coin of its own, in every step. With
`clear-dp` and unit patient: one Gaussian a round, of the hub's noise. With unit edge, and `blind-dp`: the edge's update is
clipped as a whole, and without the patient it is another one, which moves the sum by two clips: half the noise. Chance by which
the hub draws edges is not counted on: a patient pays when the edge was drawn. Where DP-SGD and one of these meet, DP-SGD alone is
paid for: all that follows sees nothing but its noisy updates.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from wardround.clock import SystemClock
from wardround.errors import LearnError
from wardround.learn.learners.dp_sgd import steps_of
from wardround.learn.privacy.accounting import Exposure, Figure, exposed
from wardround.learn.privacy.chain import ChainFile, Line, read_lines
from wardround.learn.study import TrainingSettings
from wardround.records import Examples

NAME = "patients.ledger"
REMEDY = (
    "put the file back from a backup that is no older than the last training; to move it away forgets what patients have spent"
)
LEFT_OUT = "patients_left_out"  # among an update's metrics: a count, and no more
TRIES = 32  # to leave out whom the others' larger share has taken over the bound

Spent = Mapping[Exposure, int]


class Bound(NamedTuple):
    """What studies may spend of one patient of this edge; `epsilon` 0: there is no bound."""

    epsilon: float = 0.0
    delta: float = 1e-6


NO_BOUND = Bound()


class Group(msgspec.Struct, frozen=True):
    """Patients with the same exposure in one training."""

    exposure: Exposure
    times: int
    patients: tuple[str, ...]


class Training(Line, frozen=True, omit_defaults=True):
    """One training. `again`: the groups are those of this study's training before."""

    study: str
    round: int
    t_us: int
    groups: tuple[Group, ...] = ()
    again: bool = False


def name_of(subject: str) -> str:
    """What stands for a patient: half of SHA-256, hex."""
    return hashlib.sha256(b"wardround patient budget\0" + subject.encode()).hexdigest()[:32]


def exposures(settings: TrainingSettings, examples: Examples) -> dict[str, tuple[Exposure, int]]:
    """What a training on these examples costs each patient of theirs, by name_of; empty where no noise hides anybody."""
    own = settings.learner.dp_sgd
    if own.on:
        subjects, counts = np.unique(examples.subjects[examples.labels < settings.classes], return_counts=True)
        steps = steps_of(settings.learner, max(1, int(counts.sum())))
        return {
            name_of(str(s)): (Exposure(own.noise, steps.rate, int(n)), steps.number)
            for s, n in zip(subjects, counts, strict=True)
        }
    if settings.patient_noise > 0:
        return {name_of(str(s)): (Exposure(settings.patient_noise), 1) for s in np.unique(examples.subjects)}
    return {}


def has_noise(settings: TrainingSettings) -> bool:
    """Whether noise bounds what a study spends of a patient."""
    return settings.learner.dp_sgd.on or settings.patient_noise > 0


def admit(home: Path, settings: TrainingSettings, examples: Examples, bound: Bound) -> tuple[Examples, int]:
    """The examples of those who may train within the bound, and how many patients are left out.

    Raises:
        LearnError: the study adds no noise, so that it would spend without a bound.
        StudyError: the ledger does not hold.
    """
    if not bound.epsilon:
        return examples, 0
    if not has_noise(settings):
        raise LearnError(no_noise(), remedy="give the study noise, or the edge no bound")
    out, spent = set[str](), histories(trainings(home))
    names = {str(s): name_of(str(s)) for s in np.unique(examples.subjects)}
    for _ in range(TRIES):
        left = examples.where(np.array([names[str(s)] not in out for s in examples.subjects], bool))
        costs = exposures(settings, left)
        over = {n for n, (exposure, times) in costs.items() if _over(spent.get(n, {}), exposure, times, bound)}
        if not over:
            return left, len(out)
        out |= over
    raise LearnError("whom this study may train on was not settled", remedy="raise privacy.patient_epsilon_max, or leave it out")


def no_noise() -> str:
    """Why an edge with a bound declines a study without noise."""
    return "no noise bounds what this one spends of a patient, and this edge does (privacy.patient_epsilon_max)"


def _over(spent: Spent, exposure: Exposure, times: int, bound: Bound) -> bool:
    after = Counter(spent)
    after[exposure] += times
    return exposed(after, bound.delta, bound.epsilon).epsilon > bound.epsilon


def pay(home: Path, study: str, round_number: int, costs: Mapping[str, tuple[Exposure, int]]) -> None:
    """Write down what a training is about to cost each patient. When this returns it is on the disk.

    Raises:
        StorageFull, StudyError: as ChainFile.
    """
    found: dict[tuple[Exposure, int], list[str]] = {}
    for name, cost in sorted(costs.items()):
        found.setdefault(cost, []).append(name)
    groups = tuple(Group(exposure, times, tuple(names)) for (exposure, times), names in sorted(found.items()))
    ledger = ChainFile(home / NAME, Training, REMEDY)
    try:
        before = next((t for t in reversed(ledger.entries) if t.study == study and not t.again), None)
        again = before is not None and before.groups == groups
        ledger.append(Training(study=study, round=round_number, t_us=_now_us(), groups=() if again else groups, again=again))
    finally:
        ledger.close()


def trainings(home: Path) -> list[Training]:
    """The edge's ledger, with the groups of each training said; it may be in use.

    Raises:
        StudyError: it does not hold.
    """
    try:
        data = (home / NAME).read_bytes()
    except FileNotFoundError:
        return []
    found, newest = list[Training](), dict[str, tuple[Group, ...]]()
    for entry in read_lines(data, Training, str(home / NAME), REMEDY)[0]:
        newest[entry.study] = newest.get(entry.study, ()) if entry.again else entry.groups
        found.append(msgspec.structs.replace(entry, groups=newest[entry.study]))
    return found


def histories(entries: Iterable[Training], studies: Collection[str] | None = None) -> dict[str, Counter[Exposure]]:
    """What each patient has spent, by name_of; in these studies alone, if some are named."""
    found: dict[str, Counter[Exposure]] = {}
    for entry in entries:
        if studies is not None and entry.study not in studies:
            continue
        for group in entry.groups:
            for name in group.patients:
                found.setdefault(name, Counter())[group.exposure] += group.times
    return found


def highest(spent: Iterable[Spent], delta: float) -> Figure:
    """Of those who have spent most. Whoever has a part of what another has is not looked at."""
    kinds = {frozenset(s.items()) for s in spent}
    found = Figure(0.0)
    for kind in sorted(kinds, key=lambda k: -sum(times * exposure.examples for exposure, times in k)):
        own = dict(kind)
        if any(other != kind and _within(own, dict(other)) for other in kinds):
            continue
        figure = exposed(own, delta)
        if figure.least:
            return figure
        found = max(found, figure)
    return found


def _within(spent: Spent, other: Spent) -> bool:
    """Whether each thing that was spent can be paired with one of the other's that cost as much or more."""
    left = Counter(other)
    for exposure, times in sorted(spent.items(), reverse=True):
        wanted = times
        for more in sorted(left, key=lambda e: e.examples):
            if more[:2] == exposure[:2] and more.examples >= exposure.examples:
                taken = min(wanted, left[more])
                left[more] -= taken
                wanted -= taken
        if wanted:
            return False
    return True


def _now_us() -> int:
    return SystemClock().now_us()
