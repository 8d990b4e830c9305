"""An edge's watch of its own update: what it finds, what leaves it quiet, and that a restart changes nothing."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from wardround.row_counts import input_counts
from wardround.watch.calibration import HEALTHY_ROUNDS
from wardround.watch.detectors.own_update import DIRECTION, GAIN, NORM
from wardround.watch.detectors.seen import EdgeSeen
from wardround.watch.detectors.updates import DIMENSIONS, Sketched, unit
from wardround.watch.own_watch import NOT_FINITE, SITS_OUT_MAX, OwnWatch, own_signs

WAY = np.random.default_rng(99).normal(size=DIMENSIONS)


def a_round(rng, number, *, scale=1.0, flip=1.0, noise=False, loss=0.0, moved=0.0, gain=None):
    """An edge's round: its update points much one way, less so as training comes to its end, and lowers the loss a little."""
    size = math.exp(-number / 60) + 0.3
    own = rng.normal(size=DIMENSIONS) * 0.7
    vector = (own if noise else flip * (WAY * size + own)) * scale
    before = 0.5 + 0.5 * math.exp(-number / 20) + 0.02 * rng.normal()
    change = -0.04 * size * (1 + 0.2 * rng.normal()) if gain is None else gain
    rows = rng.normal(size=(128, 2))
    rows[:, 0] += moved
    return EdgeSeen(
        examples=100,
        loss=before + loss,
        inputs=input_counts(rows, np.zeros(2), np.ones(2)),
        update=Sketched(unit(vector), float(np.linalg.norm(vector)), 10_000),
        tried_before=before,
        tried_after=before * (1 + change),
    )


def played(seed, rounds, watch=None, first=1):
    rng, watch = np.random.default_rng(seed), watch or OwnWatch("c")
    looked = [watch.look(number, a_round(rng, number)) for number in range(first, first + rounds)]
    return watch, rng, looked


def test_healthy_edges_seldom_find_anything_and_calibrate():
    found = []
    for seed in range(10):
        watch, _, looked = played(seed, 300)
        found += [look.found for look in looked if look.found]
        assert watch.calibration().calibrated
        assert watch.calibration().rounds == HEALTHY_ROUNDS
    assert len(found) <= 6, found  # of 3,000 rounds: the budget of one edge alone


@pytest.mark.parametrize(
    ("fault", "by"),
    [
        ({"scale": 10.0}, NORM),
        ({"noise": True}, DIRECTION),
        ({"flip": -1.0}, DIRECTION),
        ({"gain": 0.4}, GAIN),
        ({"gain": float("nan")}, GAIN),
        ({"loss": 0.4}, "loss"),
    ],
    ids=["scaling", "noise", "sign-flip", "worse", "no-number", "labels"],
)
def test_an_edge_finds_its_own_fault_and_sits_the_round_out(fault, by):
    seen = []
    for seed in range(3):
        watch, rng, _ = played(seed, 60)
        looked = [watch.look(number, a_round(rng, number, **fault)) for number in range(61, 67)]
        seen.append(any(look.sits_out == by for look in looked))
    assert seen == [True] * 3


def test_an_update_that_is_far_too_long_is_found_in_the_fourth_round():
    watch, rng, _ = played(0, 3)
    assert watch.look(4, a_round(rng, 4, scale=10.0)).sits_out == NORM


def test_other_patients_are_said_and_sat_out_by_nobody():
    watch, rng, _ = played(1, 60)
    looked = [watch.look(number, a_round(rng, number, moved=1.5)) for number in range(61, 75)]
    assert any("inputs" in look.found for look in looked)
    assert {look.sits_out for look in looked} == {""}


def test_values_that_are_no_numbers_are_found_without_a_past_and_teach_nothing():
    watch = OwnWatch("c")
    looked = watch.look(1, EdgeSeen(), finite=False)
    assert (looked.sits_out, looked.found) == (NOT_FINITE, (NOT_FINITE,))
    assert watch.calibration().rounds_seen == 0
    watch, rng, _ = played(0, 30)
    assert watch.look(31, EdgeSeen(), finite=False).sits_out == NOT_FINITE
    assert watch.look(32, a_round(rng, 32)).sits_out == ""


def test_an_attempt_after_values_that_are_no_numbers_is_looked_at_as_any_other():
    watch, rng, _ = played(0, 30)
    assert watch.look(31, EdgeSeen(), finite=False).sits_out == NOT_FINITE
    again = watch.look(31, a_round(rng, 31, scale=10.0))
    assert NORM in again.scores
    assert again.sits_out == NORM


def test_what_lasts_for_too_long_is_the_new_usual():
    watch, rng, _ = played(2, 60)
    out = [bool(watch.look(number, a_round(rng, number, scale=10.0)).sits_out) for number in range(61, 61 + SITS_OUT_MAX + 20)]
    assert out[:SITS_OUT_MAX] == [True] * SITS_OUT_MAX
    assert not any(out[SITS_OUT_MAX:])


def test_a_round_that_nobody_can_end_is_over_all_the_same():
    """Where most edges sit out, the hub tries the round again and again: an attempt counts as a round does."""
    watch, rng, _ = played(2, 60)
    seen = a_round(rng, 61, scale=10.0)
    out = [bool(watch.look(61, seen).sits_out) for _ in range(SITS_OUT_MAX + 1)]
    assert out == [True] * SITS_OUT_MAX + [False]


def test_a_restart_between_any_two_rounds_changes_no_answer():
    whole, _, expected = played(3, 90)
    rng, watch, found = np.random.default_rng(3), OwnWatch("c"), []
    for number in range(1, 91):
        found.append(watch.look(number, a_round(rng, number)))
        again = OwnWatch("c")
        assert again.restore(watch.state())
        watch = again
    assert found == expected
    assert watch.look(90, EdgeSeen()) == expected[-1]  # the same round again
    assert msgspec.msgpack.decode(watch.state())["number"] == 90
    assert whole.calibration() == watch.calibration()


def test_another_configuration_or_spoilt_state_begins_anew():
    watch, _, _ = played(4, 30)
    assert not OwnWatch("other").restore(watch.state())
    assert not OwnWatch("c").restore(watch.state()[:50])
    assert not OwnWatch("c").restore(b"\x80")


def test_a_study_that_was_started_anew_has_no_past():
    watch, rng, _ = played(5, 60)
    watch.look(1, a_round(rng, 1))
    assert watch.calibration().rounds_seen == 1


def test_every_sign_has_a_shipped_threshold():
    assert all(sign.default > 0 for sign in own_signs().values())
