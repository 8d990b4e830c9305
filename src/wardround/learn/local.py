"""An edge's half of a strategy: one training as the study's rule asks, from what the edge keeps to what it keeps next.

Pure: model, kept tensors and examples in; update and kept tensors out. What is kept belongs to one update: it becomes the
edge's own only when the hub has said that the update counts (learn/participant.py), so a control variate never moves for an
update that was lost, and a kill at any moment leaves the one or the other.

Kept tensors: `control.NAME` (SCAFFOLD's c_i), `slope.NAME` (FedDyn's g_k), `private.NAME` (what stays), `personal.NAME` (the
edge's own model). The papers are named in the strategies' files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from wardround.learn.learners import Learner, Pull, Trained
from wardround.learn.models import CONTROL_PREFIX, Parameters, Tensor, is_buffer, is_trained, without_controls
from wardround.learn.study import LearnerSettings, LocalRule
from wardround.records import Examples

SLOPE, PRIVATE, PERSONAL = "slope.", "private.", "personal."


@dataclass(frozen=True, slots=True)
class Local:
    """What a training at an edge gives: `update` goes to the hub, `kept` stays."""

    update: Parameters
    examples: int
    metrics: dict[str, float]
    kept: Parameters


def private_names(rule: LocalRule, names: Sequence[str]) -> frozenset[str]:
    """Tensors that stay at their edge: trained ones, and what follows its batches."""
    return frozenset(n for n in names if not is_buffer(n) and any(fnmatchcase(n, pattern) for pattern in rule.private))


def sent_names(rule: LocalRule, names: Sequence[str]) -> frozenset[str]:
    """The tensors of an update, given those of its base model."""
    return frozenset(n for n in names if not is_buffer(n)) - private_names(rule, names)


def train_locally(
    learner: Learner,
    settings: LearnerSettings,
    rule: LocalRule,
    base: Parameters,
    kept: Mapping[str, Tensor],
    examples: Examples,
    *,
    round_number: int,
) -> Local:
    """Train once.

    Raises:
        LearnError: as Learner.train.
    """
    model = without_controls(base)
    stay = private_names(rule, list(model))
    start = {**model, **{n: kept[PRIVATE + n] for n in stay if PRIVATE + n in kept}}
    trainable = {n: t for n, t in start.items() if is_trained(n)}
    pull = _pull(rule, base, kept, trainable)
    trained = learner.train(start, examples, seed=settings.seed, round=round_number, pull=pull)
    update = {n: t for n, t in trained.update.items() if n not in stay}
    keep: Parameters = {PRIVATE + n: start[n] + trained.update[n] for n in sorted(stay)}
    if rule.controls:
        changes = _control_changes(settings, base, trained)
        own = {n: kept.get(CONTROL_PREFIX + n, np.zeros_like(t)) for n, t in trainable.items()}
        keep |= {CONTROL_PREFIX + n: own[n] + changes[n] for n in trainable}
        update |= {CONTROL_PREFIX + n: changes[n] for n in trainable}
    if rule.dynamic:
        old = {n: kept.get(SLOPE + n, np.zeros_like(t)) for n, t in trainable.items()}
        keep |= {SLOPE + n: old[n] - np.float32(rule.dynamic) * trained.update[n] for n in trainable}
    metrics = dict(trained.metrics)
    if rule.personal:
        personal = _personal(learner, settings, rule, model, kept, examples, round_number)
        keep |= {PERSONAL + n: t for n, t in personal.items()}
        probabilities = learner.predict({**model, **personal}, examples.features)
        labelled = examples.labels >= 0
        metrics["personal_accuracy"] = float(np.mean(probabilities.argmax(axis=1)[labelled] == examples.labels[labelled]))
    return Local(update, trained.examples, metrics, keep)


def personal_model(base: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> Parameters:
    """The edge's own model: the shared one with what it keeps of its own in place of it."""
    model = without_controls(base)
    for prefix in (PRIVATE, PERSONAL):
        model |= {n: kept[prefix + n] for n in model if prefix + n in kept}
    return model


def _pull(rule: LocalRule, base: Parameters, kept: Mapping[str, Tensor], trainable: Parameters) -> Pull | None:
    if rule.controls:  # g - c_i + c
        slope = {n: base[CONTROL_PREFIX + n] - kept.get(CONTROL_PREFIX + n, np.zeros_like(t)) for n, t in trainable.items()}
        return Pull(slope=slope)
    if rule.dynamic:  # the gradient of -<g_k, w> + alpha/2 ||w - w_t||^2
        return Pull(rule.dynamic, slope={n: -kept.get(SLOPE + n, np.zeros_like(t)) for n, t in trainable.items()})
    return Pull(rule.proximal) if rule.proximal else None


def _control_changes(settings: LearnerSettings, base: Parameters, trained: Trained) -> Parameters:
    """c_i+ - c_i = -c + (x - y) / (K eta), option II."""
    by = np.float32(trained.steps * settings.learning_rate)
    return {n: -base[CONTROL_PREFIX + n] - t / by for n, t in trained.update.items() if is_trained(n)}


def _personal(
    learner: Learner,
    settings: LearnerSettings,
    rule: LocalRule,
    model: Parameters,
    kept: Mapping[str, Tensor],
    examples: Examples,
    round_number: int,
) -> Parameters:
    """The trainable tensors of the edge's own model after this round."""
    shared = {n: t for n, t in model.items() if not is_buffer(n)}
    if rule.personal == "ditto":
        start = {n: kept.get(PERSONAL + n, t) for n, t in shared.items()}
        pull: Pull | None = Pull(rule.personal_pull, towards=shared)
    else:
        start, pull = shared, None
    trained = learner.train(
        {**model, **start}, examples, seed=settings.seed + 1, round=round_number, pull=pull, epochs=rule.personal_epochs
    )
    return {n: start[n] + t for n, t in trained.update.items()}
