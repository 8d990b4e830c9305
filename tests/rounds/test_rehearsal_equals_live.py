"""A rehearsal and the live study, side by side: real processes over mutual TLS, and virtual edges, give the same models.

Same study, edges, examples and seed; a part of the edges is asked in each round. The live side trains with the product's training
worker, journals, screens and folds as a hub does; nothing of the rehearsal is in it.
"""

from __future__ import annotations

import numpy as np
import pytest
from tests.rounds.programs import World

from wardround.learn.blobs import FolderBlobs
from wardround.learn.fleet import Fleet
from wardround.learn.journal import model_name
from wardround.learn.learners import jax_learner, make_learner
from wardround.learn.messages import Done, Order
from wardround.learn.models import decode_model, with_controls
from wardround.learn.strategies import make_strategy
from wardround.learn.study import Study, TrainingSettings, encode_training, features_digest, parse_study
from wardround.learn.trainer import Source, Work, Worker
from wardround.records import Examples
from wardround.watch.detectors.screens import Screens

FEATURES, CLASSES = 6, 3
SIZES = {"edge-1": 15, "edge-2": 40, "edge-3": 64, "edge-4": 65, "edge-5": 130}
NAMES = tuple(f"f{i}" for i in range(FEATURES))
STUDY = """\
name = "same"
task = "activity"
[learner]
hidden = [5]
epochs = 2
batch = 8
momentum = 0.0
learning_rate = 0.05
seed = 3
class_weighting = "balanced"
[rounds]
count = 7
edges_min = 2
edges_max = 3
examples_min = 5
deadline_s = 120.0
[score]
held_back = 0.0
[strategy]
name = "{strategy}"
"""


def examples_of(edge: str, _task: str) -> Examples:
    """An edge's own examples; as worker sources are, called with (home, task)."""
    n = SIZES[edge]
    rng = np.random.default_rng(n)
    labels = rng.choice(CLASSES, n, p=rng.dirichlet(np.ones(CLASSES)))
    centres = np.random.default_rng(99).normal(size=(CLASSES, FEATURES)) * 2
    return Examples(
        features=(centres[labels] + rng.normal(size=(n, FEATURES)) + 0.3 * rng.normal(size=FEATURES)).astype(np.float32),
        labels=labels.astype(np.int32),
        subjects=np.full(n, edge),
        t_us=np.arange(n, dtype=np.int64),
        feature_names=NAMES,
    )


class Real:
    """The study as a hub gives it to its edges, trained by their worker."""

    loaded = jax_learner  # imported once, before processes are forked

    shape = (FEATURES, CLASSES)
    worker = Worker()

    def settings(self, study: Study) -> bytes:
        return encode_training(
            TrainingSettings(
                task=study.task,
                learner=study.learner,
                score=study.score,
                examples_min=study.rounds.examples_min,
                features=features_digest(NAMES),
                classes=CLASSES,
                rule=make_strategy(study.strategy, study.learner).rule,
                compression=study.compression,
            )
        )

    def initial(self, study: Study):
        model = make_learner(study.learner, *self.shape).initial(study.learner.seed)
        return with_controls(model) if make_strategy(study.strategy, study.learner).rule.controls else model

    def train(self, edge: str, order: Order, model: bytes, kept: bytes) -> Done:
        source = Source("tests.rounds.test_rehearsal_equals_live:examples_of", edge, edge)
        return self.worker.run(Work(source, order.task, order.settings, model, order.round_number, kept))


real = Real()


@pytest.mark.timeout(360)
@pytest.mark.parametrize(("strategy", "zstd"), [("fedavg", "false"), ("scaffold", "false"), ("fedadam", "true")])
def test_a_rehearsal_gives_the_models_of_the_live_study(tmp_path, strategy, zstd):
    text = STUDY.format(strategy=strategy) + f"[compression]\nzstd = {zstd}\n"
    with World(tmp_path, text, list(SIZES), train_s=0.0, parts="tests.rounds.test_rehearsal_equals_live:real") as world:
        assert world.wait(world.finished, 150)
    live = world.journal().committed()
    study = parse_study(text, where="test")
    edges = {name: examples_of(name, study.task) for name in SIZES}
    for screen in (Screens("test"), None):  # every update by itself, and sums alone where the strategy needs no more
        fleet = Fleet(study, edges, classes=CLASSES, screen=screen)
        rehearsed = list(fleet.run())
        assert [set(r.participants) for r in rehearsed] == [set(c.folded) for c in live[1:]]
        assert {len(r.participants) for r in rehearsed} == {3}
        models = [fleet.first_model(), *(r.model for r in rehearsed)]
        for done, model in zip(live, models, strict=True):
            found = decode_model(FolderBlobs(tmp_path / "study").read(model_name(done.model)))
            assert set(found) == set(model)
            for name, tensor in found.items():
                np.testing.assert_allclose(model[name], tensor, atol=1e-5, err_msg=f"round {done.number}, {name}")
