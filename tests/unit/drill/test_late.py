"""Edges that join a drill's study late: with a trial, noise never gets into the model, and honest wards do."""

from __future__ import annotations

import msgspec
import pytest

from wardround.drill.meddling import Meddling
from wardround.drill.synthetic import SyntheticWards, synthetic_study
from wardround.drill.update_faults import Noise
from wardround.learn.fleet import Fleet
from wardround.watch.detectors.screens import Screens

JOIN, TRIAL, ROUNDS = 8, 8, 19


class JoinsLate(Meddling):
    """Three wards begin in round JOIN, and are at fault from their first update on, if there is a fault."""

    def stays_away(self, number, edge, attempt):
        return edge in self.late and number < JOIN

    def __init__(self, wards, fault):
        super().__init__(wards, wards.names, fault, from_round=JOIN, seed=0)
        self.late = self.struck = frozenset(wards.names[4:7])


def counted(fault):
    """The first round in which each late ward is in the model, and who else was ever set aside."""
    study, wards = synthetic_study(ROUNDS, 0), SyntheticWards(0, edges=20)
    study = msgspec.structs.replace(study, triage=msgspec.structs.replace(study.triage, trial_rounds=TRIAL))
    meddling = JoinsLate(wards, fault)
    screens = Screens("late", trial_rounds=TRIAL)
    fleet = Fleet(study, wards.examples(0), classes=wards.classes, screen=screens, interference=meddling)
    first, others = {}, set()
    for done in fleet.run():
        for edge in meddling.late & set(done.participants):
            first.setdefault(edge, done.number)
        others |= set(done.aside) - meddling.late
    return first, others, meddling.late


@pytest.mark.parametrize("fault", [None, Noise()], ids=["honest", "noise"])
def test_a_late_ward_counts_after_its_trial_if_it_fits(fault):
    first, others, late = counted(fault)
    assert first == ({} if fault else dict.fromkeys(late, JOIN + TRIAL))
    assert others == set()
