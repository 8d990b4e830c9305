"""The edge's half of the strategies: what is trained, what is sent, what stays."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.learn.test_fleet import CLASSES, FEATURES, edge

from wardround.learn.learners import Pull, make_learner
from wardround.learn.local import personal_model, sent_names, train_locally
from wardround.learn.models import with_controls, without_controls
from wardround.learn.study import LearnerSettings, LocalRule

SETTINGS = LearnerSettings(hidden=(5,), epochs=2, batch=8, momentum=0.0, learning_rate=0.05)
LEARNER = make_learner(SETTINGS, FEATURES, CLASSES)
BASE = LEARNER.initial(1)
EXAMPLES = edge(3, 50)
STEPS = 2 * 7


def go(rule, base=BASE, kept=None, number=1):
    return train_locally(LEARNER, SETTINGS, rule, base, kept or {}, EXAMPLES, round_number=number)


PLAIN = go(LocalRule())


def test_a_plain_rule_sends_the_update_and_keeps_nothing():
    assert set(PLAIN.update) == {"layer0.weight", "layer0.bias", "layer1.weight", "layer1.bias"}
    assert PLAIN.kept == {}
    assert PLAIN.examples == 50


def test_a_pull_holds_the_edge_near_its_start():
    lengths = [sum(float(np.square(t).sum()) for t in go(LocalRule(proximal=mu)).update.values()) for mu in (0.0, 0.5, 5.0)]
    assert lengths[0] > lengths[1] > lengths[2] > 0


def test_the_gradient_of_a_pull_is_what_it_says():
    one = LearnerSettings(hidden=(), epochs=1, batch=64, momentum=0.0, learning_rate=0.1, l2=0.0)
    learner = make_learner(one, FEATURES, CLASSES)
    base = {n: t + 0.1 if n.startswith("layer") else t for n, t in learner.initial(0).items()}
    weights = {n: t for n, t in base.items() if n.startswith("layer")}
    towards = {n: np.full_like(t, 0.7) for n, t in weights.items()}
    slope = {n: np.full_like(t, -0.3) for n, t in weights.items()}
    plain = learner.train(base, EXAMPLES, seed=0, round=1).update
    pulled = learner.train(base, EXAMPLES, seed=0, round=1, pull=Pull(2.0, towards, slope)).update
    for name, tensor in plain.items():
        np.testing.assert_allclose(pulled[name] - tensor, -0.1 * (2.0 * (weights[name] - 0.7) - 0.3), atol=1e-6)


def test_scaffolds_control_is_option_two_of_the_paper():
    rng = np.random.default_rng(0)
    base = with_controls(BASE)
    base |= {n: rng.normal(size=t.shape).astype(np.float32) * 0.01 for n, t in base.items() if n.startswith("control.")}
    kept = {n: 2 * t for n, t in base.items() if n.startswith("control.")}
    local = go(LocalRule(controls=True), base, kept)
    for name in PLAIN.update:
        moved = -base[f"control.{name}"] - local.update[name] / (STEPS * 0.05)
        np.testing.assert_allclose(local.update[f"control.{name}"], moved, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(local.kept[f"control.{name}"], kept[f"control.{name}"] + moved, rtol=1e-4, atol=1e-6)
    assert set(without_controls(base)) == set(BASE)


def test_scaffolds_control_is_the_mean_gradient_where_nothing_bends_it():
    local = go(LocalRule(controls=True), with_controls(BASE))
    for name, tensor in PLAIN.update.items():
        np.testing.assert_allclose(local.update[name], tensor, atol=1e-6)
        np.testing.assert_allclose(local.kept[f"control.{name}"], -tensor / (STEPS * 0.05), rtol=1e-4, atol=1e-6)


def test_feddyns_slope_is_the_sum_of_its_own_moves():
    rule = LocalRule(dynamic=0.2)
    first = go(rule)
    second = go(rule, kept=first.kept, number=2)
    for name in PLAIN.update:
        np.testing.assert_allclose(
            second.kept[f"slope.{name}"], -0.2 * (first.update[name] + second.update[name]), rtol=1e-4, atol=1e-6
        )


def test_private_tensors_stay_and_go_on_from_where_they_were():
    rule = LocalRule(private=("layer1.*",))
    first = go(rule)
    assert set(first.update) == {"layer0.weight", "layer0.bias"} == set(sent_names(rule, list(BASE)))
    second = go(rule, kept=first.kept, number=2)
    assert not np.allclose(second.kept["private.layer1.weight"], first.kept["private.layer1.weight"])
    own = personal_model(BASE, second.kept)
    np.testing.assert_array_equal(own["layer1.weight"], second.kept["private.layer1.weight"])
    np.testing.assert_array_equal(own["layer0.weight"], BASE["layer0.weight"])


@pytest.mark.parametrize("personal", ["ditto", "fine-tuning"])
def test_a_personal_model_changes_nothing_that_is_sent(personal):
    local = go(LocalRule(personal=personal, personal_pull=0.5, personal_epochs=3))
    for name, tensor in PLAIN.update.items():
        np.testing.assert_array_equal(local.update[name], tensor)
    assert {n.removeprefix("personal.") for n in local.kept} == set(PLAIN.update)
    assert 0 <= local.metrics["personal_accuracy"] <= 1


def test_a_strong_pull_keeps_the_personal_model_near_the_shared_one():
    rules = (LocalRule(personal="ditto", personal_pull=pull, personal_epochs=3) for pull in (10.0, 0.0))
    near, far = (go(rule).kept["personal.layer0.weight"] for rule in rules)
    assert np.linalg.norm(near - BASE["layer0.weight"]) < np.linalg.norm(far - BASE["layer0.weight"])
