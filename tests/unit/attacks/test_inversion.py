"""Updates are read where mathematics says so, and what a blind hub sees is not; with the numbers of a case that is known."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from wardround.attacks import inversion
from wardround.attacks.inversion import ALL_ROWS, Case, closed_form, invert_updates, nearest
from wardround.learn.learners.jax_inversion import invert
from wardround.learn.learners.jax_learner import JaxLearner
from wardround.learn.study import LearnerSettings
from wardround.records import Examples

pytestmark = pytest.mark.timeout(240)  # of networks that are compiled
FAST = (Case(1, whole=False), Case(ALL_ROWS, whole=False))


def results(target, mode, monkeypatch, cases=FAST, search=0, trials=4):
    monkeypatch.setattr(inversion, "CASES", cases)
    found = [r for r in invert_updates(target, mode, trials=trials, steps=search, seed=0) if r is not None]
    return {(r.seen, r.attack, r.case.rows): r for r in found}


def test_a_clear_hub_reads_a_lone_example_and_a_blind_one_does_not(wards, monkeypatch):
    clear, blind = results(wards, "clear", monkeypatch), results(wards, "blind", monkeypatch)
    read = clear["the update", "closed form", 1]
    assert read.result().value == 1.0
    assert read.by_chance == 0
    assert max(read.errors) < 0.1
    masked, summed = blind["the masked update", "closed form", 1], blind["the sum of 3 edges", "closed form", 1]
    assert masked.hits == 0
    assert min(masked.errors) > 0.5
    assert summed.hits < read.hits
    whole = clear["the update", "closed form", ALL_ROWS]
    assert whole.rows > 100
    assert whole.result().value < 0.05


@pytest.mark.parametrize("turned", [False, True], ids=["ours", "torch"])
def test_the_first_layer_of_an_update_gives_the_inputs_that_alone_move_a_unit(turned):
    rng = np.random.default_rng(0)
    rows, errors = rng.normal(size=(2, 7)), np.array([[0.5, 0.0, 0.0], [0.0, -0.2, 0.0]])
    weight = rows.T @ errors
    update = {
        "net.0.weight": weight.T if turned else weight,
        "net.0.bias": errors.sum(axis=0),
        "net.2.weight": rng.normal(size=(3, 2)),
    }
    guesses = closed_form(update, 7)
    assert guesses is not None
    np.testing.assert_allclose(guesses, rows)
    assert closed_form({"conv.weight": rng.normal(size=(3, 7, 5))}, 7) is None
    assert nearest(guesses, rows).max() < 1e-12
    assert np.isinf(nearest(np.empty((0, 7)), rows)).all()


def test_the_search_finds_rows_that_no_ratio_gives():
    """Of two rows one moves no unit alone: its ratios are means of both. The search finds it all the same."""
    rng = np.random.default_rng(4)
    settings = LearnerSettings(hidden=(16,), epochs=1, batch=4, learning_rate=0.1, momentum=0.0, l2=0.0)
    learner = JaxLearner(settings, 5, 2)
    base = learner.initial(0)
    base["layer1.weight"] = rng.normal(size=base["layer1.weight"].shape).astype(np.float32)
    examples = Examples(
        features=rng.normal(size=(2, 5)).astype(np.float32),
        labels=np.zeros(2, np.int32),
        subjects=np.array(["a", "b"]),
        t_us=np.zeros(2, np.int64),
        feature_names=tuple("abcde"),
    )
    update = learner.train(base, examples, seed=0, round=1).update
    ratios = closed_form(update, 5)
    assert ratios is not None
    assert nearest(ratios, examples.features).max() > 0.5
    told = {"seed": 0, "round": 1, "steps": 500}
    found = [nearest(invert(learner, base, update, examples.labels, **told, guess_seed=g), examples.features) for g in range(4)]
    assert min(errors.max() for errors in found) < 0.05


def test_a_strategy_that_keeps_tensors_at_the_edge_shows_the_others_alone(wards, monkeypatch):
    own = msgspec.structs.replace(wards.study.strategy, name="fedbn", private=("layer0.bias",))
    found = results(replace(wards, study=msgspec.structs.replace(wards.study, strategy=own)), "clear", monkeypatch)
    assert found == {}  # no bias travels, so there is no ratio; and no search was asked for
