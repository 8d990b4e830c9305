"""An edge's half of a study whose unit is a patient: each patient trains alone, is clipped, and is one term of the update.

The update is a *sum* over patients: one more or less moves it by the clip at most, whatever the others are. With JAX the patients
of an edge are trained in one compiled call, as virtual edges of a rehearsal are; with any other learner one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np

from wardround.errors import LearnError
from wardround.learn.learners import Learner, Pull
from wardround.learn.local import Local
from wardround.learn.models import Parameters, is_buffer
from wardround.learn.privacy.central import BY_PATIENT, PATIENTS, PATIENTS_MAX
from wardround.learn.study import LearnerSettings, LocalRule
from wardround.records import Examples

TOGETHER_BYTES = 128_000_000  # of updates that are held at a time


def train_by_patient(
    learner: Learner,
    settings: LearnerSettings,
    rule: LocalRule,
    base: Parameters,
    examples: Examples,
    *,
    clip: float,
    round_number: int,
) -> Local:
    """The sum of the patients' clipped updates; `patients` of the metrics is how many there are. Nothing is kept.

    A patient whose own training diverges counts as nothing: it must not take the others along.

    Raises:
        LearnError: there is no labelled example, or there are too many patients.
    """
    labelled = examples.where(examples.labels >= 0)
    patients = np.unique(labelled.subjects)
    if not 0 < len(patients) <= PATIENTS_MAX:
        raise LearnError(f"{len(patients)} patients have labelled examples", remedy=f"an edge may have 1 to {PATIENTS_MAX}")
    each = [labelled.where(labelled.subjects == p) for p in patients]
    total = {n: np.zeros(t.shape) for n, t in base.items() if not is_buffer(n)}
    for update in _updates(learner, settings, rule, base, each, round_number):
        norm = math.sqrt(sum(float(np.square(t, dtype=np.float64).sum()) for t in update.values()))
        if not math.isfinite(norm):
            continue
        scale = min(1.0, clip * BY_PATIENT / norm) if norm else 1.0
        for name, tensor in update.items():
            total[name] += tensor.astype(np.float64) * scale
    return Local({n: t.astype(base[n].dtype) for n, t in total.items()}, len(labelled), {PATIENTS: float(len(patients))}, {})


def _updates(
    learner: Learner,
    settings: LearnerSettings,
    rule: LocalRule,
    base: Parameters,
    each: Sequence[Examples],
    round_number: int,
) -> Iterator[Parameters]:
    """One for each patient, in order; none of those whose training failed."""
    from wardround.learn.learners.jax_learner import JaxLearner, Pool  # noqa: PLC0415 - two seconds, perhaps another learner's edge

    if not isinstance(learner, JaxLearner):
        pull = Pull(rule.proximal) if rule.proximal else None
        for own in each:
            with suppress(LearnError):
                yield learner.train(base, own, seed=settings.seed, round=round_number, pull=pull).update
        return
    most = max(1, TOGETHER_BYTES // max(1, sum(t.nbytes for t in base.values())))
    for start in range(0, len(each), most):
        some = each[start : start + most]
        pool = Pool(learner, some)
        many = learner.train_many(
            base, pool, range(len(some)), seed=settings.seed, round=round_number, pull=rule.proximal, each=True
        )
        for i in range(len(some)):
            yield {name: tensors[i] for name, tensors in many.update.items()}
