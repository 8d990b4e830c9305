"""Vital signs by the minute."""

from __future__ import annotations

import numpy as np
import pytest

from wardround.process.transforms.vitals import vital_windows
from wardround.records import Observation, Validity

MINUTE = 60_000_000
T0 = 28_333_333 * MINUTE


def reading(value, t_us, code="loinc:8867-4", subject="s", **more) -> Observation:
    return Observation(
        subject=subject, device="d", edge="e", code=code, unit="/min", t0_us=t_us, t0_device_us=t_us, value=value, **more
    )


def test_mean_low_high_and_count_by_minute():
    w = vital_windows([reading(v, T0 + s * 1_000_000) for s, v in [(0, 60), (30, 70), (59, 80), (60, 100), (200, 50)]])
    assert w.t_us.tolist() == [T0, T0 + MINUTE, T0 + 3 * MINUTE]
    assert w.mean.tolist() == [70, 100, 50]
    assert w.low.tolist() == [60, 100, 50]
    assert w.high.tolist() == [80, 100, 50]
    assert w.count.tolist() == [3, 1, 1]


def test_order_of_arrival_makes_no_difference_to_the_last_bit():
    rng = np.random.default_rng(0)
    readings = [
        reading(float(v), T0 + int(t)) for v, t in zip(rng.normal(70, 9, 500), rng.integers(0, 5 * MINUTE, 500), strict=True)
    ]
    a = vital_windows(readings)
    rng.shuffle(readings)
    b = vital_windows(readings)
    assert a.mean.tobytes() == b.mean.tobytes()
    assert a.count.sum() == 500


def test_subjects_and_signals_are_kept_apart_and_others_ignored():
    w = vital_windows(
        [
            reading(60, T0, subject="b"),
            reading(97, T0, "loinc:59408-5", subject="a"),
            reading(61, T0, subject="a"),
            reading(0.5, T0, "mdc:131330", subject="a"),
        ]
    )
    assert list(zip(w.subjects.tolist(), w.codes.tolist(), w.mean.tolist(), strict=True)) == [
        ("a", "loinc:59408-5", 97.0),
        ("a", "loinc:8867-4", 61.0),
        ("b", "loinc:8867-4", 60.0),
    ]


def test_a_run_of_samples_counts_each():
    values = np.array([60, 62, 64, 66], "<i2")
    run = Observation(
        subject="s",
        device="d",
        edge="e",
        code="loinc:8867-4",
        unit="/min",
        t0_us=T0 + 50_000_000,
        t0_device_us=0,
        n=4,
        period_us=5e6,
        values=values.tobytes(),
    )
    w = vital_windows([run])
    assert (w.mean.tolist(), w.count.tolist()) == ([61, 65], [2, 2])


def test_invalid_values_are_left_out_and_questionable_ones_are_not():
    w = vital_windows(
        [
            reading(60, T0),
            reading(0, T0 + 1, validity=Validity.INVALID),
            reading(float("nan"), T0 + 2),
            reading(62, T0 + 3, validity=Validity.QUESTIONABLE),
        ]
    )
    assert (w.mean.tolist(), w.count.tolist()) == ([61], [2])


def test_nothing_gives_no_rows():
    assert len(vital_windows([])) == 0


def test_a_window_has_a_length():
    with pytest.raises(ValueError, match="window"):
        vital_windows([], window_us=0)
