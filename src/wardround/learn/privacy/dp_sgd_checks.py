"""Which studies can train with DP-SGD: what would go past its noise is refused by name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wardround.errors import LearnError, StudyError

if TYPE_CHECKING:
    from wardround.learn.study import Study, TrainingSettings

KINDS = ("mlp", "cnn", "tcn", "gru", "torch")
DP_SGD = "learner.dp_sgd is asked for"
# All that the hub does with updates comes after the noise; these ask edges for more than their noisy updates, or train besides.
WHY_NOT = {
    "qfedavg": "its weights are the edges' losses, which would be shown without noise",
    "ditto": "edges train a second model on the same examples, which nobody has accounted for",
    "fine-tuning": "edges train a second model on the same examples, which nobody has accounted for",
    "fltrust": "the hub's own update would be as noisy as those it judges",
}


def check_dp_sgd(study: Study) -> None:
    """Whether a study's edges can train with noise as it asks for; nothing where it asks for none.

    Raises:
        StudyError: the first thing that is not sound, and what to do.
    """
    own, learner = study.learner.dp_sgd, study.learner
    said = f"learner.dp_sgd.noise is {own.noise:g}"
    _check(math.isfinite(own.noise) and own.noise >= 0, said, "choose 0 (none), or 0.05 to 1e4")
    if not own.on:
        return
    _between("learner.dp_sgd.noise", own.noise, 0.05, 1e4)
    _between("learner.dp_sgd.clip", own.clip, 1e-6, 1e6)
    _between("learner.dp_sgd.epsilon_max", own.epsilon_max, 1e-3, 1e4)
    _between("learner.dp_sgd.delta", own.delta, 1e-15, 0.01)
    _check(
        learner.kind in KINDS,
        f"{DP_SGD} and learner.kind is `{learner.kind}`: its library gives no gradient of a single example",
        f"choose one of: {', '.join(KINDS)}",
    )
    _check(
        learner.class_weighting == "none",
        f"{DP_SGD} and learner.class_weighting is `{learner.class_weighting}`: its weights would be counts without noise",
        'choose learner.class_weighting = "none"',
    )
    name = study.strategy.name
    _check(
        name not in WHY_NOT,
        f"{DP_SGD} and strategy.name is `{name}`: {WHY_NOT.get(name, '')}",
        "choose another strategy, such as fedavg, fedprox or coordinate-median",
    )
    _check(
        not study.watch.row_counts,
        f"{DP_SGD} and watch.row_counts is on: histograms of an edge's rows would be shown without noise",
        "set watch.row_counts = false",
    )
    _check(
        not study.privacy.by_patient,
        f'{DP_SGD} and privacy.unit is "patient": noise in each step and noise over patients would both be paid for',
        'choose the one or the other; privacy.unit = "edge" goes with it',
    )


def check_order(settings: TrainingSettings) -> None:
    """The edge's own look at an order, whatever the hub has checked: nothing of what it asks for goes past the noise.

    Raises:
        LearnError: something would; nothing may be trained.
    """
    learner, rule = settings.learner, settings.rule
    past = {
        "learner.kind": learner.kind not in KINDS,
        "learner.class_weighting": learner.class_weighting != "none",
        "a second model": bool(rule.personal),
        "counts of rows": settings.row_counts,
        "a sum over patients": settings.patient_clip > 0,
    }
    found = [name for name, asked in past.items() if asked]
    if found:
        raise LearnError(
            f"the order asks for DP-SGD, and for what goes past its noise: {', '.join(found)}",
            remedy="check the study with `wardround study check`",
        )


def _check(holds: bool, what: str, remedy: str) -> None:
    if not holds:
        raise StudyError(what, remedy=remedy)


def _between(key: str, value: float, low: float, high: float) -> None:
    _check(math.isfinite(value) and low <= value <= high, f"{key} is {value:g}", f"choose a value from {low:g} to {high:g}")
