"""A blind study drilled: what edges see of themselves is seen, and what an attacker does not say is not."""

from __future__ import annotations

import msgspec
import pytest

from wardround.drill.catalogue import FAULTS
from wardround.drill.course import synthetic_plan
from wardround.drill.own_eyes import ATTACKS
from wardround.drill.run import play
from wardround.drill.synthetic import SyntheticWards, synthetic_study
from wardround.errors import StudyError
from wardround.learn.privacy.modes import PrivacySettings
from wardround.watch.own_watch import own_signs

FROM, ROUNDS = 26, 32
OWN = frozenset(own_signs())


def drilled(name, mode="blind"):
    study = msgspec.structs.replace(synthetic_study(ROUNDS, 0), privacy=PrivacySettings(mode=mode))
    return list(play(study, SyntheticWards(0, 10), "accuracy", FAULTS[name], from_round=FROM, seed=0))[-1]


@pytest.mark.parametrize(("fault", "by"), [("scaling", "own-norm"), ("nan", "not-finite")])
def test_a_machine_at_fault_finds_itself_out_and_sits_out(fault, by):
    run = drilled(fault)
    seen = {(s.edge, s.detector) for s in run.sightings if s.number >= FROM}
    assert {(edge, by) for edge in run.struck} <= seen
    assert {edge for edge, detector in seen if edge and detector in OWN} == run.struck
    assert {edge for edge, at in run.aside.items() if at >= FROM} == run.struck
    assert not any(s.number < FROM for s in run.sightings)


def test_an_attacker_says_nothing_and_the_hub_sees_nothing_of_it():
    run = drilled("alie")
    assert not any(s.edge for s in run.sightings)
    assert not run.aside


def test_edges_of_a_clear_study_leave_it_to_their_hub():
    run = drilled("scaling", mode="clear")
    assert not any(s.detector in OWN for s in run.sightings)
    assert any(s.edge in run.struck for s in run.sightings)


def test_a_drill_in_a_mode_that_cannot_be_had_is_refused():
    with pytest.raises(StudyError, match="groups"):
        synthetic_plan(10, "blind-groups")


def test_attacks_are_faults():
    assert set(ATTACKS) <= set(FAULTS)
