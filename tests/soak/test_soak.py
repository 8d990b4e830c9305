"""A sample of the soak, and its count: `make soak` plays 200 edges for 30 minutes."""

from __future__ import annotations

import pytest
from tests.soak.edges import STEP_US
from tests.soak.soak import Load, Outcome, Sample, Soak, count

from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.records import Observation

SMALL = Load(8.0, edges=12, devices=4, processes=3, period_s=0.5, sample_s=0.5, fault_s=(0.2, 1.0), away_s=(0.1, 0.6))
GROWTH_MAX = 1.0  # a hub that has just started still grows


@pytest.mark.timeout(300)
def test_a_small_soak_loses_nothing_and_no_round_sticks(tmp_path):
    outcome = Soak(tmp_path, SMALL).play()
    assert outcome.breaches(GROWTH_MAX) == [], outcome.table(GROWTH_MAX)
    assert set(outcome.faults) == {"edges killed", "hub killed", "link cut"}
    assert outcome.stored >= outcome.sent > 0


def outcome(*rss: int, **found: int) -> Outcome:
    """With these samples, one a second, of a sound run."""
    made = Outcome(Load(len(rss)), [Sample(s, 1, mb, 0, 0) for s, mb in enumerate(rss)], sent=9, stored=9, rounds=9)
    for name, value in found.items():
        setattr(made, name, value)
    return made


def test_growth_is_of_the_second_half_alone():
    assert outcome(*range(1, 11), *[100] * 10).growth() == 0
    assert outcome(*[100] * 10, *range(100, 110)).growth() == pytest.approx(8 / 100.5, abs=0.001)


def test_every_limit_is_a_breach_when_it_is_broken():
    assert outcome(*[100] * 20).breaches(0.05) == []
    assert len(outcome(*[100] * 10, *range(100, 200, 10)).breaches(0.05)) == 1
    for name in ("lost", "duplicated", "refused", "stuck"):
        assert len(outcome(*[100] * 20, **{name: 1}).breaches(0.05)) == 1
    for name in ("sent", "rounds"):
        assert len(outcome(*[100] * 20, **{name: 0}).breaches(0.05)) == 1
    assert len(outcome().breaches(0.05)) == 2, "nothing was weighed"


def test_the_count_sees_what_the_lake_lacks_and_what_it_has_twice(tmp_path):
    def observation(number: int) -> Observation:
        t_us = number * STEP_US
        return Observation(
            subject="P", device="d", edge="e", code="loinc:8867-4", unit="/min", t0_us=t_us, t0_device_us=t_us,
            t_edge_us=t_us, value=60.0, device_boot="b", device_seq=number,
        )  # fmt: skip

    lake = Lake(tmp_path)
    lake.append(BRONZE, observation_rows((observation(k), "b", k, 0) for k in (1, 2, 2, 4, 5)), app="test", version=1)
    assert count(lake, {"d": 2}, 0) == (5, 0, 1)
    assert count(lake, {"d": 4, "silent": 0}, 0) == (5, 1, 1), "of the fifth there was no receipt yet"
    assert count(lake, {"d": 2, "other": 3}, 0) == (5, 3, 1)
