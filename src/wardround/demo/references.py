"""The two references a federated score stands between: each edge alone, and all data in one place.

Only a rehearsal on one machine can compute them, as it alone may look into every edge's local store. Same features, same
learner, same number of passes over the data as the federated model had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wardround.learn.learners import Learner, Parameters
from wardround.learn.scaling import fold_sums, with_scaling
from wardround.learn.scores import METRICS
from wardround.learn.study import Study
from wardround.records import Examples, concatenate


def train_alone(learner: Learner, study: Study, examples: Examples) -> Parameters:
    """A model from one set of examples: scaling from its own sums, then as many rounds as the study has."""
    sums = fold_sums([learner.statistics(examples)])
    model = with_scaling(learner.initial(study.learner.seed), sums, class_weighting=study.learner.class_weighting)
    for number in range(1, study.rounds.count + 1):
        update = learner.train(model, examples, seed=study.learner.seed, round=number).update
        model = {name: tensor + update[name] if name in update else tensor for name, tensor in model.items()}
    return model


def reference_scores(
    learner: Learner, study: Study, metric: str, edges: Mapping[str, Examples], held_back: Examples
) -> tuple[dict[str, float], float]:
    """The score of each edge alone, and of all of them pooled."""

    def score(examples: Examples) -> float:
        return METRICS[metric](held_back.labels, learner.predict(train_alone(learner, study, examples), held_back.features))

    alone = {name: score(examples) for name, examples in edges.items() if len(examples) >= study.rounds.examples_min}
    parts: Sequence[Examples] = list(edges.values())
    return alone, score(concatenate(parts, parts[0].feature_names))


def trainable(examples: Examples, held_back: frozenset[str]) -> Examples:
    """The labelled examples of subjects that may train."""
    may = np.array([str(s) not in held_back for s in examples.subjects], bool)
    return examples.where(may & (examples.labels >= 0))
