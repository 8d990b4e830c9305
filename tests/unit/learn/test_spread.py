"""Trained in shares, over examples on disk, a fleet makes the model that it makes in one piece."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from tests.unit.learn.test_fleet import CLASSES, EDGES, Trusting, study

from wardround.learn.fleet import Fleet
from wardround.learn.spread import write_edges
from wardround.process.dask_runner import HereRunner
from wardround.rehearsal.workers import spread_over


class Travelling(HereRunner):
    """In this process, and everything that would travel to a worker does so as bytes."""

    def map(self, function, parts, uri, *arguments, **options):
        self.parts = pickle.loads(pickle.dumps(list(parts)))
        for outcome, part in zip(super().map(function, self.parts, uri, *arguments, **options), parts, strict=True):
            assert not outcome.error
            yield type(outcome)(part, result=pickle.loads(pickle.dumps(outcome.result)))


@pytest.mark.parametrize(
    ("strategy", "screen"),
    [("fedavg", None), ("fedavg", Trusting()), ("coordinate-median", None), ("scaffold", None), ("ditto", None)],
)
def test_shares_give_the_model_of_the_whole(tmp_path, strategy, screen):
    given = study(strategy, edges_max=4)
    whole = list(Fleet(given, EDGES, classes=CLASSES, screen=screen).run())
    runner = Travelling()
    spread = spread_over(runner, 3, str(tmp_path), given, CLASSES)
    mapped = write_edges(tmp_path, EDGES)
    shared = list(Fleet(given, mapped, classes=CLASSES, screen=screen, spread=spread).run())
    assert [r.participants for r in shared] == [r.participants for r in whole]
    assert len(runner.parts) == 2
    for name, tensor in whole[-1].model.items():
        np.testing.assert_allclose(shared[-1].model[name], tensor, atol=2e-5, err_msg=name)


def test_edges_on_disk_are_views_of_the_file(tmp_path):
    mapped = write_edges(tmp_path, EDGES)
    assert list(mapped) == list(EDGES)
    for name, examples in EDGES.items():
        np.testing.assert_array_equal(mapped[name].features, examples.features)
        np.testing.assert_array_equal(mapped[name].labels, examples.labels)
        assert not mapped[name].features.flags.owndata
        assert mapped[name].feature_names == examples.feature_names
