"""A drill's fleet goes back to an older model: the rounds that follow are those that followed it then."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from wardround.drill.synthetic import SyntheticWards, synthetic_study
from wardround.errors import LearnError
from wardround.learn.fleet import Fleet
from wardround.learn.study import StrategySettings

WARDS = SyntheticWards(0, 6)
EXAMPLES = WARDS.examples(0)


class Onlooker:
    """A drill's place in the fleet, of which it makes no use."""

    def stays_away(self, number, edge, attempt):
        return False

    def seconds(self, number, edge, usual):
        return usual

    def examples(self, number, edges):
        return {e: EXAMPLES[e] for e in edges}

    def updates(self, number, base, made):
        return {}

    def step_factor(self, number):
        return 1.0


def a_fleet(rule):
    given = msgspec.structs.replace(synthetic_study(14, 0), strategy=StrategySettings(name=rule))  # full batches:
    return Fleet(given, EXAMPLES, classes=WARDS.classes, interference=Onlooker())  # a round depends on its model, not its number


def same(one, other):
    return all(np.allclose(one[n], other[n], atol=1e-5) for n in one)


@pytest.mark.parametrize("rule", ["fedavg", "fedavgm", "scaffold"])
def test_a_fleet_goes_back_to_a_model_and_what_was_remembered_with_it(rule):
    fleet, other = a_fleet(rule), a_fleet(rule)
    course, beside = fleet.run(), other.run()
    done = [next(course) for _ in range(12)]
    fleet.roll_back(9)
    again = next(course)
    for _ in range(9):
        last = next(beside)
    assert same(last.model, done[8].model)
    if rule == "scaffold":  # halves of different times would bend every later step: both begin anew
        other.roll_back(9)
    assert again.number == 13
    assert same(again.model, next(beside).model)
    assert not same(again.model, done[11].model)
    assert rule != "scaffold" or not same(again.model, done[9].model)


def test_what_is_not_kept_cannot_be_gone_back_to():
    fleet = a_fleet("fedavg")
    course = fleet.run()
    for _ in range(12):
        next(course)
    for gone in (0, 2, 13):
        with pytest.raises(LearnError, match="is not kept"):
            fleet.roll_back(gone)
    fleet.roll_back(3)
