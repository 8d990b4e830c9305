"""Liars cost a mean its score, and less where something looks at them; a blind hub has nothing that could."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from wardround.attacks.poisoning import ATTACKERS, RULES, Defence, chosen_attackers, defences, poison, runs
from wardround.attacks.target import in_mode, smallest_sum
from wardround.drill.faults import Scene, flat
from wardround.errors import StudyError
from wardround.learn.models import MemoryTensors
from wardround.learn.privacy.accounting import Release, epsilon
from wardround.learn.privacy.modes import GROUP_STRATEGIES
from wardround.learn.virtual_edges import Made


def played(target, mode, attackers, rules, share=0.3):
    plan = {"attackers": chosen_attackers(attackers), "shares": [share], "rules": rules, "seeds": [1]}
    found = list(poison(target, mode, **plan))
    assert len(found) == runs(target, mode, len(plan["attackers"]), 1, rules, 1)
    return {(r.defence, r.attack): r for r in found}


def test_a_mean_falls_to_scaled_lies_a_median_does_not_and_screens_find_them(wards):
    found = played(wards, "clear", "scaling,overweight", ("fedavg", "coordinate-median"))
    mean, screened, median = Defence("fedavg", False), Defence("fedavg", True), Defence("coordinate-median", False)
    assert found[mean, ""].struck == 0
    assert found[mean, "overweight"].struck == 3
    assert found[mean, ""].score - found[mean, "overweight"].score > 0.1
    assert found[median, ""].score - found[median, "overweight"].score < 0.1
    assert found[mean, "scaling"].score < found[median, "scaling"].score + 0.05
    assert found[screened, "scaling"].struck_aside > 0


def test_a_blind_hub_has_the_mean_alone_and_no_screens(wards):
    assert defences(wards, "blind") == [Defence("fedavg", False)]
    assert defences(wards, "clear-dp") == [Defence("fedavg", False)]
    assert defences(wards, "clear") == [Defence(rule, screened) for rule in RULES for screened in (False, True)]
    found = played(wards, "blind", "overweight", RULES)
    (bare,) = {d for d, _ in found}
    assert found[bare, ""].score - found[bare, "overweight"].score > 0.1
    assert found[bare, "overweight"].struck_aside == 0


def test_the_new_attackers_do_what_their_papers_say():
    rng = np.random.default_rng(0)
    made = {f"e{i}": Made(MemoryTensors({"w": rng.normal(size=4).astype(np.float32)}), 10) for i in range(5)}
    scene = Scene(0, 1, 0, frozenset({"e0", "e1"}), 2, np.zeros(1), np.ones(1))
    honest = np.mean([flat(made[e]) for e in ("e2", "e3", "e4")], axis=0)
    turned = ATTACKERS["inner-product"].updates(scene, made)
    assert set(turned) == {"e0", "e1"}
    assert flat(turned["e1"]) @ honest < 0
    np.testing.assert_allclose(flat(turned["e0"]), -1.5 * honest, rtol=1e-6)
    heavy = ATTACKERS["overweight"].updates(scene, made)["e1"]
    assert heavy.examples == 10_000
    np.testing.assert_allclose(flat(heavy), -flat(made["e1"]))


def test_groups_need_as_many_edges_as_a_rule_compares_and_get_a_rule_that_does(wards):
    with pytest.raises(StudyError, match="10 edges are too few for `blind-groups`"):
        in_mode(wards, "blind-groups")
    edges = {f"{name}-{i}": e for name, e in wards.population.edges.items() for i in range(3)}
    many = replace(wards, population=replace(wards.population, edges=edges))
    study = in_mode(many, "blind-groups")
    assert (study.strategy.name, study.rounds.edges_min) == ("trimmed-mean", 30)
    assert smallest_sum(study) == 10
    assert {d.rule for d in defences(many, "blind-groups")} == set(GROUP_STRATEGIES)


def test_a_study_gets_the_noise_that_its_rounds_need_to_stay_within_the_target(wards):
    made = in_mode(wards, "clear-dp")
    own = made.privacy
    assert own.population == 10
    spent = [epsilon({Release(z): made.rounds.count}, own.delta) for z in (own.noise, own.noise / 1.02)]
    assert spent[0] <= own.target_epsilon < spent[1]
    written = replace(wards, study=msgspec.structs.replace(made, privacy=msgspec.structs.replace(own, noise=50.0)))
    assert in_mode(written, "clear-dp").privacy.noise == 50.0  # whose study is in that mode has settled it


def test_a_study_that_weighs_its_classes_does_not_where_counts_would_be_a_release(wards):
    learner = msgspec.structs.replace(wards.study.learner, class_weighting="balanced")
    weighed = replace(wards, study=msgspec.structs.replace(wards.study, learner=learner))
    found = {mode: in_mode(weighed, mode).learner.class_weighting for mode in ("clear", "clear-dp", "blind", "blind-dp")}
    assert found == {"clear": "balanced", "clear-dp": "none", "blind": "balanced", "blind-dp": "none"}


def test_an_attacker_that_is_none_is_refused():
    with pytest.raises(StudyError, match="no attacker 'gossip'"):
        chosen_attackers("scaling,gossip")
    assert len(chosen_attackers("all")) == len(ATTACKERS) == 10
