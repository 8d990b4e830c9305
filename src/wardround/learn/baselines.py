"""The two references of a federated score: a model of one edge's data alone, and one of all data in one place."""

from __future__ import annotations

import msgspec

from wardround.learn.learners import Learner, make_learner
from wardround.learn.models import Parameters
from wardround.learn.scaling import with_scaling
from wardround.learn.study import LearnerSettings, TaskShape
from wardround.records import Examples

EPOCHS = 10  # chosen by leaving out training subjects: more makes the pooled model worse on people it has not seen


def train_alone(
    task: TaskShape, settings: LearnerSettings, examples: Examples, *, seed: int, epochs: int = EPOCHS
) -> tuple[Learner, Parameters]:
    """A learner and its model of these examples and no others, scaled by their own statistics.

    Raises:
        LearnError: no example is labelled.
    """
    learner = make_learner(msgspec.structs.replace(settings, epochs=epochs), len(task.feature_names), len(task.classes))
    model = with_scaling(learner.initial(seed), learner.statistics(examples), class_weighting=settings.class_weighting)
    update = learner.train(model, examples, seed=seed, round=1).update
    return learner, {name: tensor + update[name] if name in update else tensor for name, tensor in model.items()}
