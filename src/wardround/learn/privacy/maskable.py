"""Whether the updates of a learner can be masked, asked before a study begins and not by each edge in its first round."""

from __future__ import annotations

from wardround.errors import StudyError
from wardround.learn.learners import EXTRAS, make_learner
from wardround.learn.local import sent_names
from wardround.learn.strategies import make_strategy
from wardround.learn.study import Study


def check_maskable(study: Study, n_features: int, n_classes: int) -> None:
    """Whether every tensor that an edge would send is of floating point: whole numbers have no mean that could be rounded.

    Raises:
        StudyError: one is not; or as make_learner.
    """
    if not study.privacy.mode.startswith("blind") or study.learner.kind not in EXTRAS:  # what we have written ourselves is
        return
    model = make_learner(study.learner, n_features, n_classes).initial(study.learner.seed)
    sent = sent_names(make_strategy(study.strategy, study.learner).rule, list(model))
    whole = sorted(name for name in sent if model[name].dtype.kind != "f")
    if whole:
        own = study.learner.module or study.learner.kind
        raise StudyError(
            f"privacy.mode is `{study.privacy.mode}` and tensor `{whole[0][:60]}` of {own} holds {model[whole[0]].dtype}: "
            "whole numbers cannot be masked",
            remedy='let them stay at their edge (strategy.name = "fedbn", strategy.private), or leave them out of the model',
        )
